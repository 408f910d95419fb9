"""Pairs of texts, and how near the two are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64
from torch import Tensor

from qwen3emb_train.evaluation.tasks.reading import PAIR_COLUMNS, Line, find_file, read_lines

DECIMALS = 12  # pairs of equal texts are equally near, whatever the last bits say


@dataclass(frozen=True)
class TextPairs:
    """Two columns of texts: row ``i`` of one belongs to row ``i`` of the other."""

    path: Path
    lines: list[Line]
    first: list[str]
    second: list[str]

    @property
    def texts(self) -> Sequence[str]:
        return [*self.first, *self.second]

    @property
    def ids(self) -> Sequence[str]:
        """Line numbers."""
        return [str(line.number) for line in self.lines]


def read_pairs(directory: Path, split: str, *more_columns: str) -> TextPairs:
    """``{split}.tsv`` or ``{split}.jsonl`` with sentence1, sentence2 and more columns.

    Raises:
        FileNotFoundError, ValueError: see ``reading``.
    """
    path = find_file(directory, split, ".tsv", ".jsonl")
    lines = read_lines(path, *PAIR_COLUMNS, *more_columns)
    first, second = ([line.text(column) for line in lines] for column in PAIR_COLUMNS)
    return TextPairs(path, lines, first, second)


def cosines(
    first: Float64[np.ndarray, "pairs dim"], second: Float64[np.ndarray, "pairs dim"]
) -> Float64[np.ndarray, " pairs"]:
    """Of each pair; 0 where a vector is zero."""
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    products = (first * second).sum(axis=1)
    return np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0).round(DECIMALS)


def halves(
    vectors: Float[Tensor, "texts dim"],
) -> tuple[Float64[np.ndarray, "pairs dim"], Float64[np.ndarray, "pairs dim"]]:
    """The vectors of ``TextPairs.texts``, as float64: the first texts', the second texts'."""
    first, second = vectors.double().numpy().reshape(2, -1, vectors.shape[1])
    return first, second
