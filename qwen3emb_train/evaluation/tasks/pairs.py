"""Pairs of texts and their cosines."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64
from torch import Tensor

from qwen3emb_train.evaluation.tasks.reading import PAIR_COLUMNS, Line, find_file, read_lines

DECIMALS = 12  # so that rounding errors do not order pairs of equal texts


@dataclass(frozen=True)
class TextPairs:
    """Two columns of texts; row ``i`` of one is paired with row ``i`` of the other.

    Attributes:
        path: of the file.
        lines: as read; one for each pair.
        first, second: the columns.
    """

    path: Path
    lines: list[Line]
    first: list[str]
    second: list[str]

    @property
    def texts(self) -> Sequence[str]:
        """Of the first column, then of the second."""
        return [*self.first, *self.second]

    @property
    def ids(self) -> Sequence[str]:
        """Line numbers."""
        return [str(line.number) for line in self.lines]


def read_pairs(directory: Path, split: str, *more_columns: str) -> TextPairs:
    """``{split}.tsv`` or ``{split}.jsonl`` with sentence1, sentence2 and more columns.

    Args:
        directory: of the set.
        split: name of the file without its suffix.
        more_columns: after the two of every pair.

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
    """Cosine of each pair, rounded to 12 decimals; 0 where a vector is zero."""
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    products = (first * second).sum(axis=1)
    return np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0).round(DECIMALS)


def halves(
    vectors: Float[Tensor, "texts dim"],
) -> tuple[Float64[np.ndarray, "pairs dim"], Float64[np.ndarray, "pairs dim"]]:
    """The vectors of ``TextPairs.texts``, as float64: the first texts', the second texts'."""
    first, second = vectors.double().numpy().reshape(2, -1, vectors.shape[1])
    return first, second
