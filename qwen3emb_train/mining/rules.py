"""The rules for one query: which of the retrieved documents become negatives.

Documents known to be relevant to the query are removed, a window of ranks is taken, documents that score too close to
the positives are dropped as likely false negatives, and the negatives are sampled from the rest. The scheme is "top-k
retrieval, then sampling"; the score limits are those of NV-Retriever (arXiv 2407.15831, TopK-PercPos and
TopK-MarginPos) and of Qwen3-VL-Embedding (arXiv 2601.04720).
"""

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple

from qwen3emb_train.mining.config import MiningConfig, Sampling


class Candidate(NamedTuple):
    """A document that may become a negative.

    Attributes:
        row: in the pool.
        source: what found it: "model", "bm25", or "own" for a negative of the example itself.
        rank: from 1, without the query's positives; None for the example's own.
        cosine: of the searching model.
        score: what the limits are applied to: the reranker's score, or else the cosine.
    """

    row: int
    source: str
    rank: int | None
    cosine: float
    score: float


def window(rows: Iterable[int], relevant: Collection[int], rank_from: int, rank_to: int) -> list[tuple[int, int]]:
    """``(rank, row)`` within the window; ranks count from 1 without the relevant documents.

    Args:
        rows: best first; -1 (an approximate index found fewer) means none.
        relevant: documents that must never become negatives.
        rank_from, rank_to: the window, both ends included.
    """
    others = [row for row in rows if row >= 0 and row not in relevant]
    return list(enumerate(others[rank_from - 1 : rank_to], start=rank_from))


def score_limit(positive_score: float, config: MiningConfig) -> float:
    """The score that a negative must stay below.

    Args:
        positive_score: mean score of the example's positives.
    """
    limits = [float("inf")]
    if config.max_relative_score is not None:
        # Relative to the score's magnitude, so that the limit is below a negative score too.
        limits.append(positive_score - (1 - config.max_relative_score) * abs(positive_score))
    if config.absolute_margin is not None:
        limits.append(positive_score - config.absolute_margin)
    if config.max_score is not None:
        limits.append(config.max_score)
    return min(limits)


def eligible(
    cosine_of: Mapping[int, float],
    score_of: Mapping[int, float],
    relevant: Collection[int],
    limit: float,
    config: MiningConfig,
    source: str,
) -> list[Candidate]:
    """Those of the window that score below the limit.

    Args:
        cosine_of: of the rows that ``source`` found, best first.
        score_of: what the limit is applied to.
        relevant: documents that must never become negatives.
        limit: see ``score_limit``.
        config: the window.
        source: "model" or "bm25".
    """
    return [
        Candidate(row, source, rank, cosine_of[row], score_of[row])
        for rank, row in window(cosine_of, relevant, config.rank_from, config.rank_to)
        if score_of[row] < limit
    ]


def draw_negatives(
    by_model: Sequence[Candidate], by_bm25: Sequence[Candidate], config: MiningConfig, num_wanted: int, seed: str
) -> list[Candidate]:
    """The negatives of one example, hardest first; at most ``num_wanted``.

    Args:
        by_model, by_bm25: eligible candidates of the two sources.
        config: how to sample.
        num_wanted: negatives to draw.
        seed: of ``sampling=random``; differs between examples, so that the draw does not depend on their order.
    """
    generator = random.Random(seed) if config.sampling is Sampling.random else None
    sources = _hardest_first(by_model), _hardest_first(by_bm25)
    num_by_bm25 = int(num_wanted * config.bm25_share + 0.5)
    chosen = _draw(sources[1], num_by_bm25, generator)
    for source in sources:  # the model's share, then BM25 again for what is still missing
        taken = {candidate.row for candidate in chosen}
        free = [candidate for candidate in source if candidate.row not in taken]
        chosen += _draw(free, num_wanted - len(chosen), generator)
    return _hardest_first(chosen)


def _draw(candidates: Sequence[Candidate], num_wanted: int, generator: random.Random | None) -> list[Candidate]:
    """A sample, or without a generator the first ones."""
    if generator is not None and len(candidates) > num_wanted:
        return generator.sample(candidates, num_wanted)
    return list(candidates[:num_wanted])


def _hardest_first(candidates: Iterable[Candidate]) -> list[Candidate]:
    by_row = sorted(candidates, key=attrgetter("row"))
    return sorted(by_row, key=attrgetter("score"), reverse=True)  # stable: equal scores stay in row order
