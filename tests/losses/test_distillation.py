"""Invariants of distillation: both forms are their formulas over the documents that have a score and no others."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from qwen3emb_train.losses.distillation import Distillation, DistillationForm
from tests.losses.infonce_reference import Row
from tests.losses.rows import assert_same, embeddings_by_role, gradients, random_batch, text
from tests.losses.task_references import reference_kl, reference_margin_mse

KL, MARGIN_MSE = DistillationForm.kl, DistillationForm.margin_mse


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(0, 10_000),
    st.integers(1, 5),
    st.sampled_from([1, 3]),
    st.sampled_from([0, 3]),
    st.sampled_from([0.0, 0.4, 1.0]),
    st.sampled_from([(0.05, 1.0, 0.05), (1.0, 0.3, 1.0)]),
)
def test_equals_the_formulas(
    seed: int,
    num_queries: int,
    most_positives: int,
    most_negatives: int,
    unscored: float,
    scale: tuple[float, float, float],
) -> None:
    """Value, gradient and count, for ragged documents and scores missing here and there or everywhere."""
    batch = random_batch(
        seed,
        num_queries,
        most_positives=most_positives,
        most_negatives=most_negatives,
        score_levels=6,
        unscored=unscored,
    )
    temperature, teacher_temperature, cosine_per_score = scale
    for form, (expected, share) in {
        KL: reference_kl(batch, temperature, teacher_temperature),
        MARGIN_MSE: reference_margin_mse(batch, cosine_per_score),
    }.items():
        output = Distillation(form, temperature, teacher_temperature, cosine_per_score)(embeddings_by_role(batch))
        torch.testing.assert_close(output.metrics["scored_share"].item(), share)
        assert_same(output.loss, expected, batch)


def agreeing_row() -> Row:
    """Cosines 1, 0.6 and 0; scores 20 times those."""
    return Row(text(0, 1, 0), [text(1, 2, 0)], [text(2, 3, 4), text(3, 0, 1)], scores=[20.0, 12.0, 0.0])


def test_agreement_is_zero_and_stays() -> None:
    """Scores that are 20 times the cosines: both losses and their gradients vanish at the scale that says so."""
    for loss in (Distillation(KL, temperature=0.05), Distillation(MARGIN_MSE, cosine_per_score=0.05)):
        batch = [agreeing_row()]
        output = loss(embeddings_by_role(batch))
        assert output.loss.item() == pytest.approx(0, abs=1e-12)
        assert gradients(output.loss, batch).abs().max() < 1e-12


def test_by_hand() -> None:
    """One negative: a Bernoulli each. Margins: 1 in cosine against 0.05 * 10."""
    batch = [Row(text(0, 1, 0), [text(1, 1, 0)], [text(2, 0, 1)], scores=[5.0, -5.0])]
    p, q = 1 / (1 + math.exp(-10)), 1 / (1 + math.exp(-1))
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert Distillation(KL, temperature=1.0)(embeddings_by_role(batch)).loss.item() == pytest.approx(expected, abs=1e-7)
    assert Distillation(MARGIN_MSE)(embeddings_by_role(batch)).loss.item() == pytest.approx(
        (1 - 0.05 * 10) ** 2, abs=1e-12
    )


def test_a_score_of_each_query_may_be_shifted() -> None:
    """Only differences within a query count, so a teacher's bias does not."""
    batch = random_batch(0, 4, most_positives=2, score_levels=9)
    before = [Distillation(form)(embeddings_by_role(batch)).loss for form in DistillationForm]
    for number, row in enumerate(batch):
        row.scores = [score + 2.0 * number for score in row.scores or []]
    after = [Distillation(form)(embeddings_by_role(batch)).loss for form in DistillationForm]
    torch.testing.assert_close(before, after, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("form", DistillationForm)
def test_without_scores_it_says_what_to_do(form: DistillationForm) -> None:
    batch = random_batch(0, 3)
    with pytest.raises(ValueError, match=r"'scores' field.*require_scores=false.*distillation_weight=0"):
        Distillation(form)(embeddings_by_role(batch))
    output = Distillation(form, require_scores=False)(embeddings_by_role(batch))
    assert output.loss.item() == 0
    assert output.metrics["scored_share"].item() == 0
    assert not gradients(output.loss, batch).any()


def test_unscored_queries_stay_in_the_mean() -> None:
    """Ranks have different numbers of scored queries: a mean over those only would not average to the whole."""
    batch = random_batch(1, 2, most_positives=3, score_levels=6)
    batch[0].scores = None
    alone = Distillation()(embeddings_by_role(batch[1:])).loss
    torch.testing.assert_close(Distillation()(embeddings_by_role(batch)).loss, alone / 2)
    assert alone > 0.01


def test_columns_are_not_looked_at_and_scores_carry_no_gradient() -> None:
    batch = random_batch(2, 4, score_levels=5)
    local, gathered = embeddings_by_role(batch[2:]), embeddings_by_role(batch)
    assert torch.equal(Distillation()(local, gathered, 2).loss, Distillation()(local).loss)
    assert not Distillation().needs_gathered
    assert local.positive_scores is not None
    teacher = local.positive_scores.requires_grad_()
    loss = Distillation()(replace(local, positive_scores=teacher)).loss
    assert torch.autograd.grad(loss, teacher, allow_unused=True)[0] is None


def test_lower_precision_is_computed_in_float32() -> None:
    vectors = embeddings_by_role(random_batch(3, 8, dim=16, dtype=torch.bfloat16, score_levels=5))
    with torch.autocast("cpu", torch.bfloat16):
        assert all(Distillation(form)(vectors).loss.dtype == torch.float32 for form in DistillationForm)


@pytest.mark.parametrize("key", ["temperature", "teacher_temperature", "cosine_per_score"])
def test_settings(key: str) -> None:
    with pytest.raises(ValueError, match=f"{key}=0.0"):
        Distillation(**{key: 0.0})  # type: ignore[arg-type]
    schema = OmegaConf.merge(OmegaConf.structured(Distillation), {"form": "margin_mse", key: 2.0})
    assert OmegaConf.to_object(schema) == Distillation(MARGIN_MSE, **{key: 2.0})  # type: ignore[arg-type]
