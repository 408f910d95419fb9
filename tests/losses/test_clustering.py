"""Invariants of the clustering loss: texts of one cluster are positives and never negatives, whatever the tiles."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3emb_train.losses.clustering import Clustering
from tests.losses.infonce_reference import Row
from tests.losses.rows import assert_same, embeddings_by_role, gradients, random_batch, text
from tests.losses.task_references import reference_clustering


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.integers(0, 10_000),
    st.integers(1, 6),
    st.sampled_from([1, 2]),
    st.sampled_from([3, 8, 20, 1000]),
    st.sampled_from([0.05, 1.0]),
    st.sampled_from([1, 15, 2**24]),
)
def test_equals_the_formula(
    seed: int, num_queries: int, most_positives: int, num_texts: int, temperature: float, tile_elements: int
) -> None:
    """Value, gradient, metrics: clusters by name or by member, repeated queries, hard negatives of the own cluster."""
    batch = random_batch(seed, num_queries, most_positives=most_positives, num_texts=num_texts)
    output = Clustering(temperature, tile_elements)(embeddings_by_role(batch))
    expected, metrics = reference_clustering(batch, temperature)
    assert_same(output.loss, expected, batch)
    assert {name: value.item() for name, value in output.metrics.items()} == pytest.approx(metrics, abs=1e-10)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 1000), st.sampled_from([[3, 3], [1, 5], [2, 2, 2]]))
def test_ranks_together_are_the_whole(seed: int, sizes: list[int]) -> None:
    batch, first = random_batch(seed, 6, num_texts=12), 0
    for size in sizes:
        output = Clustering(tile_elements=30)(
            embeddings_by_role(batch[first : first + size]), embeddings_by_role(batch), first
        )
        assert_same(output.loss, reference_clustering(batch, 0.05, range(first, first + size))[0], batch)
        first += size


def test_by_hand() -> None:
    """Rows 0 and 1 have label 10, row 2 has 11; temperature 1, axes: only row 0 and its label have a cosine above 0."""
    axes = torch.eye(6).tolist()
    batch = [
        Row(text(0, *axes[0]), [text(10, *axes[0])]),
        Row(text(1, *axes[1]), [text(10, *axes[2])]),
        Row(text(2, *axes[3]), [text(11, *axes[4])]),
    ]
    output = Clustering(temperature=1.0)(embeddings_by_role(batch[:1]), embeddings_by_role(batch))
    # positives of row 0: its label (cosine 1), row 1 (0), row 1's copy of the label (0); negatives: row 2, label 11 (0)
    expected = (math.log1p(2 / math.e) + 2 * math.log1p(2)) / 3
    assert output.loss.item() == pytest.approx(expected, abs=1e-12)
    assert output.metrics["effective_positives"].item() == 3
    assert output.metrics["effective_negatives"].item() == 2


def test_one_cluster_has_nothing_to_be_told_from() -> None:
    batch = [Row(text(n, 1, n), [text(10, n, 1)]) for n in range(3)]
    output = Clustering()(embeddings_by_role(batch))
    assert output.loss.item() == 0
    assert not gradients(output.loss, batch).any()


def test_needs_all_columns_but_no_hard_negatives() -> None:
    assert Clustering().needs_gathered
    assert not Clustering().needs_gathered_negatives


@pytest.mark.parametrize(("key", "value"), [("temperature", 0.0), ("tile_elements", 0)])
def test_bad_settings_are_refused(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{key}={value}"):
        Clustering(**{key: value})  # type: ignore[arg-type]
