"""Invariants of CoSENT: the sorted sum is the quadratic one, in value and gradient, with ties and without."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from qwen3emb_train.losses.cosent import CoSENT, order_loss, spearman
from tests.losses.infonce_reference import Row
from tests.losses.rows import assert_same, embeddings_by_role, gradients, random_batch, text
from tests.losses.task_references import pairs_with_scores, reference_cosent


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.integers(0, 10_000),
    st.integers(1, 6),
    st.sampled_from([1, 3]),
    st.sampled_from([1, 2, 4, 1000]),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([0.02, 0.3, 1.0]),
)
def test_equals_the_double_sum(
    seed: int, num_queries: int, most_positives: int, levels: int, unscored: float, temperature: float
) -> None:
    """Few levels of score make ties, one makes nothing else; hard negatives and several positives are pairs too."""
    batch = random_batch(
        seed, num_queries, most_positives=most_positives, score_levels=levels, unscored=unscored, most_negatives=2
    )
    batch[0].scores = [0.0, *(batch[0].scores or [])[1:]]  # one pair at least has a score
    output = CoSENT(temperature)(embeddings_by_role(batch))
    assert_same(output.loss, reference_cosent(batch, temperature), batch)
    assert output.metrics["scored_pairs"].item() == len(pairs_with_scores(batch))
    mean = sum(c.item() for c, _ in pairs_with_scores(batch)) / len(pairs_with_scores(batch))
    assert output.metrics["mean_cosine"].item() == pytest.approx(mean)
    assert all(value.ndim == 0 and not value.requires_grad for value in output.metrics.values())


def test_three_pairs_by_hand() -> None:
    """Cosines 1, 0.6, 0 for scores 1, 3, 2: (3 over 1), (2 over 1) and (3 over 2) are ordered by temperature 1."""
    batch = [
        Row(text(0, 1, 0), [text(1, 5, 0)], scores=[1.0]),
        Row(text(2, 1, 0), [text(3, 3, 4)], scores=[3.0]),
        Row(text(4, 1, 0), [text(5, 0, 1)], scores=[2.0]),
    ]
    output = CoSENT(temperature=1.0)(embeddings_by_role(batch))
    expected = math.log(1 + math.exp(1 - 0.6) + math.exp(1 - 0) + math.exp(0 - 0.6))
    assert output.loss.item() == pytest.approx(expected, abs=1e-12)
    assert output.metrics["spearman"].item() == pytest.approx(-0.5)


def test_pairs_of_one_score_teach_nothing() -> None:
    batch = random_batch(0, 5, score_levels=1)
    output = CoSENT()(embeddings_by_role(batch))
    assert output.loss.item() == 0
    assert not gradients(output.loss, batch).any()
    assert output.metrics["spearman"].item() == 0


def test_gradient_is_exact_where_logits_are_far_apart() -> None:
    """Temperature 0.001 in float32: exponents of up to 2000, value and gradient as in float64."""
    logits = (torch.rand(64, generator=torch.Generator().manual_seed(0)) * 2 - 1) / 0.001
    scores = torch.arange(64.0) % 7
    single, double = logits.clone().requires_grad_(), logits.double().requires_grad_()
    found, wanted = order_loss(single, scores), order_loss(double, scores)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    (gradient,), (expected,) = torch.autograd.grad(found, single), torch.autograd.grad(wanted, double)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(gradient.double(), expected, atol=1e-3, rtol=1e-3)


def test_all_columns_count_on_every_rank() -> None:
    """Whatever rows are this rank's, the loss is that of all columns."""
    batch = random_batch(1, 6, score_levels=4)
    whole = CoSENT()(embeddings_by_role(batch)).loss
    for first in (0, 2, 4):
        assert torch.equal(
            CoSENT()(embeddings_by_role(batch[first : first + 2]), embeddings_by_role(batch), first).loss, whole
        )
    assert CoSENT().needs_gathered
    assert CoSENT().needs_gathered_negatives


def test_without_scores_it_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"'scores' field.*task_losses\.tasks_with_main_loss"):
        CoSENT()(embeddings_by_role(random_batch(0, 3)))
    with pytest.raises(ValueError, match="no row of this step has any"):
        CoSENT()(embeddings_by_role(random_batch(0, 3, score_levels=2, unscored=1.0)))


def test_scores_of_positives_alone_suffice() -> None:
    batch = random_batch(2, 5, score_levels=3)
    some = replace(embeddings_by_role(batch), negative_scores=None)
    for row in batch:
        row.scores = [s if n < len(row.positives) else math.nan for n, s in enumerate(row.scores or [])]
    torch.testing.assert_close(CoSENT()(some).loss, reference_cosent(batch, 0.05))


@pytest.mark.parametrize("levels", [2, 3, 1000])
def test_spearman_is_the_correlation_of_mean_ranks(levels: int) -> None:
    generator = torch.Generator().manual_seed(levels)
    left = torch.rand(40, generator=generator, dtype=torch.float64)
    right = torch.randint(levels, (40,), generator=generator).double()

    def mean_ranks(values: list[float]) -> list[float]:
        ordered = sorted(values)
        return [ordered.index(value) + (ordered.count(value) - 1) / 2 for value in values]

    expected = torch.corrcoef(torch.tensor([mean_ranks(left.tolist()), mean_ranks(right.tolist())]).double())[0, 1]
    assert spearman(left, right).item() == pytest.approx(expected.item(), abs=1e-6)


def test_lower_precision_and_autocast_are_computed_in_float32() -> None:
    batch = random_batch(3, 12, dim=16, dtype=torch.bfloat16, score_levels=5)
    vectors = embeddings_by_role(batch)
    exact = replace(
        vectors,
        queries=vectors.queries.double(),
        positives=vectors.positives.double(),
        negatives=vectors.negatives.double(),
    )
    with torch.autocast("cpu", torch.bfloat16):
        loss = CoSENT()(vectors).loss
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(CoSENT()(exact).loss.item(), rel=1e-5)


def test_settings() -> None:
    with pytest.raises(ValueError, match=r"temperature=0\.0"):
        CoSENT(temperature=0.0)
    assert OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(CoSENT), {"temperature": 0.1})) == CoSENT(0.1)
