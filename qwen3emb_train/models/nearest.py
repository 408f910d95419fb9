"""Exact nearest documents of many queries, block by block: the score matrix never exists as a whole."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def top_k_documents(
    queries: Float[Tensor, "queries dim"],
    documents: Float[Tensor, "documents dim"],
    k: int,
    block_elements: int = 2**24,
    device: torch.device | str = "cpu",
) -> tuple[Float[Tensor, "queries kept"], Int[Tensor, "queries kept"]]:
    """The ``k`` largest inner products of every query, and the rows of their documents.

    Exact: what sorting the full matrix gives. Ordered by score, and equal scores by row, on every device
    (``torch.topk`` leaves the order of ties open, so the mined negatives would differ between machines).

    Args:
        queries, documents: vectors in one dtype; normalised, the products are cosines.
        k: documents for each query; all of them if there are fewer.
        block_elements: scores held at once. 2**24 float32 are 64 MiB, and the work on them about three times that.
        device: where the blocks are multiplied. Vectors and results stay on the CPU.

    Returns:
        Scores and row numbers, best first; ``kept = min(k, documents)``.

    Raises:
        ValueError: k or block_elements is below 1, or a vector is not finite (NaN has no place in an order).
    """
    if k < 1 or block_elements < 1:
        raise ValueError(f"k={k} and block_elements={block_elements} must be at least 1.")
    for name, vectors in (("queries", queries), ("documents", documents)):
        if not vectors.isfinite().all():
            bad = int((~vectors.isfinite().all(dim=1)).nonzero()[0])
            raise ValueError(f"{name}: vector {bad} is not finite. The model diverged, or its weights are damaged.")
    documents_per_block = max(1, min(len(documents), math.isqrt(block_elements)))
    queries_per_block = max(1, block_elements // documents_per_block)
    kept = min(k, len(documents))
    scores, rows = queries.new_empty(len(queries), kept), torch.empty(len(queries), kept, dtype=torch.long)
    for first in range(0, len(queries), queries_per_block):
        block = queries[first : first + queries_per_block].to(device)
        best_scores, best_rows = _best_of_block(block, documents, k, documents_per_block)
        scores[first : first + len(block)], rows[first : first + len(block)] = best_scores.cpu(), best_rows.cpu()
    return scores, rows


def _best_of_block(
    queries: Float[Tensor, "queries dim"], documents: Float[Tensor, "documents dim"], k: int, documents_per_block: int
) -> tuple[Float[Tensor, "queries kept"], Int[Tensor, "queries kept"]]:
    best_scores = queries.new_empty(len(queries), 0)
    best_rows = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
    for first in range(0, len(documents), documents_per_block):
        scores = queries @ documents[first : first + documents_per_block].to(queries.device).T
        columns = _largest_columns(scores, k)
        # Earlier blocks stand first and hold lower rows, so column order is row order among equal scores.
        best_scores = torch.cat([best_scores, scores.gather(1, columns)], dim=1)
        best_rows = torch.cat([best_rows, columns + first], dim=1)
        chosen = _largest_columns(best_scores, k)
        best_scores, best_rows = best_scores.gather(1, chosen), best_rows.gather(1, chosen)
    best_scores, order = best_scores.sort(dim=1, descending=True, stable=True)
    return best_scores, best_rows.gather(1, order)


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
