"""Invariants of the Matryoshka mean: the loss on prefixes, cut before normalising, weighted as the caller says."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qwen3emb_train.losses.distillation import Distillation
from qwen3emb_train.losses.embedding_loss import EmbeddingLoss, matryoshka
from qwen3emb_train.losses.infonce import InfoNCE
from qwen3emb_train.losses.spread_out import SpreadOut
from qwen3emb_train.losses.weighted_sum import WeightedSum
from tests.losses.drawn import batches, losses
from tests.losses.infonce_reference import Row, Text
from tests.losses.rows import embeddings_by_role, gradients, leaves, random_batch, text

LOSS = InfoNCE(temperature=0.1)


def assert_close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-12)


def cut(batch: list[Row], dim: int) -> list[Row]:
    """The same batch of shorter vectors."""

    def shorter(text: Text) -> Text:
        return Text(text.vector[:dim], text.text)

    def all_shorter(texts: list[Text]) -> list[Text]:
        return [shorter(text) for text in texts]

    return [Row(shorter(r.query), all_shorter(r.positives), all_shorter(r.negatives), r.scores) for r in batch]


def test_is_the_weighted_mean_of_the_loss_on_prefixes_cut_before_normalising() -> None:
    """In value and gradient, against batches whose vectors are short to begin with."""
    batch = random_batch(0, 5, most_positives=2, dim=6)
    output = matryoshka(LOSS, embeddings_by_role(batch), None, [2, 6, 3], [1.0, 2.0, 5.0])
    parts = {dim: LOSS(embeddings_by_role(cut(batch, dim))) for dim in (2, 6, 3)}
    expected = (parts[2].loss + 2 * parts[6].loss + 5 * parts[3].loss) / 8
    torch.testing.assert_close(output.loss, expected, atol=1e-12, rtol=1e-12)
    for found, wanted in zip(
        torch.autograd.grad(output.loss, leaves(batch)), torch.autograd.grad(expected, leaves(batch)), strict=True
    ):
        torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-12)
    for dim in parts:
        torch.testing.assert_close(output.metrics[f"loss_dim_{dim}"], parts[dim].loss.detach(), atol=1e-12, rtol=1e-12)
    for name, value in parts[6].metrics.items():  # of the largest
        torch.testing.assert_close(output.metrics[name], value, atol=1e-12, rtol=1e-12)
    assert not any(value.requires_grad for value in output.metrics.values())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(losses(), batches(dim=7), st.sampled_from([[7, 3, 2], [2, 6], [5]]), st.integers(0, 3))
def test_all_prefixes_in_one_sweep_equal_one_by_one(
    loss: InfoNCE, batch: list[Row], dims: list[int], first: int
) -> None:
    """Value, gradient of every vector and metrics of each prefix, for every setting, on ranks too."""
    first = min(first, len(batch) - 1)
    local, gathered = embeddings_by_role(batch[first:]), embeddings_by_role(batch)
    found = loss.on_prefixes(local, gathered, dims, first)
    wanted = EmbeddingLoss.on_prefixes(loss, local, gathered, dims, first)
    for output, expected in zip(found, wanted, strict=True):
        assert_close(output.loss, expected.loss)
        assert output.metrics.keys() == expected.metrics.keys()
        for name, value in expected.metrics.items():
            assert_close(output.metrics[name], value)
    weights = torch.tensor([1.0, -2.0, 5.0], dtype=torch.float64)[: len(dims)]
    swept, one_by_one = (torch.stack([output.loss for output in outputs]) @ weights for outputs in (found, wanted))
    assert_close(gradients(swept, batch), gradients(one_by_one, batch))


def test_each_prefix_has_masks_of_its_own() -> None:
    """The other document is above the margin on the first component alone, and below it on both."""
    batch = [
        Row(text(0, 1, 1), [text(1, 0.2, 1)]),
        Row(text(2, -1, 1), [text(3, 1, -0.5)]),
    ]
    loss = InfoNCE(query_query=False, document_document=False, false_negative_margin=0.0)
    short, full = loss.on_prefixes(embeddings_by_role(batch[:1]), embeddings_by_role(batch), [1, 2])
    assert (short.metrics["masked_share"].item(), full.metrics["masked_share"].item()) == (0, 0)
    batch[0].positives[0] = text(1, -0.2, 1)
    short, full = loss.on_prefixes(embeddings_by_role(batch[:1]), embeddings_by_role(batch), [1, 2])
    assert (short.metrics["masked_share"].item(), full.metrics["masked_share"].item()) == (1, 0)


def test_a_prefix_of_zeros_has_cosine_zero_and_a_finite_gradient() -> None:
    batch = [Row(text(0, 0, 0, 1), [text(1, 0, 0, 2)]), Row(text(2, 1, 1, 1), [text(3, 2, 0, 1)])]
    output = matryoshka(LOSS, embeddings_by_role(batch), None, [2, 3])
    one_by_one = EmbeddingLoss.on_prefixes(LOSS, embeddings_by_role(batch), None, [2, 3])
    assert_close(output.loss, (one_by_one[0].loss + one_by_one[1].loss) / 2)
    assert gradients(output.loss, batch).isfinite().all()


def test_what_is_added_to_a_loss_is_added_on_every_prefix() -> None:
    batch = random_batch(3, 5, dim=4, score_levels=4)
    loss = WeightedSum(LOSS, {"distillation": (0.3, Distillation()), "spread_out": (2.0, SpreadOut())})
    found = loss.on_prefixes(embeddings_by_role(batch), None, [4, 2])
    for dim, output in zip([4, 2], found, strict=True):
        expected = loss(embeddings_by_role(cut(batch, dim)))
        parts = {name: part(embeddings_by_role(cut(batch, dim))).loss for name, (_, part) in loss.additions.items()}
        total = LOSS(embeddings_by_role(cut(batch, dim))).loss + 0.3 * parts["distillation"] + 2 * parts["spread_out"]
        assert_close(output.loss, total)
        assert_close(gradients(output.loss, batch), gradients(total, batch))
        assert output.metrics.keys() == expected.metrics.keys()
        assert_close(output.metrics["distillation_loss"], parts["distillation"].detach())


def test_a_prefix_is_normalised_anew() -> None:
    """Cut after normalising, cosines of the prefix would be too small: here they are 1 however small the prefix is."""
    batch = [Row(Text(torch.tensor([0.1, 5.0]), 0), [Text(torch.tensor([0.2, -3.0]), 1)])]
    assert matryoshka(LOSS, embeddings_by_role(batch), None, [1]).metrics["positive_cosine"].item() == pytest.approx(1)


def test_dims_are_exactly_those_given_and_none_means_the_full_vector() -> None:
    batch = random_batch(1, 4, dim=4)
    rows = embeddings_by_role(batch)
    assert torch.equal(matryoshka(LOSS, rows, None, []).loss, LOSS(rows).loss)
    assert torch.equal(matryoshka(LOSS, rows, None, [2]).loss, LOSS(rows.truncated(2)).loss)
    equal = matryoshka(LOSS, rows, None, [2, 4])
    assert torch.equal(equal.loss, matryoshka(LOSS, rows, None, [2, 4], [3.0, 3.0]).loss)


def test_columns_and_first_query_reach_the_loss() -> None:
    batch = random_batch(2, 6, dim=4)
    columns = embeddings_by_role(batch)
    halves = [
        matryoshka(LOSS, embeddings_by_role(batch[i : i + 3]), columns, [2, 4], first_query=i).loss for i in (0, 3)
    ]
    torch.testing.assert_close(torch.stack(halves).mean(), matryoshka(LOSS, columns, None, [2, 4]).loss)


@pytest.mark.parametrize(
    ("dims", "weights", "message"),
    [
        ([2, 2], None, r"\[2, 2\] repeat"),
        ([0, 2], None, r"\[0\] are not within 1\.\.4"),
        ([2, 5, 9], None, r"\[5, 9\] are not within 1\.\.4"),
        ([2, 4], [1.0], "1 Matryoshka weights for 2 dims"),
        ([2, 4], [1.0, 0.0], "must be positive"),
    ],
)
def test_senseless_dims_and_weights_are_refused(dims: list[int], weights: list[float] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        matryoshka(LOSS, embeddings_by_role(random_batch(0, 2, dim=4)), None, dims, weights)
