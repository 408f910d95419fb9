"""Vectors that are read block by block, from memory or from disk."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class VectorRows(Protocol):
    """Vectors that can be read block by block, such as a ``VectorStore``."""

    @property
    def num_rows(self) -> int: ...

    @property
    def dim(self) -> int: ...

    def rows(self, start: int, stop: int) -> Tensor: ...

    def at(self, rows: Int[Tensor, " rows"]) -> Tensor: ...


class TensorRows:
    """A tensor as ``VectorRows``."""

    def __init__(self, vectors: Float[Tensor, "rows dim"]) -> None:
        self._vectors = vectors

    @property
    def num_rows(self) -> int:
        return len(self._vectors)

    @property
    def dim(self) -> int:
        return self._vectors.shape[1]

    def rows(self, start: int, stop: int) -> Float[Tensor, "rows dim"]:
        return self._vectors[start:stop]

    def at(self, rows: Int[Tensor, " rows"]) -> Float[Tensor, "rows dim"]:
        return self._vectors.index_select(0, rows)  # several times faster than [rows]


def longest_length(vectors: Float[Tensor, "rows dim"], name: str, first: int) -> float:
    """The largest norm.

    Args:
        vectors: to check.
        name: what they are, for error messages.
        first: row number of the first, for error messages.

    Raises:
        ValueError: one of them is not finite; names it by its row, counted from ``first``.
    """
    norms = vectors.double().norm(dim=1) if vectors.dtype is torch.float64 else vectors.float().norm(dim=1)
    if not norms.isfinite().all():
        bad = first + int((~norms.isfinite()).nonzero()[0])
        raise ValueError(f"{name}: vector {bad} is not finite. The model diverged, or its weights are damaged.")
    return float(norms.max()) if len(norms) else 0.0
