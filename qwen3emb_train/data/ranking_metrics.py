"""Retrieval metrics of one query, as trec_eval defines them.

Each function takes the relevance of the ranked documents (0 where a document is not judged) and, where the ideal
matters, the relevance of all judged documents. A relevance above zero is relevant.
"""

import math
from collections.abc import Iterable, Sequence


def ndcg_at(k: int, ranked: Sequence[int], judged: Iterable[int]) -> float:
    """nDCG: the discounted gain of the first ``k`` over that of the ideal order; gain = relevance, discount =
    log2(rank + 1).

    trec_eval's ``ndcg_cut``, which BEIR and MTEB report; other tools use 2^relevance - 1 as the gain.

    Args:
        k: cutoff.
        ranked: relevance of the ranked documents.
        judged: relevance of all judged documents.
    """
    ideal = _discounted_gain(sorted(judged, reverse=True)[:k])
    return _discounted_gain(ranked[:k]) / ideal if ideal > 0.0 else 0.0


def recall_at(k: int, ranked: Sequence[int], judged: Iterable[int]) -> float:
    """Share of the relevant documents found among the first ``k``.

    Args:
        k: cutoff.
        ranked: relevance of the ranked documents.
        judged: relevance of all judged documents.
    """
    total = sum(relevance > 0 for relevance in judged)
    return sum(relevance > 0 for relevance in ranked[:k]) / total if total else 0.0


def mrr_at(k: int, ranked: Sequence[int]) -> float:
    """One over the rank of the first relevant document, 0 if it is not among the first ``k``."""
    for rank, relevance in enumerate(ranked[:k], start=1):
        if relevance > 0:
            return 1.0 / rank
    return 0.0


def _discounted_gain(relevances: Sequence[int]) -> float:
    return math.fsum(relevance / math.log2(rank + 1) for rank, relevance in enumerate(relevances, start=1))
