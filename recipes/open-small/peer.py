"""Stage 2 with sentence-transformers' trainer: same initial model, rows, batch size, steps, rate and precision.

    python recipes/open-small/peer.py --start MODEL_DIRECTORY --data DIRECTORY --seed 0 --output DIRECTORY

The initial model is exported to the Sentence-Transformers layout first. The loss is CachedMultipleNegativesRankingLoss
(temperature 0.02, same Matryoshka dims) with mini-batches of 4,096 tokens, its fastest setting on a CPU; the trainer is
SentenceTransformerTrainer with batches of one set each and no duplicates in a batch. Its own samplers make the batches:
the same number of examples, in another order.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

INSTRUCTIONS = {
    "nl2bash": "Given a description of a task, retrieve the shell command that performs it",
    "conala": "Given a programming intent, retrieve the Python snippet that implements it",
    "squad-sent": "Given a question, retrieve the sentence from an encyclopedia that answers it",
}
MAX_NEGATIVES, BATCH_SIZE, STEPS, LEARNING_RATE, DIMS, TEMPERATURE = 2, 48, 80, 2e-4, [576, 128], 0.02
MAX_QUERY_TOKENS, MAX_DOCUMENT_TOKENS = 64, 96


def main() -> None:
    arguments = parse()
    output = Path(arguments.output)
    if (output / "seconds.json").is_file():
        print(f"{output}: up to date")
        return
    export = output / "start"
    if not export.is_dir():
        exporting = [f"model={arguments.start}", f"output_dir={export}", "dtype=float32", "verify=false"]
        subprocess.run([sys.executable, "-m", "qwen3emb_train", "export", *exporting], check=True)
    train(str(export), Path(arguments.data), arguments.seed, output)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", required=True, help="a model directory of ours")
    parser.add_argument("--data", required=True, help="the directory of mined sets: NAME/examples.jsonl")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", required=True)
    return parser.parse_args()


def train(start: str, data: Path, seed: int, output: Path) -> None:
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss, MatryoshkaLoss

    model = SentenceTransformer(start)
    model.max_seq_length = MAX_DOCUMENT_TOKENS
    inner = CachedMultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE, mini_batch_num_tokens=4096)
    loss = MatryoshkaLoss(model, inner, matryoshka_dims=DIMS)
    settings = SentenceTransformerTrainingArguments(
        output_dir=str(output / "trainer"),
        max_steps=STEPS,
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.1},
        warmup_steps=0.05,
        weight_decay=0.01,
        max_grad_norm=1.0,
        bf16=True,
        use_cpu=True,
        seed=seed,
        batch_sampler="no_duplicates",
        multi_dataset_batch_sampler="proportional",
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = SentenceTransformerTrainer(
        model=model, args=settings, train_dataset={name: rows_of(name, data) for name in INSTRUCTIONS}, loss=loss
    )
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    model.save_pretrained(str(output / "model"))
    (output / "seconds.json").write_text(json.dumps({"seconds": seconds, "steps": STEPS}) + "\n")
    print(f"{output / 'model'}: {seconds:.0f} s")


def rows_of(name: str, data: Path) -> object:
    """Columns of queries with instruction, positives and hard negatives; rows with fewer negatives are skipped."""
    from datasets import Dataset

    columns: dict[str, list[str]] = {"query": [], "positive": []}
    columns |= {f"negative_{number}": [] for number in range(1, MAX_NEGATIVES + 1)}
    with (data / name / "examples.jsonl").open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if len(row.get("negatives", [])) < MAX_NEGATIVES:
                continue
            positive = row["positives"][0] if "positives" in row else row["positive"]
            query = f"Instruct: {INSTRUCTIONS[name]}\nQuery:{row['query']}"
            for column, text in zip(columns, [query, positive, *row["negatives"]], strict=False):
                columns[column].append(text)
    return Dataset.from_dict(columns)


if __name__ == "__main__":
    main()
