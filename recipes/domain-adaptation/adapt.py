"""Domain adaptation without labels: a settings file and documents -> an adapted embedding model.

    python recipes/domain-adaptation/adapt.py recipes/domain-adaptation/examples/medquad.yaml

Prints every command before running it, so that each can be run separately with changes. Restartable: finished steps
are skipped, synthesis and training continue where they stopped.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))
RECIPE = "recipes/domain-adaptation"


@dataclass
class Settings:
    """The settings file.

    Attributes:
        documents: a file or folder: JSONL with text (and title), Markdown, HTML, text, PDF, code.
        model: the embedding model to start from: a model directory or an export of ours.
        output_dir: gets all outputs; the adapted model is in ``export``.
        teacher: ``url`` and ``model`` of an OpenAI-compatible server; ``url: local`` starts SmolLM2-135M on this
            machine. Other keys of data_synth's ``teacher`` are allowed, too.
        prompts: directory of prompt templates; null = the shipped ones, for strong teachers.
        language: of the documents.
        instruction: prepended to each query.
        num_queries: number of passages, sampled at random, for which the teacher writes a query.
        use_titles: add title -> passage pairs to the training as weak supervision.
        passage_tokens: longest passage.
        steps, batch_size, lr: of the fine-tuning (LoRA).
        merge_share: weight of the adapted model in the merge with the original, 0 to 1.
        sets: judged sets for the comparison before/after: name -> {path, split, instruction}; may be empty.
        seed: of sampling and training.
    """

    documents: str
    model: str
    output_dir: str
    teacher: dict[str, str]
    prompts: str | None = None
    language: str = "en"
    instruction: str = "Given a question, retrieve the passage that answers it"
    num_queries: int = 2000
    use_titles: bool = True
    passage_tokens: int = 256
    steps: int = 200
    batch_size: int = 32
    lr: float = 5e-4
    merge_share: float = 0.5
    sets: dict[str, dict[str, Any]] = field(default_factory=dict)
    seed: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", type=Path, help="your YAML file; examples/medquad.yaml shows all that is needed")
    settings = read_settings(parser.parse_args().settings)
    os.chdir(ROOT)
    started = time.perf_counter()
    output = Path(settings.output_dir)
    titles = draw(settings, output)
    write_queries(settings, output)
    train(settings, output, titles)
    compare(settings, output)
    print(f"\nDone in {(time.perf_counter() - started) / 60:.1f} minutes. The model: {output / 'export'}")


def read_settings(path: Path) -> Settings:
    """Reads the settings file.

    Raises:
        SystemExit: a key is unknown or missing; names it.
    """
    import yaml

    given = yaml.safe_load(os.path.expandvars(path.read_text(encoding="utf-8")))  # ${NAME}: from the environment
    known = {item.name for item in fields(Settings)}
    if unknown := sorted(set(given) - known):
        sys.exit(f"{path}: unknown {unknown}; known: {', '.join(sorted(known))}.")
    if missing := sorted({"documents", "model", "output_dir", "teacher"} - set(given)):
        sys.exit(f"{path}: {missing} must be there.")
    if missing := sorted({"url"} - set(given["teacher"])):
        sys.exit(f"{path}: teacher needs {missing}: the address of an OpenAI-compatible server, or local.")
    for name in ("documents", "model", "output_dir", "prompts"):
        if isinstance(given.get(name), str):
            given[name] = os.path.expanduser(given[name])
    for chosen in (given.get("sets") or {}).values():
        if isinstance(chosen.get("path"), str):
            chosen["path"] = os.path.expanduser(chosen["path"])
    return Settings(**given)


def draw(settings: Settings, output: Path) -> Path | None:
    """Splits documents into passages, samples those that get a query, and writes title -> passage pairs."""
    from data_synth.documents import DocumentsConfig
    from data_synth.preparation import prepare_passages
    from qwen3emb_train.data.records import TrainingExample, write_examples
    from qwen3emb_train.lineage import write_text

    say("passages")
    sources = {
        "domain": DocumentsConfig(
            path=settings.documents, language=settings.language, max_tokens=settings.passage_tokens
        )
    }
    passages = list(prepare_passages(sources, None, output / "passages"))
    print(f"{len(passages):,} passages of {settings.documents}")
    rng = random.Random(settings.seed)
    drawn = rng.sample(passages, min(settings.num_queries, len(passages)))
    for name, chosen in (("drawn", drawn), ("corpus", passages)):  # a passage's text begins with its title
        rows = [{"_id": passage.id, "text": passage.text} for passage in chosen]
        write_text(output / f"{name}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    # The title is removed from the passage, or the model would only learn to match it.
    titled = {p.text.removeprefix(p.title).strip(): p.title for p in passages if p.title.strip()}
    if not (settings.use_titles and titled):
        return None
    pairs = [TrainingExample(query=title, positives=(text,), source="titles") for text, title in titled.items() if text]
    write_examples(output / "titles.jsonl", pairs)
    print(f"{len(pairs):,} title -> passage pairs")
    return output / "titles.jsonl"


def write_queries(settings: Settings, output: Path) -> None:
    """Synthesis, and the report's cosine filter on the result."""
    say("queries, written by the teacher")
    asking = [f"documents.drawn.path={output}/drawn.jsonl", f"documents.drawn.language={settings.language}"]
    asking += [f"documents.drawn.max_tokens={2 * settings.passage_tokens}", f"output_dir={output}/synthesized"]
    asking += [f"retrieval.instruction={settings.instruction}", f"retrieval.seed={settings.seed}"]
    if settings.prompts:
        # Own templates need not tell the length.
        asking += [f"retrieval.prompts={settings.prompts}", "filters.asked_length.enabled=false"]
    if (output / "synthesized" / "run.json").is_file():
        print(f"{output}/synthesized: up to date")
    else:
        with teacher(settings) as (url, model):
            more = [f"teacher.{key}={value}" for key, value in settings.teacher.items() if key not in ("url", "model")]
            run("data_synth", "0_synthesize", *asking, f"teacher.base_urls=[{url}]", f"teacher.model={model}", *more)
    say("selection: the pairs that the original model finds similar, too")
    run(
        "qwen3emb_train select_pairs", "1_select", f"model={settings.model}", f"output_dir={output}/selected",
        f"examples={output}/synthesized/retrieval/examples",
    )  # fmt: skip


