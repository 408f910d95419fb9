"""The nearest of many vectors: dense ones exactly or by cells, sparse ones by lists of who has a coordinate."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np
from jaxtyping import Float, Int

_ROWS_PER_BLOCK = 65_536  # scored at once: 64 queries x 65,536 float32 = 16 MiB
_EXACT = 20_000  # up to so many rows, all are compared
_CELLS_TRIED = 16
_ROUNDS = 4  # of k-means: its cells only have to be near enough
_MAX_COORDINATES = 32  # of a query: its weightiest
_MAX_POSTINGS = 50_000  # read for one query
_RAREST = 4.6  # one row in a hundred: in a short list, a word that occurs once need not be a rare one
_MAX_SHARE = 0.2  # a coordinate that more rows have tells nothing


class SparseIndex:
    """Cosine of sparse vectors whose coordinates are weighed by how rare they are among the rows.

    Args:
        rows: coordinates of each row.
    """

    def __init__(self, rows: Sequence[Mapping[str, float]]) -> None:
        self._num = len(rows)
        holders = Counter(name for row in rows for name in row)
        most = max(2, _MAX_SHARE * self._num)
        self._rarity = {
            name: min(math.log(1 + self._num / held), _RAREST)
            for name, held in holders.items()
            if held <= most or self._num < 20
        }
        postings: dict[str, tuple[list[int], list[float]]] = {name: ([], []) for name in self._rarity}
        for number, row in enumerate(rows):
            weighed = self._weighed(row)
            norm = math.sqrt(sum(weight * weight for weight in weighed.values())) or 1.0
            for name, weight in weighed.items():
                postings[name][0].append(number)
                postings[name][1].append(weight / norm)
        self._postings = {
            name: (np.array(numbers, np.int64), np.array(weights)) for name, (numbers, weights) in postings.items()
        }

    def nearest(self, query: Mapping[str, float], num: int) -> tuple[list[int], list[float]]:
        """Rows with the largest cosine, best first, and their cosines. Rows that share no coordinate are left out.

        Args:
            query: coordinates of one vector.
            num: rows at most.
        """
        weighed = self._weighed(query)
        names = self._affordable(sorted(weighed, key=lambda name: (-weighed[name], name))[:_MAX_COORDINATES])
        if not names:
            return [], []
        norm = math.sqrt(sum(weighed[name] ** 2 for name in names))
        numbers = np.concatenate([self._postings[name][0] for name in names])
        products = np.concatenate([self._postings[name][1] * (weighed[name] / norm) for name in names])
        scores = np.bincount(numbers, products, minlength=self._num)
        repeated = num * len(names)  # a row is named once for each coordinate that it shares
        if len(numbers) > 2 * repeated:
            numbers = numbers[np.argpartition(-scores[numbers], repeated)[:repeated]]
        met = np.unique(numbers)
        order = np.lexsort((met, -scores[met]))[:num]
        return met[order].tolist(), scores[met[order]].tolist()

    def _affordable(self, names: list[str]) -> list[str]:
        """The weightiest coordinates whose lists together are short enough."""
        lengths = accumulate(len(self._postings[name][0]) for name in names)
        return [name for name, total in zip(names, lengths, strict=True) if total <= _MAX_POSTINGS] or names[:1]

    def _weighed(self, row: Mapping[str, float]) -> dict[str, float]:
        return {name: weight * self._rarity[name] for name, weight in row.items() if name in self._rarity}


class DenseIndex:
    """The largest inner products; of more than 20,000 rows, those in the cells nearest to the query.

    Args:
        rows: float32 [rows, dim], of length 1.
    """

    def __init__(self, rows: Float[np.ndarray, "rows dim"]) -> None:
        self._rows = rows
        self._centres = self._order = self._starts = None
        if len(rows) > _EXACT:
            self._centres, cells = _cells(rows, round(math.sqrt(len(rows))))
            self._order = np.argsort(cells, kind="stable")
            self._starts = np.searchsorted(cells[self._order], np.arange(len(self._centres) + 1))
            self._rows = rows[self._order]  # those of a cell side by side

    def nearest(self, queries: Float[np.ndarray, "queries dim"], num: int) -> Int[np.ndarray, "queries num"]:
        """Indices of rows, best first.

        Args:
            queries: float32 [queries, dim].
            num: rows per query.
        """
        if self._centres is None or self._order is None or self._starts is None:
            return nearest_rows(queries, self._rows, num)
        tried = nearest_rows(queries, self._centres, min(_CELLS_TRIED, len(self._centres)))
        found = np.empty((len(queries), num), np.int64)
        for number, query in enumerate(queries):
            places = np.concatenate([np.arange(self._starts[cell], self._starts[cell + 1]) for cell in tried[number]])
            scores = np.concatenate(
                [self._rows[self._starts[cell] : self._starts[cell + 1]] @ query for cell in tried[number]]
            )
            if len(places) < num:
                places, scores = np.arange(len(self._rows)), self._rows @ query
            found[number] = self._order[places[np.argsort(-scores, kind="stable")[:num]]]
        return found


def _cells(
    rows: Float[np.ndarray, "rows dim"], num: int
) -> tuple[Float[np.ndarray, "cells dim"], Int[np.ndarray, "rows"]]:
    """Centres of spherical k-means, and the cell of each row. The same rows give the same cells."""
    drawn = np.random.Generator(np.random.PCG64(0)).permutation(len(rows))
    sample, centres = rows[drawn[: 64 * num]], rows[drawn[:num]]
    for _ in range(_ROUNDS):
        cells = nearest_rows(sample, centres, 1)[:, 0]
        sums = np.zeros_like(centres)
        np.add.at(sums, cells, sample)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(lengths > 0, sums / np.maximum(lengths, 1e-12), centres)
    blocks = [nearest_rows(rows[start : start + 4096], centres, 1)[:, 0] for start in range(0, len(rows), 4096)]
    return centres, np.concatenate(blocks)


def nearest_rows(
    queries: Float[np.ndarray, "queries dim"], rows: Float[np.ndarray, "rows dim"], num: int
) -> Int[np.ndarray, "queries num"]:
    """Indices of the ``num`` rows with the largest inner product, best first, block by block.

    Of rows with equal products at the end of the list, any may be kept.

    Args:
        queries: float32 [queries, dim].
        rows: float32 [rows, dim].
        num: rows per query.
    """
    best_scores = np.empty((len(queries), 0), np.float32)
    best = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(rows), _ROWS_PER_BLOCK):
        scores = queries @ rows[start : start + _ROWS_PER_BLOCK].T
        kept = np.argpartition(-scores, min(num, scores.shape[1]) - 1, axis=1)[:, :num]
        best_scores = np.hstack((best_scores, np.take_along_axis(scores, kept, 1)))
        best = np.hstack((best, kept + start))
        order = np.argsort(-best_scores, axis=1, kind="stable")[:, :num]
        best_scores, best = np.take_along_axis(best_scores, order, 1), np.take_along_axis(best, order, 1)
    return best
