"""Exact nearest documents of many queries, block by block: the score matrix never exists as a whole.

The answer is the float64 ranking of the given vectors, and so the same for every block size, device, thread or rank:

1. Products in float32 find more documents than asked for. A product of ``dim`` terms is off by at most
   ``gamma * |q| * |d|`` with ``gamma = dim u / (1 - dim u)``, ``u = 2**-24`` (Higham, Accuracy and Stability of
   Numerical Algorithms, 3.1), in whatever order it was summed. So whoever scores twice that below the k-th is out.
2. Those left are scored again in float64 and put in order; scores that agree to 12 decimals go by row.
3. Where so many lie within the error that the spare places do not hold them (a corpus of copies, a model that gives all
   texts one vector), the query is searched again in float64 as a whole.
"""

import math
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_GROUP = 32  # columns that are known by their maximum: most need no closer look
_SPARE = 16  # places beyond k
_DECIMALS = 12  # of scores that count as equal


@runtime_checkable
class VectorRows(Protocol):
    """Vectors that can be read piece by piece, such as a ``VectorStore``."""

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


def top_k_documents(
    queries: Float[Tensor, "queries dim"],
    documents: Float[Tensor, "documents dim"] | VectorRows,
    k: int,
    block_elements: int = 2**24,
    device: torch.device | str = "cpu",
    num_documents: int | None = None,
) -> tuple[Float[Tensor, "queries kept"], Int[Tensor, "queries kept"]]:
    """The ``k`` largest inner products of every query, and the rows of their documents.

    Args:
        queries, documents: vectors; normalised, the products are cosines.
        k: documents for each query; all of them if there are fewer.
        block_elements: scores held at once. 2**24 float32 are 64 MiB, and the work on them about half as much again.
        device: where the blocks are multiplied. Vectors and results stay on the CPU.
        num_documents: search only the first so many rows; None = all.

    Returns:
        Scores and row numbers, best first; ``kept = min(k, documents)``.

    Raises:
        ValueError: k or block_elements is below 1, or a vector is not finite (NaN has no place in an order).
    """
    if k < 1 or block_elements < 1:
        raise ValueError(f"k={k} and block_elements={block_elements} must be at least 1.")
    source = TensorRows(documents) if isinstance(documents, Tensor) else documents
    total = source.num_rows if num_documents is None else min(num_documents, source.num_rows)
    documents_per_block = max(1, min(total, 2 * math.isqrt(block_elements), block_elements))
    if documents_per_block > _GROUP:
        documents_per_block -= documents_per_block % _GROUP
    queries_per_block = max(1, block_elements // documents_per_block)
    kept = min(k, total)
    scores, rows = queries.new_empty(len(queries), kept), torch.empty(len(queries), kept, dtype=torch.long)
    for first in range(0, len(queries), queries_per_block):
        block = queries[first : first + queries_per_block]
        _largest_norm(block, "queries", first)
        found, is_certain = _find_candidates(block.to(device), source, kept, documents_per_block, total)
        best_scores, best_rows = rank_candidates(block, source, found, kept)
        crowded = (~is_certain).nonzero()[:, 0]
        for some in crowded.split(queries_per_block) if len(crowded) else ():  # no rows split into one empty piece
            best_scores[some], best_rows[some] = _search_in_float64(
                block[some], source, kept, documents_per_block, total, device
            )
        scores[first : first + len(block)], rows[first : first + len(block)] = best_scores, best_rows
    return scores, rows


def rank_candidates(
    queries: Float[Tensor, "queries dim"],
    documents: VectorRows,
    candidates: Int[Tensor, "queries candidates"],
    k: int,
    vectors_at_once: int = 1024,
) -> tuple[Float[Tensor, "queries kept"], Int[Tensor, "queries kept"]]:
    """The ``k`` best of each query's candidates by their scores in float64; equal scores by row.

    Args:
        candidates: rows. -1 is nobody: it comes last, with a score of minus infinity.
        vectors_at_once: documents' vectors held at once; few, so that the arithmetic stays in the cache.
    """
    by_row = candidates.sort(dim=1).values  # so that a stable sort leaves equal scores in row order
    kept = min(k, candidates.shape[1])
    scores, rows = queries.new_empty(len(queries), kept), candidates.new_empty(len(queries), kept)
    for some, exact in _scored_pieces(queries, documents, by_row, vectors_at_once):
        order = exact.round(decimals=_DECIMALS).sort(dim=1, descending=True, stable=True).indices[:, :kept]
        scores[some], rows[some] = exact.gather(1, order).to(scores.dtype), by_row[some].gather(1, order)
    return scores, rows


def candidate_scores(
    queries: Float[Tensor, "queries dim"],
    documents: VectorRows,
    candidates: Int[Tensor, "queries candidates"],
    vectors_at_once: int = 1024,
) -> Float[Tensor, "queries candidates"]:
    """The scores of any documents, as the search gives them; minus infinity where the row is -1."""
    scores = queries.new_empty(candidates.shape)
    for some, exact in _scored_pieces(queries, documents, candidates, vectors_at_once):
        scores[some] = exact.to(scores.dtype)
    return scores


def _scored_pieces(
    queries: Float[Tensor, "queries dim"],
    documents: VectorRows,
    candidates: Int[Tensor, "queries candidates"],
    vectors_at_once: int,
) -> Iterator[tuple[slice, Float[Tensor, "some candidates"]]]:
    """Scores in float64, some queries at a time. Summed along each vector, so that equal vectors score alike."""
    step = max(1, vectors_at_once // max(1, candidates.shape[1]))
    for first in range(0, len(queries), step):
        some = slice(first, first + step)
        rows = candidates[some]
        vectors = documents.at(rows.clamp(min=0).flatten()).view(*rows.shape, queries.shape[1])
        exact = (vectors.double() * queries[some].double().unsqueeze(1)).sum(dim=2)
        yield some, exact.masked_fill_(rows < 0, -math.inf)


def _find_candidates(
    queries: Float[Tensor, "queries dim"], documents: VectorRows, k: int, documents_per_block: int, total: int
) -> tuple[Int[Tensor, "queries found"], Bool[Tensor, " queries"]]:
    """Rows that hold the ``k`` best and some more, and for which queries that is certain. On the CPU."""
    wanted = min(total, k + _SPARE)
    work = queries if queries.dtype is torch.float64 else queries.float()
    best_scores = work.new_empty(len(work), 0)
    best_rows = torch.empty(len(work), 0, dtype=torch.long, device=work.device)
    # One buffer for all blocks: getting fresh memory for each would take as long as the products.
    buffer = work.new_empty(len(work) * documents_per_block)
    longest = 0.0
    for first in range(0, total, documents_per_block):
        block = documents.rows(first, min(first + documents_per_block, total))
        longest = max(longest, _largest_norm(block, "documents", first))
        scores = buffer[: len(work) * len(block)].view(len(work), len(block))
        torch.mm(work, block.to(work).T, out=scores)
        new_scores, columns = _best_of_block(scores, best_scores if best_scores.shape[1] == wanted else None, wanted)
        best_scores = torch.cat([best_scores, new_scores], dim=1)
        best_scores, chosen = best_scores.topk(min(wanted, best_scores.shape[1]), dim=1, sorted=False)
        best_rows = torch.cat([best_rows, columns + first], dim=1).gather(1, chosen)
    if wanted == total:
        return best_rows.cpu(), torch.ones(len(work), dtype=torch.bool)
    gamma = work.shape[1] * torch.finfo(work.dtype).eps / 2
    error = gamma / (1 - gamma) * work.norm(dim=1) * longest
    kth = best_scores.topk(k, dim=1).values[:, -1]
    return best_rows.cpu(), (best_scores.amin(dim=1) < kth - 2 * error).cpu()


def _best_of_block(
    scores: Float[Tensor, "queries columns"], best: Float[Tensor, "queries wanted"] | None, wanted: int
) -> tuple[Float[Tensor, "queries found"], Int[Tensor, "queries found"]]:
    """Scores and columns of at least those of the ``wanted`` largest that belong among ``best``, in no order.

    Where a query has fewer than another, minus infinities fill up.

    Args:
        best: what earlier blocks gave; None while that is not ``wanted`` yet.
    """
    num_queries, num_columns = scores.shape
    if num_columns % _GROUP or num_columns < wanted * _GROUP or not num_queries:
        return scores.topk(min(wanted, num_columns), dim=1, sorted=False)
    grouped = scores.view(num_queries, _GROUP, -1)  # group g: columns g, g + groups, g + 2 groups, ...
    highest = grouped.amax(dim=1)
    # ``wanted`` groups hold a score of at least the least of their maxima.
    floor = highest.topk(wanted, dim=1).values[:, -1] if best is None else best.amin(dim=1)
    query, group = (highest >= floor[:, None]).nonzero(as_tuple=True)
    members = grouped[query, :, group]
    hit, place = (members >= floor[query, None]).nonzero(as_tuple=True)
    counts = torch.bincount(query[hit], minlength=num_queries)
    most = int(counts.max())
    if most > num_columns // 4:  # such as documents in rising order
        return scores.topk(wanted, dim=1, sorted=False)
    position = torch.arange(len(hit), device=hit.device) - (counts.cumsum(0) - counts)[query[hit]]
    found = scores.new_full((num_queries, most), -math.inf)
    columns = torch.zeros(num_queries, most, dtype=torch.long, device=scores.device)
    found[query[hit], position] = members[hit, place]
    columns[query[hit], position] = place * grouped.shape[2] + group[hit]
    return found, columns


def _search_in_float64(
    queries: Float[Tensor, "queries dim"],
    documents: VectorRows,
    k: int,
    documents_per_block: int,
    total: int,
    device: torch.device | str,
) -> tuple[Float[Tensor, "queries kept"], Int[Tensor, "queries kept"]]:
    work = queries.double() if torch.device(device).type == "mps" else queries.to(device).double()  # MPS has none
    best_scores = work.new_empty(len(work), 0)
    best_rows = torch.empty(len(work), 0, dtype=torch.long, device=work.device)
    for first in range(0, total, documents_per_block):
        block = documents.rows(first, min(first + documents_per_block, total))
        # Rounded, so that copies of a text tie wherever the product put their last bit.
        scores = (work @ block.to(work).T).round(decimals=_DECIMALS)
        columns = _largest_columns(scores, k)
        # Earlier blocks stand first and hold lower rows, so column order is row order among equal scores.
        best_scores = torch.cat([best_scores, scores.gather(1, columns)], dim=1)
        best_rows = torch.cat([best_rows, columns + first], dim=1)
        chosen = _largest_columns(best_scores, k)
        best_scores, best_rows = best_scores.gather(1, chosen), best_rows.gather(1, chosen)
    best_scores, order = best_scores.sort(dim=1, descending=True, stable=True)
    return best_scores.to(queries.dtype).cpu(), best_rows.gather(1, order).cpu()


def _largest_columns(scores: Float[Tensor, "queries columns"], k: int) -> Int[Tensor, "queries kept"]:
    """Columns of each row's ``k`` largest scores, ascending; among equal scores the lower columns."""
    num_columns = scores.shape[1]
    if k >= num_columns:
        return torch.arange(num_columns, device=scores.device).expand(len(scores), -1)
    # The k-th value is certain even where topk's choice among ties is not.
    smallest_kept = scores.topk(k, dim=1).values[:, -1:]
    above: Bool[Tensor, "queries columns"] = scores > smallest_kept
    tied: Bool[Tensor, "queries columns"] = scores == smallest_kept
    needed = k - above.sum(dim=1, keepdim=True)
    keep = above | (tied & (tied.cumsum(dim=1) <= needed))
    return keep.nonzero()[:, 1].view(len(scores), k)


def _largest_norm(vectors: Float[Tensor, "rows dim"], name: str, first: int) -> float:
    """The length of the longest of them.

    Raises:
        ValueError: one of them is not finite; names it by its row, counted from ``first``.
    """
    norms = vectors.double().norm(dim=1) if vectors.dtype is torch.float64 else vectors.float().norm(dim=1)
    if not norms.isfinite().all():
        bad = first + int((~norms.isfinite()).nonzero()[0])
        raise ValueError(f"{name}: vector {bad} is not finite. The model diverged, or its weights are damaged.")
    return float(norms.max()) if len(norms) else 0.0
