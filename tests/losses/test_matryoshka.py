"""Invariants of the Matryoshka mean: the loss on prefixes, cut before normalising, weighted as the caller says."""

import pytest
import torch

from qwen3emb_train.losses.infonce import InfoNCE
from qwen3emb_train.losses.matryoshka import matryoshka
from tests.losses.infonce_reference import Row, Text
from tests.losses.rows import leaves, random_batch, represent

LOSS = InfoNCE(temperature=0.1)


def cut(batch: list[Row], dim: int) -> list[Row]:
    """The same batch of shorter vectors."""

    def shorter(text: Text) -> Text:
        return Text(text.vector[:dim], text.text)

    return [Row(shorter(r.query), [shorter(t) for t in r.positives], [shorter(t) for t in r.negatives]) for r in batch]


def test_is_the_weighted_mean_of_the_loss_on_prefixes_cut_before_normalising() -> None:
    """In value and gradient, against batches whose vectors are short to begin with."""
    batch = random_batch(0, 5, most_positives=2, dim=6)
    output = matryoshka(LOSS, represent(batch), None, [2, 6, 3], [1.0, 2.0, 5.0])
    parts = {dim: LOSS(represent(cut(batch, dim))) for dim in (2, 6, 3)}
    expected = (parts[2].loss + 2 * parts[6].loss + 5 * parts[3].loss) / 8
    torch.testing.assert_close(output.loss, expected, atol=1e-12, rtol=1e-12)
    for found, wanted in zip(
        torch.autograd.grad(output.loss, leaves(batch)), torch.autograd.grad(expected, leaves(batch)), strict=True
    ):
        torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-12)
    by_dim = {name: value for name, value in output.metrics.items() if name.startswith("loss_dim_")}
    assert by_dim == {f"loss_dim_{dim}": parts[dim].loss for dim in parts}
    assert {name: output.metrics[name] for name in parts[6].metrics} == parts[6].metrics  # of the largest
    assert not any(value.requires_grad for value in output.metrics.values())


def test_a_prefix_is_normalised_anew() -> None:
    """Cut after normalising, cosines of the prefix would be too small: here they are 1 however small the prefix is."""
    batch = [Row(Text(torch.tensor([0.1, 5.0]), 0), [Text(torch.tensor([0.2, -3.0]), 1)])]
    assert matryoshka(LOSS, represent(batch), None, [1]).metrics["positive_cosine"].item() == pytest.approx(1)


def test_dims_are_exactly_those_given_and_none_means_the_full_vector() -> None:
    batch = random_batch(1, 4, dim=4)
    rows = represent(batch)
    assert torch.equal(matryoshka(LOSS, rows, None, []).loss, LOSS(rows).loss)
    assert torch.equal(matryoshka(LOSS, rows, None, [2]).loss, LOSS(rows.truncated(2)).loss)
    equal = matryoshka(LOSS, rows, None, [2, 4])
    assert torch.equal(equal.loss, matryoshka(LOSS, rows, None, [2, 4], [3.0, 3.0]).loss)


def test_columns_and_first_query_reach_the_loss() -> None:
    batch = random_batch(2, 6, dim=4)
    columns = represent(batch)
    halves = [matryoshka(LOSS, represent(batch[i : i + 3]), columns, [2, 4], first_query=i).loss for i in (0, 3)]
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
        matryoshka(LOSS, represent(random_batch(0, 2, dim=4)), None, dims, weights)
