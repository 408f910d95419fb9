"""Texts, and the function that a child process runs until it is killed."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qwen3emb_train.index.embed_config import EmbedConfig
from qwen3emb_train.index.embed_texts import embed_texts

WORDS = ["fox", "dog", "list", "number", "Berlin", "web", "query", "lazy", "brown", "return"]


def make_texts(count: int) -> list[tuple[str, str]]:
    """Ids and texts of one to ten words."""
    return [(f"d{i}", " ".join(WORDS[(i * j + i) % 10] for j in range(1 + i % 10)) + f" {i}") for i in range(count)]


def embed_slowly(texts: list[tuple[str, str]], model: Path, directory: Path, settings: dict[str, Any]) -> None:
    """Texts come one by one, so that a test can choose when to kill."""

    def slow() -> Iterator[tuple[str, str]]:
        for pair in texts:
            time.sleep(0.03)
            yield pair

    embed_texts(slow(), str(model), directory, EmbedConfig(**settings))


def contents(directory: Path) -> dict[str, bytes]:
    """Every file of a store."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}
