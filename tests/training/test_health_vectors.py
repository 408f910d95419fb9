"""Health of vectors: against plain loops, against closed forms (over ranks: test_health_ranks)."""

import math

import pytest
import torch

from qwen3emb_train.losses.embeddings import Embeddings
from qwen3emb_train.training.health import vectors
from qwen3emb_train.training.health.vectors import (
    HISTOGRAM_EDGES,
    NUM_BINS,
    duplicate_share,
    effective_rank,
    evenly_spaced,
    histogram,
    vector_health,
    vector_metrics,
)

MARGIN = 0.05


def make_rows(num_queries: int = 12, dim: int = 8, seed: int = 0) -> Embeddings:
    """Ragged: query i has 1 + i % 2 positives and i % 3 negatives; some texts repeat, in every role."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.arange(num_queries)
    positive_query_idx = numbers.repeat_interleave(1 + numbers % 2)
    negative_query_idx = numbers.repeat_interleave(numbers % 3)
    queries = torch.randn(num_queries, dim, generator=generator)
    positives = queries[positive_query_idx] + 1.5 * torch.randn(len(positive_query_idx), dim, generator=generator)
    negatives = torch.randn(len(negative_query_idx), dim, generator=generator)
    negatives[-1] = queries[negative_query_idx[-1]]  # one that beats its positive
    query_hash, positive_hash = numbers.clone(), 100 + torch.arange(len(positive_query_idx))
    negative_hash = 200 + torch.arange(len(negative_query_idx))
    query_hash[3] = query_hash[1]
    positive_hash[5], negative_hash[4] = positive_hash[2], positive_hash[0]
    own = int((positive_query_idx == negative_query_idx[2]).nonzero()[0])
    negative_hash[2] = positive_hash[own]  # a query's own negative with the text of its positive
    negatives[2] = queries[negative_query_idx[2]]
    return Embeddings(
        3 * queries, positives, negatives, positive_query_idx, negative_query_idx,
        query_hash, positive_hash, negative_hash,
    )  # fmt: skip


def by_loops(rows: Embeddings) -> dict[str, float]:
    """The definitions, one pair at a time."""
    cosine = torch.nn.functional.cosine_similarity
    documents = torch.cat([rows.positives, rows.negatives])
    owner = torch.cat([rows.positive_query_idx, rows.negative_query_idx]).tolist()
    text_hash = torch.cat([rows.positive_hash, rows.negative_hash]).tolist()
    num_positives = len(rows.positives)
    positive, hardest, negatives, wins, masked = [], [], [], 0, 0
    for pair, query in enumerate(rows.positive_query_idx.tolist()):
        own_texts = {text_hash[d] for d in range(num_positives) if owner[d] == query}
        same = [q for q in range(len(rows.queries)) if rows.query_hash[q] == rows.query_hash[query]]
        false = own_texts | {d for d in range(num_positives) if owner[d] in same}
        others, rivals = [], []
        for d in range(len(documents)):
            if text_hash[d] in own_texts or (d < num_positives and owner[d] in same):
                continue
            score = float(cosine(rows.queries[query], documents[d], dim=0))
            rivals.append(score)
            if owner[d] != query:
                others.append(score)
        assert false
        score = float(cosine(rows.queries[query], rows.positives[pair], dim=0))
        positive.append(score)
        hardest.append(max(others))
        negatives += others
        wins += score > max(rivals)
        masked += max(others) > score + MARGIN
    own = [
        float(cosine(rows.queries[q], negative, dim=0))
        for q, negative in zip(rows.negative_query_idx.tolist(), rows.negatives, strict=True)
    ]
    norms = torch.cat([rows.queries, documents]).norm(dim=1)

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    return {
        "positive_cosine": mean(positive),
        "hardest_cosine": mean(hardest),
        "negative_cosine": mean(negatives),
        "own_negative_cosine": mean(own),
        "accuracy_at_1": wins / len(positive),
        "hardest_masked_share": masked / len(positive),
        "alignment": mean([2 - 2 * score for score in positive]),
        "duplicate_queries": 1 / 12,
        "duplicate_positives": 1 / 18,
        "norm": float(norms.mean()),
        "norm_std": float(norms.std(correction=0)),
    }


def test_the_metrics_are_those_of_the_definitions_whatever_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_rows()
    expected = by_loops(rows)
    assert 0 < expected["accuracy_at_1"] < 1
    assert 0 < expected["hardest_masked_share"] < 1
    for scores_at_once in (2**22, 1):
        monkeypatch.setattr(vectors, "_SCORES_AT_ONCE", scores_at_once)
        metrics = vector_metrics(vector_health(rows, false_negative_margin=MARGIN))
        for name, value in expected.items():
            assert metrics[f"health/{name}"] == pytest.approx(value, abs=2e-5), name
    for name, count in (("positive", 18), ("hardest", 18), ("own_negative", 12)):
        counts = metrics[f"health/{name}_histogram"]
        assert isinstance(counts, list)
        assert len(counts) == NUM_BINS
        assert sum(counts) == count


def test_without_negatives_or_margin_their_metrics_are_left_out() -> None:
    rows = make_rows()
    bare = Embeddings(
        rows.queries, rows.positives, rows.negatives[:0], rows.positive_query_idx, rows.negative_query_idx[:0],
        rows.query_hash, rows.positive_hash, rows.negative_hash[:0],
    )  # fmt: skip
    metrics = vector_metrics(vector_health(bare))
    left_out = {"health/own_negative_cosine", "health/own_negative_histogram", "health/hardest_masked_share"}
    assert not left_out & metrics.keys()
    assert "health/accuracy_at_1" in metrics
    lonely = Embeddings(
        rows.queries[:1], rows.positives[:1], rows.negatives[:0],
        rows.positive_query_idx[:1], rows.negative_query_idx[:0],
        rows.query_hash[:1], rows.positive_hash[:1], rows.negative_hash[:0],
    )  # fmt: skip
    assert not {"health/hardest_cosine", "health/accuracy_at_1"} & vector_metrics(vector_health(lonely)).keys()


def test_health_carries_no_graph_and_leaves_the_vectors_alone() -> None:
    rows = make_rows()
    before = rows.queries.requires_grad_().detach().clone()
    assert not any(value.requires_grad for value in vector_health(rows).values())
    assert torch.equal(rows.queries.detach(), before)


def test_effective_rank_is_exact_where_it_is_known() -> None:
    directions = torch.eye(6)[:, :4].double()
    assert float(effective_rank(torch.eye(4))) == pytest.approx(4)
    assert float(effective_rank(directions[:4].repeat(5, 1))) == pytest.approx(4)
    assert float(effective_rank(torch.ones(9, 5))) == pytest.approx(1, abs=1e-6)
    # Singular values 3 and 1: exp of the entropy of (3/4, 1/4).
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert float(effective_rank(torch.diag(torch.tensor([3.0, 1.0])))) == pytest.approx(math.exp(entropy))


def test_uniformity_and_alignment_are_wang_and_isolas() -> None:
    """Four queries on the axes: squared distances 2 and 4, each known; positives at 60 degrees."""
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    turn = torch.tensor([[0.5, -(3**0.5) / 2], [3**0.5 / 2, 0.5]])
    numbers, none = torch.arange(4), torch.arange(0)
    rows = Embeddings(queries, queries @ turn.T, queries[:0], numbers, none, numbers, numbers, none)
    metrics = vector_metrics(vector_health(rows))
    assert metrics["health/uniformity"] == pytest.approx(math.log((4 * math.exp(-4) + 2 * math.exp(-8)) / 6), abs=1e-5)
    assert metrics["health/alignment"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["health/query_cosine"] == pytest.approx(-1 / 3, abs=1e-6)


def test_histogram_counts_every_cosine_once_edges_and_rounding_included() -> None:
    counts = histogram(torch.tensor([-1.0, -1.0000001, 0.0, 0.049, 0.05, 1.0, 1.0000002]))
    assert counts.tolist() == [2.0] + 19 * [0.0] + [2.0, 1.0] + 17 * [0.0] + [2.0]
    assert (HISTOGRAM_EDGES[0], HISTOGRAM_EDGES[20], HISTOGRAM_EDGES[40]) == (-1, 0, 1)


def test_a_sample_is_spread_over_the_whole_batch_and_a_small_batch_is_taken_whole() -> None:
    assert evenly_spaced(10, 5, torch.device("cpu")).tolist() == [0, 2, 4, 6, 8]
    assert evenly_spaced(3, 5, torch.device("cpu")).tolist() == [0, 1, 2]
    assert float(duplicate_share(torch.tensor([7, 7, 7, 8]))) == 0.5


def test_a_large_batch_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "MAX_PAIRS", 6)
    monkeypatch.setattr(vectors, "MAX_SPREAD_VECTORS", 5)
    sums = vector_health(make_rows())
    assert (float(sums["pairs"]), float(sums["largest_rank"])) == (6, 5)
