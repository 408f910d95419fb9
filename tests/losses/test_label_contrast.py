"""Invariants of the label contrast: right labels against the wrong labels of the same query, and nothing else."""

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3emb_train.losses.label_contrast import LabelContrast
from tests.losses.infonce_reference import Row
from tests.losses.rows import assert_same, embeddings_by_role, gradients, random_batch, text
from tests.losses.task_references import reference_label_contrast


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(0, 10_000),
    st.integers(1, 5),
    st.sampled_from([1, 3]),
    st.sampled_from([3, 8, 1000]),
    st.sampled_from([0.02, 0.5]),
)
@pytest.mark.filterwarnings("ignore:Classification rows")
def test_equals_the_formula(
    seed: int, num_queries: int, most_positives: int, num_texts: int, temperature: float
) -> None:
    """Several right labels, none to many wrong ones, wrong labels with the text of right ones."""
    batch = random_batch(seed, num_queries, most_positives=most_positives, most_negatives=3, num_texts=num_texts)
    output = LabelContrast(temperature)(embeddings_by_role(batch))
    assert_same(output.loss, reference_label_contrast(batch, temperature), batch)


def test_by_hand() -> None:
    """Right label at cosine 1, wrong ones at 0 and -1, temperature 1; the other query has another label."""
    batch = [
        Row(text(0, 1, 0), [text(1, 2, 0)], [text(2, 0, 3), text(3, -1, 0)]),
        Row(text(4, 1, 0), [text(5, 1, 0)], [text(6, 1, 0)]),
    ]
    first = -math.log(math.e / (math.e + 1 + math.exp(-1)))
    output = LabelContrast(temperature=1.0)(embeddings_by_role(batch))
    assert output.loss.item() == pytest.approx((first + math.log(2)) / 2, abs=1e-12)
    assert output.metrics["effective_negatives"].item() == 1.5


def test_other_queries_do_not_matter() -> None:
    """Neither this rank's nor other ranks': a query has the gradient that it has alone, divided by their number."""
    batch = random_batch(0, 4, most_positives=2, num_texts=6)
    alone = gradients(LabelContrast()(embeddings_by_role(batch[:1])).loss / 4, batch[:1])
    together = gradients(LabelContrast()(embeddings_by_role(batch)).loss, batch)
    torch.testing.assert_close(together[: len(alone)], alone)
    assert not LabelContrast().needs_gathered
    local, gathered = embeddings_by_role(batch[2:]), embeddings_by_role(batch)
    assert torch.equal(LabelContrast()(local, gathered, 2).loss, LabelContrast()(local).loss)


def test_a_wrong_label_far_above_the_right_one_is_no_false_negative() -> None:
    """Labels are known: no margin masks the mistakes that matter most."""
    batch = [Row(text(0, 1, 0), [text(1, 0, 1)], [text(2, 1, 0)])]
    assert LabelContrast()(embeddings_by_role(batch)).loss.item() == pytest.approx(1 / 0.02, rel=1e-6)


def test_no_wrong_labels_at_all_warns_with_the_remedy() -> None:
    with pytest.warns(UserWarning, match=r"other labels as 'negatives'.*task_losses\.tasks_with_main_loss"):
        output = LabelContrast()(embeddings_by_role(random_batch(0, 3, most_negatives=0)))
    assert output.loss.item() == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LabelContrast()(embeddings_by_role(random_batch(0, 3)))


def test_settings() -> None:
    with pytest.raises(ValueError, match=r"temperature=-1\.0 of LabelContrast"):
        LabelContrast(temperature=-1.0)
