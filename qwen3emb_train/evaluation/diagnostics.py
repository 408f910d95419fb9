"""Diagnostics of a retrieval model: histograms of cosines, a two-dimensional map, and its worst queries."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from qwen3emb_train.data.retrieval_set import RetrievalSet
from qwen3emb_train.evaluation.retrieval import Ranking

_BINS = 40
_ON_MAP = 300  # of queries, and of documents
_RANDOM_PAIRS = 20_000
_WORST, _FOUND, _RELEVANT = 20, 5, 10
_MAP_LETTERS, _LETTERS = 80, 200


def retrieval_diagnostics(
    ranking: Ranking,
    data: RetrievalSet,
    queries: Float[Tensor, "queries dim"],
    documents: Float[Tensor, "documents dim"],
    scores: Sequence[float],
    seed: int,
) -> dict[str, Any]:
    """An entry of diagnostics.json.

    Args:
        ranking: of all documents by these vectors.
        queries, documents: unit vectors.
        data: the set.
        scores: the main metric of each query.
        seed: of the samples.
    """
    return {
        "model": ranking.model,
        "set": ranking.set,
        "histogram": _histogram(data, queries, documents, seed),
        "map": _map(data, queries, documents, seed),
        "worst": _worst(ranking, data, queries, documents, scores),
    }


def _histogram(
    data: RetrievalSet, queries: Float[Tensor, "queries dim"], documents: Float[Tensor, "documents dim"], seed: int
) -> dict[str, Any]:
    """Cosines of queries with relevant documents, and with random non-relevant ones."""
    row_of = {document_id: row for row, document_id in enumerate(data.document_ids)}
    relevant = [
        [query, row_of[document_id]]
        for query, query_id in enumerate(data.query_ids)
        for document_id, grade in data.relevance[query_id].items()
        if grade > 0 and document_id in row_of  # others are judged, and not in the corpus
    ]
    positives = np.array(relevant, dtype=np.int64).reshape(-1, 2)
    randomness = np.random.default_rng([seed, 1])
    drawn = np.stack(
        [
            randomness.integers(len(queries), size=_RANDOM_PAIRS),
            randomness.integers(len(documents), size=_RANDOM_PAIRS),
        ],
        axis=1,
    )
    width = len(documents)
    others = drawn[~np.isin(drawn[:, 0] * width + drawn[:, 1], positives[:, 0] * width + positives[:, 1])]
    edges = np.linspace(-1.0, 1.0, _BINS + 1)

    def counts(pairs: Int64[np.ndarray, "pairs two"]) -> list[int]:
        numbers: list[int] = np.histogram(_cosines(queries, documents, pairs), edges)[0].tolist()
        return numbers

    return {"edges": edges.round(6).tolist(), "positives": counts(positives), "random": counts(others)}


def _cosines(
    queries: Float[Tensor, "queries dim"],
    documents: Float[Tensor, "documents dim"],
    pairs: Int64[np.ndarray, "pairs two"],
) -> Float64[np.ndarray, " pairs"]:
    rows = torch.from_numpy(pairs)
    found = [(queries[some[:, 0]].double() * documents[some[:, 1]]).sum(dim=1) for some in rows.split(4096)]
    cosines: Float64[np.ndarray, " pairs"] = torch.cat(found).clamp(-1.0, 1.0).numpy() if found else np.zeros(0)
    return cosines


def _map(
    data: RetrievalSet, queries: Float[Tensor, "queries dim"], documents: Float[Tensor, "documents dim"], seed: int
) -> dict[str, Any]:
    """A sample of queries and documents on their first two principal components."""
    randomness = np.random.default_rng([seed, 2])
    some = [
        np.sort(randomness.choice(len(vectors), min(_ON_MAP, len(vectors)), replace=False))
        for vectors in (queries, documents)
    ]
    points = torch.cat([queries[torch.from_numpy(some[0])], documents[torch.from_numpy(some[1])]]).double()
    centred = points - points.mean(dim=0)
    directions = torch.linalg.svd(centred, full_matrices=False).Vh[:2]
    # The sign of a singular vector is arbitrary: its largest component is made positive.
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    coordinates = torch.nn.functional.pad(centred @ (directions * largest.sign()).T, (0, 2 - len(directions)))
    texts = [data.queries[row] for row in some[0]] + [data.documents[row] for row in some[1]]
    return {
        "texts": [shorten(text, _MAP_LETTERS) for text in texts],
        "kinds": ["query"] * len(some[0]) + ["document"] * len(some[1]),
        "x": coordinates[:, 0].numpy().round(6).tolist(),
        "y": coordinates[:, 1].numpy().round(6).tolist(),
    }


def _worst(
    ranking: Ranking,
    data: RetrievalSet,
    queries: Float[Tensor, "queries dim"],
    documents: Float[Tensor, "documents dim"],
    scores: Sequence[float],
) -> list[dict[str, Any]]:
    """The queries with the lowest scores, equal ones in file order: relevant documents, and those that were found."""
    text_of = dict(zip(data.document_ids, data.documents, strict=True))
    entries = []
    for query in sorted(range(len(scores)), key=lambda query: scores[query])[:_WORST]:
        query_id = data.query_ids[query]
        judged = data.relevance[query_id]
        relevant = sorted((i for i, grade in judged.items() if grade > 0), key=lambda i: -judged[i])[:_RELEVANT]
        rows = ranking.rows[query, :_FOUND].tolist()
        cosines = _cosines(queries, documents, np.array([[query, row] for row in rows], dtype=np.int64))
        found = [
            {
                "id": data.document_ids[row],
                "text": shorten(data.documents[row], _LETTERS),
                "cosine": round(cosine, 6),
                "relevance": judged.get(data.document_ids[row], 0),
            }
            for row, cosine in zip(rows, cosines.tolist(), strict=True)
        ]
        entries.append({
            "query_id": query_id,
            "query": shorten(data.queries[query], _LETTERS),
            "score": scores[query],
            "relevant": [{"id": i, "text": shorten(text_of.get(i, ""), _LETTERS)} for i in relevant],
            "found": found,
        })  # fmt: skip
    return entries


def shorten(text: str, letters: int) -> str:
    """The text in one line of at most ``letters`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= letters else line[: letters - 3] + "..."
