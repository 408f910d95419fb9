"""A small training problem: rows with ragged negatives, several positives, shared and duplicate texts."""

import json
from pathlib import Path

from qwen3emb_train.data.mixture import SourceConfig
from qwen3emb_train.models.loading import ModelConfig
from qwen3emb_train.models.precision import Precision
from qwen3emb_train.training.optimization import OptimizerConfig
from qwen3emb_train.training.train_embedding import TrainEmbeddingConfig

WORDS = ["list", "file", "path", "date", "sort", "join", "open", "read", "write", "split", "time", "sum"]


def write_rows(path: Path, num_rows: int = 24) -> Path:
    with path.open("w") as file:
        for i in range(num_rows):
            a, b, c = (WORDS[(i * k + k) % len(WORDS)] for k in (1, 5, 7))
            row: dict[str, object] = {
                "query": f"how to {a} a {b} {i % 20}?",
                "positives": [f"def {a}_{b}_{i}(): return {c}"],
            }
            if i % 5 == 0:
                row["positives"] = [f"def {a}_{b}_{i}(): return {c}", f"{a}s the {b}"]
            row["negatives"] = [f"def {c}_{n}(): pass" for n in range(i % 3)]
            file.write(json.dumps(row) + "\n")
    return path


def make_config(base: Path, rows: Path, output_dir: Path, /, **changes: object) -> TrainEmbeddingConfig:
    settings: dict[str, object] = {
        "model": ModelConfig(path=str(base)),
        "data": {"rows": SourceConfig(path=str(rows), instruction="Find it")},
        "optimizer": OptimizerConfig(lr=1e-3),
        "batch_size": 8,
        "steps": 6,
        "tokens_per_chunk": 100,
        "precision": Precision.fp32,
        "device": "cpu",
        "output_dir": str(output_dir),
        "cache_dir": str(output_dir.parent / "cache"),
    }
    return TrainEmbeddingConfig(**(settings | changes))  # type: ignore[arg-type]
