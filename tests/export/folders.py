"""Exports for the tests, and what they damage in them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from qwen3emb_train.export.checks import Check, Status
from qwen3emb_train.export.sentence_transformers import ExportConfig, ExportDtype, export_model


def export(model: Path, output: Path, **settings: Any) -> Path:
    """In float32, for short texts unless told otherwise: verification encodes a lot."""
    given: dict[str, Any] = {"model": str(model), "output_dir": str(output), "dtype": ExportDtype.float32}
    return export_model(ExportConfig(**(given | {"max_tokens": 128} | settings)))


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def edit(path: Path, change: Callable[[Any], None]) -> None:
    value = read(path)
    change(value)
    path.write_text(json.dumps(value))


def edit_weights(directory: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(directory / "model.safetensors")
    change(weights)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def failures(checks: list[Check]) -> dict[str, str]:
    """Name -> detail of the failed checks."""
    return {check.name: check.detail for check in checks if check.status is Status.failed}


def least_cosine(vectors: torch.Tensor, expected: torch.Tensor) -> float:
    return torch.nn.functional.cosine_similarity(vectors.double(), expected.double()).min().item()
