"""Invariants of the spread-out regulariser: its moments are those of all pairs of texts, made without the pairs."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3emb_train.losses.spread_out import SpreadOut
from tests.losses.infonce_reference import Row, Text
from tests.losses.rows import assert_same, embeddings_by_role, gradients, random_batch, text
from tests.losses.task_references import reference_spread_out


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from([4, 1000]), st.sampled_from([2, 5]))
def test_equals_the_double_sum_over_different_texts(seed: int, num_queries: int, num_texts: int, dim: int) -> None:
    batch = random_batch(seed, num_queries, most_positives=2, num_texts=num_texts, dim=dim)
    assert_same(SpreadOut()(embeddings_by_role(batch)).loss, reference_spread_out(batch), batch)


def test_orthogonal_texts_cost_nothing_and_equal_ones_most() -> None:
    axes = torch.eye(4).tolist()
    spread = [Row(text(n, *axes[n]), [text(n + 10, *axes[n])]) for n in range(4)]
    output = SpreadOut()(embeddings_by_role(spread))
    assert output.loss.item() == pytest.approx(0, abs=1e-12)
    assert output.metrics["mean_cosine"].item() == pytest.approx(0, abs=1e-12)
    collapsed = [Row(text(n, *axes[0]), [text(n + 10, *axes[0])]) for n in range(4)]
    output = SpreadOut()(embeddings_by_role(collapsed))
    assert output.loss.item() == pytest.approx(2 * (1 + 1 - 1 / 4))
    assert output.metrics["mean_cosine"].item() == pytest.approx(1)
    assert output.metrics["mean_squared_cosine"].item() == pytest.approx(1)


def test_a_text_is_not_pushed_from_itself() -> None:
    batch = [Row(text(0, 1, 0), [text(1, 1, 0)]), Row(text(0, 1, 0), [text(1, 1, 0)])]
    output = SpreadOut()(embeddings_by_role(batch))
    assert output.loss.item() == 0
    assert not gradients(output.loss, batch).any()


def test_it_pulls_a_narrow_cone_apart() -> None:
    """A few steps of descent lower the mean cosine: the sign is right."""
    vectors = torch.randn(12, 8, generator=torch.Generator().manual_seed(0)) * 0.2 + 1
    vectors.requires_grad_()

    def output() -> tuple[torch.Tensor, float]:
        half = vectors.unbind(0)
        batch = [Row(Text(half[n], n), [Text(half[n + 6], n + 6)]) for n in range(6)]
        found = SpreadOut()(embeddings_by_role(batch))
        return found.loss, found.metrics["mean_cosine"].item()

    before = output()[1]
    for _ in range(20):
        (gradient,) = torch.autograd.grad(output()[0], vectors)
        with torch.no_grad():
            vectors -= 5 * gradient
    assert before > 0.9
    assert output()[1] < 0.3


def test_all_columns_count_on_every_rank() -> None:
    batch = random_batch(1, 6, num_texts=9)
    whole = SpreadOut()(embeddings_by_role(batch)).loss
    assert torch.equal(SpreadOut()(embeddings_by_role(batch[2:4]), embeddings_by_role(batch), 2).loss, whole)
    assert SpreadOut().needs_gathered
    assert not SpreadOut().needs_gathered_negatives


def test_float32_keeps_the_digits_at_usual_sizes() -> None:
    """4000 vectors: the sum over all pairs minus that of each with itself does not cancel."""
    vectors = torch.randn(4000, 64, generator=torch.Generator().manual_seed(1))
    batch = embeddings_by_role([Row(text(0, *[1.0] * 64), [text(1, *[1.0] * 64)])])

    def loss(dtype: torch.dtype) -> float:
        many = replace(
            batch,
            queries=vectors.to(dtype),
            positives=vectors.to(dtype),
            query_hash=torch.arange(4000),
            positive_hash=torch.arange(4000),
            positive_query_idx=torch.arange(4000),
        )
        return SpreadOut()(many).metrics["mean_squared_cosine"].item()

    assert loss(torch.float32) == pytest.approx(loss(torch.float64), rel=1e-5)
