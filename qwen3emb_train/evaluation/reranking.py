"""The second stage: what the first one found, put in order by a reranker."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from qwen3emb_train.index.rerankers import TextReranker


@dataclass(frozen=True)
class PairScores:
    """A reranker's scores of a set's candidates.

    Attributes:
        of_query: for each query, document row -> ``logit(yes) - logit(no)``.
        pairs_per_second: what scoring took, tokenisation included and loading not.
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
    """Scores the first ``top_k`` documents of every ranking, each pair once however many rankings have it.

    Candidates are scored in the order of their rows: batches, and with them the last bits of a score, do not depend on
    the order in which they were found.

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
    """The first ``top_k`` of each query by score, equal ones in the first stage's order; then the rest as it was."""
    rows = [
        [*sorted(its_rows[:top_k], key=lambda row: -scored[row]), *its_rows[top_k:]]
        for its_rows, scored in zip(ranking.tolist(), scores.of_query, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.long)
