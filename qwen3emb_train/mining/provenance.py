"""The origin of every negative: one line for each example, since an example itself has texts only."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qwen3emb_train.mining.pool import DocumentPool
from qwen3emb_train.mining.rules import Candidate

FILE_NAME = "provenance.jsonl"
_DIGITS = 6


@dataclass(frozen=True)
class Mined:
    """What mining found for one example.

    Attributes:
        query: the query alone.
        positives: their rows, cosines and scores; as candidates of the source "positive".
        negatives: the chosen ones, in the order of the written example.
        is_rescored: whether the scores are a reranker's.
    """

    query: str
    positives: tuple[Candidate, ...]
    negatives: tuple[Candidate, ...]
    is_rescored: bool


def line_of(mined: Mined | None, pool: DocumentPool) -> str:
    """The line of ``provenance.jsonl``; ``{}`` for an example that was copied."""
    if mined is None:
        return "{}\n"
    row = {
        "positives": [_of(candidate, pool, mined.is_rescored) for candidate in mined.positives],
        "negatives": [_of(candidate, pool, mined.is_rescored) for candidate in mined.negatives],
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


def rounded(scores: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(score, _DIGITS) for score in scores)


def _of(candidate: Candidate, pool: DocumentPool, is_rescored: bool) -> dict[str, Any]:
    described: dict[str, Any] = {"id": pool.ids[candidate.row], "cosine": round(candidate.cosine, _DIGITS)}
    if is_rescored:
        described["reranker"] = round(candidate.score, _DIGITS)
    if candidate.source != "positive":
        described["source"] = candidate.source
    if candidate.rank is not None:
        described["rank"] = candidate.rank
    return described
