"""Exact nearest documents of many queries, block by block: the score matrix never exists as a whole.

The result is the float64 ranking of the given vectors, so it is the same for every block size, device, thread or rank:

1. A fast filter finds more than k documents. Its error is bounded, so documents that score more than twice the bound
   below the k-th are excluded (``candidates.py``). It is a product in bfloat16 on a CPU with AMX tiles, where that is
   four times as fast, and in float32 everywhere else.
2. The remaining ones are scored again in float64 and sorted; scores that agree to 12 decimals are ordered by row.
3. Where more are within the error bound than candidates were kept, the query is searched again by the next filter: from
   bfloat16 to float32 to a complete search in float64 (a corpus of copies, a model that gives all texts one vector).
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qwen3emb_train.index.candidates import DECIMALS, GROUP, filter_types, find_candidates
from qwen3emb_train.index.vector_rows import TensorRows, VectorRows, longest_length
from qwen3emb_train.index.workers import Workers, workers

_ELEMENTS_AT_ONCE = 2**19  # of vectors that a thread scores in float64: few, to stay in its cache
_QUERIES_OF_A_THREAD = 64  # at least


def own_last(rows: Int[Tensor, "queries kept"], own: list[int]) -> Int[Tensor, "queries kept"]:
    """Each ranking with the query's own document at its end, where cutting one off takes it away.

    Args:
        rows: of documents, best first.
        own: the row of each query's own document; -1: none.
    """
    is_own = rows == torch.tensor(own, dtype=rows.dtype, device=rows.device).unsqueeze(1)
    return rows.gather(1, is_own.to(torch.uint8).argsort(dim=1, stable=True))


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
        num_documents: search only this many rows, from the first; None = all.

    Returns:
        Scores and row numbers, best first; ``kept = min(k, documents)``.

    Raises:
        ValueError: k or block_elements is below 1, or a vector is not finite (NaN has no place in an order).
    """
    if k < 1 or block_elements < 1:
        raise ValueError(f"k={k} and block_elements={block_elements} must be at least 1.")
    source = TensorRows(documents) if isinstance(documents, Tensor) else documents
    total = source.num_rows if num_documents is None else min(num_documents, source.num_rows)
    documents_at_once = max(1, min(total, 2 * math.isqrt(block_elements), block_elements))
    if documents_at_once > GROUP:
        documents_at_once -= documents_at_once % GROUP
    queries_at_once = max(1, block_elements // documents_at_once)
    kept = min(k, total)
    queries_per_pass = max(1, block_elements // kept)  # results are no larger than a block of scores either
    filters = filter_types(queries.dtype, torch.device(device))
    scores, rows = queries.new_empty(len(queries), kept), torch.empty(len(queries), kept, dtype=torch.long)
    for first in range(0, len(queries), queries_per_pass):
        block = queries[first : first + queries_per_pass]
        longest_length(block, "queries", first)
        left = torch.arange(first, first + len(block))
        for work_type in tuple(filters):
            with workers(len(left) // _QUERIES_OF_A_THREAD) as threads:
                found, is_certain = find_candidates(
                    queries[left], source, kept, total, documents_at_once, queries_at_once, work_type,
                    torch.device(device), threads,
                )  # fmt: skip
                settled = left[is_certain]
                scores[settled], rows[settled] = _rank(queries[settled], source, found[is_certain], kept, threads)
            left = left[~is_certain]
            if 2 * len(left) > len(block):
                filters.remove(work_type)  # too coarse for these documents: the other queries skip it
            if not len(left):
                break
        else:
            for some in left.split(queries_at_once):
                scores[some], rows[some] = _search_in_float64(
                    queries[some], source, kept, documents_at_once, total, device
                )
    return scores, rows


def rank_candidates(
    queries: Float[Tensor, "queries dim"],
    documents: VectorRows,
    candidates: Int[Tensor, "queries candidates"],
    k: int,
) -> tuple[Float[Tensor, "queries kept"], Int[Tensor, "queries kept"]]:
    """The ``k`` best of each query's candidates by their scores in float64; equal scores by row.

    Args:
        queries, documents: vectors.
        candidates: rows. -1 means none: it is ranked last, with a score of minus infinity.
        k: documents per query.
    """
    with workers(len(queries) // _QUERIES_OF_A_THREAD) as threads:
        return _rank(queries, documents, candidates, k, threads)


def candidate_scores(
    queries: Float[Tensor, "queries dim"], documents: VectorRows, candidates: Int[Tensor, "queries candidates"]
) -> Float[Tensor, "queries candidates"]:
    """The scores of any documents, equal to those of the search; minus infinity where the row is -1.

    Args:
        queries, documents: vectors.
        candidates: rows of documents for each query.
    """
    scores = queries.new_empty(candidates.shape)

    def score(some: slice) -> None:
        scores[some] = _exact_scores(queries[some], documents, candidates[some]).to(scores.dtype)

    with workers(len(queries) // _QUERIES_OF_A_THREAD) as threads:
        threads.run(score, _pieces(queries, candidates))
    return scores


def _rank(
    queries: Float[Tensor, "queries dim"],
    documents: VectorRows,
    candidates: Int[Tensor, "queries candidates"],
    k: int,
    threads: Workers,
) -> tuple[Float[Tensor, "queries kept"], Int[Tensor, "queries kept"]]:
    kept = min(k, candidates.shape[1])
    scores, rows = queries.new_empty(len(queries), kept), candidates.new_empty(len(queries), kept)

    def rank(some: slice) -> None:
        # Without empty columns; and ascending, so that a stable sort leaves equal scores in row order.
        by_row = candidates[some].sort(dim=1, descending=True).values
        num_columns = max(kept, int((by_row >= 0).sum(dim=1).max()))
        by_row = by_row[:, :num_columns].flip(1)
        exact = _exact_scores(queries[some], documents, by_row)
        order = exact.round(decimals=DECIMALS).sort(dim=1, descending=True, stable=True).indices[:, :kept]
        scores[some], rows[some] = exact.gather(1, order).to(scores.dtype), by_row.gather(1, order)

    threads.run(rank, _pieces(queries, candidates))
    return scores, rows


def _pieces(queries: Float[Tensor, "queries dim"], candidates: Int[Tensor, "queries candidates"]) -> list[slice]:
    """Blocks of queries."""
    step = max(1, _ELEMENTS_AT_ONCE // max(1, candidates.shape[1] * queries.shape[1]))
    return [slice(first, first + step) for first in range(0, len(queries), step)]


def _exact_scores(
    queries: Float[Tensor, "queries dim"], documents: VectorRows, candidates: Int[Tensor, "queries candidates"]
) -> Float[Tensor, "queries candidates"]:
    """Scores in float64. Summed along each vector, so that equal vectors have equal scores."""
    vectors = documents.at(candidates.clamp(min=0).flatten()).view(*candidates.shape, queries.shape[1])
    exact = vectors.double().mul_(queries.double().unsqueeze(1)).sum(dim=2)
    return exact.masked_fill_(candidates < 0, -math.inf)


def _search_in_float64(
    queries: Float[Tensor, "queries dim"],
    documents: VectorRows,
    k: int,
    documents_at_once: int,
    total: int,
    device: torch.device | str,
) -> tuple[Float[Tensor, "queries kept"], Int[Tensor, "queries kept"]]:
    work = queries.double() if torch.device(device).type == "mps" else queries.to(device).double()  # MPS has none
    best_scores = work.new_empty(len(work), 0)
    best_rows = torch.empty(len(work), 0, dtype=torch.long, device=work.device)
    for first in range(0, total, documents_at_once):
        block = documents.rows(first, min(first + documents_at_once, total))
        # Rounded, so that copies of a text tie whatever the last bit of their products.
        scores = (work @ block.to(work).T).round(decimals=DECIMALS)
        columns = _largest_columns(scores, k)
        # Earlier blocks come first and have lower rows, so column order is row order among equal scores.
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
    # The k-th value is well defined even where topk's choice among ties is not.
    smallest_kept = scores.topk(k, dim=1).values[:, -1:]
    above: Bool[Tensor, "queries columns"] = scores > smallest_kept
    tied: Bool[Tensor, "queries columns"] = scores == smallest_kept
    needed = k - above.sum(dim=1, keepdim=True)
    keep = above | (tied & (tied.cumsum(dim=1) <= needed))
    return keep.nonzero()[:, 1].view(len(scores), k)
