"""The second stage of a search: a reranker reorders the documents that the first stage found."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from qwen3emb_train.index.rerankers import TextReranker


@dataclass(frozen=True)
class PairScores:
    """Scores of a reranker for the candidates of a set.

    Attributes:
        of_query: for each query, document row -> ``logit(yes) - logit(no)``.
        pairs_per_second: throughput of scoring, with tokenisation and without loading.
    """

    of_query: list[dict[int, float]]
    pairs_per_second: float


def score_candidates(
    reranker: TextReranker,
    queries: Sequence[str],
    documents: Sequence[str],
    rankings: Sequence[Int[Tensor, "queries kept"]],
    top_k: int,
    instruction: str | None = None,
    tokens_per_batch: int = 8192,
) -> PairScores:
    """Scores the first ``top_k`` documents of every ranking, each pair of query and document once.

    Candidates are scored in the order of their rows, so that batches, and with them rounding errors of a score, do not
    depend on the rankings.

    Args:
        reranker: scores pairs.
        queries, documents: texts of the set.
        rankings: indices of documents for each query, best first; one tensor for each first stage.
        top_k: documents of each ranking that are scored.
        instruction: for the reranker; None: its own.
        tokens_per_batch: tokens scored at once.

    Raises:
        ValueError: a score is not finite.
    """
    candidates = [
        sorted({row for ranking in rankings for row in ranking[query, :top_k].tolist()})
        for query in range(len(queries))
    ]
    texts = [[documents[row] for row in rows] for rows in candidates]
    started = time.perf_counter()
    scores = reranker.score_groups(queries, texts, instruction, tokens_per_batch=tokens_per_batch)
    seconds = time.perf_counter() - started
    if not all(torch.isfinite(its_scores).all() for its_scores in scores):
        raise ValueError("the reranker gives scores that are NaN or infinite. Try precision=fp32.")
    of_query = [
        dict(zip(rows, its_scores.tolist(), strict=True)) for rows, its_scores in zip(candidates, scores, strict=True)
    ]
    return PairScores(of_query, sum(map(len, candidates)) / seconds)


def rerank(ranking: Int[Tensor, "queries kept"], scores: PairScores, top_k: int) -> Int[Tensor, "queries kept"]:
    """The first ``top_k`` of each query by score, equal ones in their order before; then the rest unchanged.

    Args:
        ranking: indices of documents of the first stage, best first.
        scores: of these documents.
        top_k: documents that are reordered.
    """
    rows = [
        [*sorted(its_rows[:top_k], key=lambda row: -scored[row]), *its_rows[top_k:]]
        for its_rows, scored in zip(ranking.tolist(), scores.of_query, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.long)
