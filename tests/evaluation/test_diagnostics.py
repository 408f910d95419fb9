"""diagnostics.json: cosines that are counted where they lie, a map that is always the same, the worst queries."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from qwen3emb_train.data.retrieval_set import RetrievalSet
from qwen3emb_train.evaluation.diagnostics import retrieval_diagnostics, shorten
from qwen3emb_train.evaluation.retrieval import Cuts, Ranking, rank, score_ranking
from qwen3emb_train.evaluation.stored_vectors import StoredAs

QUERIES, DOCUMENTS, DIM = 30, 400, 6


@pytest.fixture(scope="module")
def data() -> RetrievalSet:
    document_ids = [f"d{row:03}" for row in range(DOCUMENTS)]
    return RetrievalSet(
        query_ids=[f"q{row}" for row in range(QUERIES)],
        queries=[f"query {row}" for row in range(QUERIES)],
        document_ids=document_ids,
        documents=[f"document {row}\n" + "x" * 300 for row in range(DOCUMENTS)],
        relevance={
            f"q{row}": {f"d{row:03}": 2, f"d{row + 100:03}": 1, f"d{row + 200:03}": 0, "not in the corpus": 1}
            for row in range(QUERIES)
        },
        files=(),
    )


@pytest.fixture(scope="module")
def vectors() -> tuple[torch.Tensor, torch.Tensor]:
    """Most variance lies in the first component, then in the second. Query i is near document i."""
    generator = torch.Generator().manual_seed(0)
    documents = torch.randn(DOCUMENTS, DIM, generator=generator) * torch.tensor([9.0, 5.0, 1.0, 1.0, 1.0, 1.0])
    queries = documents[:QUERIES] + 0.5 * torch.randn(QUERIES, DIM, generator=generator)
    return torch.nn.functional.normalize(queries, dim=1), torch.nn.functional.normalize(documents, dim=1)


@pytest.fixture(scope="module")
def look(data: RetrievalSet, vectors: tuple[torch.Tensor, torch.Tensor]) -> dict[str, Any]:
    return _look(data, vectors, 0)


def _look(data: RetrievalSet, vectors: tuple[torch.Tensor, torch.Tensor], seed: int) -> dict[str, Any]:
    rows = rank(*vectors, DIM, StoredAs.float32, 10)
    scores = score_ranking(rows, data, Cuts(10, [10], 10)).statistic.per_query.tolist()
    return retrieval_diagnostics(Ranking("m", "s", DIM, StoredAs.float32, rows), data, *vectors, scores, seed)


def test_histograms_count_cosines_of_relevant_and_of_random_documents(
    look: dict[str, Any], data: RetrievalSet, vectors: tuple[torch.Tensor, torch.Tensor]
) -> None:
    histogram = look["histogram"]
    assert len(histogram["edges"]) == 41
    assert (histogram["edges"][0], histogram["edges"][-1]) == (-1.0, 1.0)
    cosines = (vectors[0] @ vectors[1].T).clamp(-1, 1).numpy()
    relevant = np.concatenate([cosines.diagonal(), cosines.diagonal(100)])  # not those judged 0
    assert histogram["positives"] == np.histogram(relevant, histogram["edges"])[0].tolist()
    assert sum(histogram["positives"]) == 2 * QUERIES
    shares = np.array(histogram["random"]) / sum(histogram["random"])
    assert shares == pytest.approx(np.histogram(cosines, histogram["edges"])[0] / cosines.size, abs=0.01)


def test_the_map_shows_the_directions_of_most_variance_and_is_the_same_every_time(
    look: dict[str, Any], data: RetrievalSet, vectors: tuple[torch.Tensor, torch.Tensor]
) -> None:
    shown = look["map"]
    assert shown["kinds"] == ["query"] * QUERIES + ["document"] * 300
    assert {len(shown[key]) for key in ("texts", "kinds", "x", "y")} == {QUERIES + 300}
    assert max(map(len, shown["texts"])) == 80
    for key, component in (("x", 0), ("y", 1)):
        # Sign fixed: the direction's largest component is positive.
        assert np.corrcoef(shown[key][:QUERIES], vectors[0][:, component])[0, 1] > 0.98
    assert json.dumps(look) == json.dumps(_look(data, vectors, 0))
    assert shown["texts"] != _look(data, vectors, 1)["map"]["texts"]


def test_the_worst_queries_come_first_with_what_they_should_have_found_and_did(
    look: dict[str, Any], vectors: tuple[torch.Tensor, torch.Tensor]
) -> None:
    worst = look["worst"]
    assert len(worst) == 20
    assert [entry["score"] for entry in worst] == sorted(entry["score"] for entry in worst)
    for entry in worst:
        row = int(entry["query_id"][1:])
        assert entry["query"] == f"query {row}"
        relevant = [f"d{row:03}", f"d{row + 100:03}", "not in the corpus"]
        assert [one["id"] for one in entry["relevant"]] == relevant
        cosines = (vectors[0][row] @ vectors[1].T).numpy()
        order = np.argsort(-cosines)[:5]
        assert [found["id"] for found in entry["found"]] == [f"d{document:03}" for document in order]
        assert [found["cosine"] for found in entry["found"]] == pytest.approx(cosines[order], abs=1e-5)
        grades = {f"d{row:03}": 2, f"d{row + 100:03}": 1}
        assert [found["relevance"] for found in entry["found"]] == [grades.get(f["id"], 0) for f in entry["found"]]
        assert max(len(found["text"]) for found in entry["found"]) == 200


def test_a_shortened_text_is_one_line() -> None:
    assert shorten("a\n b\tc", 5) == "a b c"
    assert shorten("abcdef", 5) == "ab..."