@contextmanager
def teacher(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yields the server's address and the model's name; starts and stops the local server."""
    url, model = settings.teacher["url"], settings.teacher.get("model", "")
    if url != "local":
        yield url, model
        return
    server = subprocess.Popen(
        [sys.executable, "scripts/serve_smollm2.py", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        address = next((word for line in server.stdout for word in line.split() if word.startswith("http")), None)
        if address is None:
            sys.exit("the local teacher did not start; its message is above")
        yield address, "smollm2-135m-instruct"
    finally:
        server.terminate()
        server.wait()


def train(settings: Settings, output: Path, titles: Path | None) -> None:
    say("hard negatives, mined by the original model")
    run(
        "qwen3emb_train mine_negatives", "2_mine", f"model={settings.model}", f"corpus={output}/corpus.jsonl",
        f"examples={output}/selected/examples.jsonl", f"output_dir={output}/mined",
    )  # fmt: skip
    say("fine-tuning with LoRA")
    sources = [f"data.queries.path={output}/mined/examples.jsonl", f"data.queries.instruction={settings.instruction}"]
    if titles is not None:
        sources += [f"data.titles.path={titles}", f"data.titles.instruction={settings.instruction}"]
    run(
        "qwen3emb_train train_embedding", "3_finetune", *sources, f"model.path={settings.model}",
        f"output_dir={output}/finetuned", f"steps={settings.steps}", f"batch_size={settings.batch_size}",
        f"optimizer.lr={settings.lr}", f"seed={settings.seed}",
        f"lengths.max_document_tokens={settings.passage_tokens}",
    )  # fmt: skip
    say("merge with the original: slerp")
    run(
        "qwen3emb_train merge", None, f"models=[{settings.model},{output}/finetuned/model]",
        f"t={settings.merge_share}", f"output_dir={output}/merged",
    )  # fmt: skip
    say("export")
    run(
        "qwen3emb_train export", None, f"model={output}/merged", f"output_dir={output}/export", "dtype=float32",
        f"query_instruction={settings.instruction}",
    )  # fmt: skip


def compare(settings: Settings, output: Path) -> None:
    """Evaluates the original, adapted and merged model on the judged sets."""
    if not settings.sets:
        print("No judged sets are named: nothing is compared. sets: {mine: {path: DIRECTORY}} adds one (BEIR layout).")
        return
    say("before and after")
    models = {"original": settings.model, "adapted": f"{output}/finetuned/model", "merged": f"{output}/merged"}
    asked = [f"models.{name}={path}" for name, path in models.items()]
    for name, judged in settings.sets.items():
        asked += [f"sets.{name}.{key}={value}" for key, value in judged.items()]
    run(
        "qwen3emb_train evaluate", None, *asked, "baseline=original", f"max_tokens={settings.passage_tokens}",
        f"output_dir={output}/evaluation", f"cache_dir={output}/vectors",
    )  # fmt: skip
    run(
        "qwen3emb_train report", None, f"runs.finetuned={output}/finetuned",
        f"evaluations.comparison={output}/evaluation", f"output_dir={output}/report",
    )  # fmt: skip


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def run(program: str, config_name: str | None, *overrides: str) -> None:
    """Prints and runs a program; exits if it fails."""
    composed = ["--config-dir", RECIPE, "--config-name", config_name] if config_name else []
    command = [*program.split(), *composed, *overrides]
    print("python -m " + " ".join(f"'{word}'" if set(word) & set(" {[") else word for word in command), flush=True)
    result = subprocess.run([sys.executable, "-m", *command], check=False)
    if result.returncode:
        sys.exit(result.returncode)


if __name__ == "__main__":
    main()
