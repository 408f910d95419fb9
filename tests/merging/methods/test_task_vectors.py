"""TIES and DARE against their papers' formulas written plainly in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3emb_train.merging.methods.blocks import BLOCK
from qwen3emb_train.merging.methods.task_vectors import dare, ties
from tests.merging.methods.tensors import random_tensors

SEEDS = st.integers(0, 10_000)
WEIGHTS = [0.5, 0.3, 0.2]


def _ties_reference(
    base: torch.Tensor, models: list[torch.Tensor], weights: list[float], density: float, scale: float
) -> torch.Tensor:
    """Yadav et al. 2023, algorithm 1, entry by entry."""
    kept = []
    for model in models:
        vector = (model.double() - base.double()).flatten()
        order = vector.abs().argsort(descending=True)
        trimmed = torch.zeros_like(vector)
        largest = order[: max(1, int(density * len(vector)))]
        trimmed[largest] = vector[largest]
        kept.append(trimmed)
    merged = base.double().flatten().clone()
    for entry in range(len(merged)):
        values = [trimmed[entry].item() for trimmed in kept]
        sign = sum(w * value for w, value in zip(weights, values, strict=True))
        agreeing = [(w, value) for w, value in zip(weights, values, strict=True) if value * sign > 0]
        if agreeing:
            merged[entry] += scale * sum(w * value for w, value in agreeing) / sum(w for w, _ in agreeing)
    return merged.view(base.shape)


@given(SEEDS, st.sampled_from([0.1, 0.5, 1.0]), st.sampled_from([0.5, 1.0, 2.0]))
@settings(max_examples=30, deadline=None)
def test_ties_is_the_papers(seed: int, density: float, scale: float) -> None:
    base, *models = random_tensors(seed, 4)
    merged = ties(base, models, WEIGHTS, density=density, scale=scale)
    expected = _ties_reference(base, models, WEIGHTS, density, scale)
    torch.testing.assert_close(merged.double(), expected, rtol=1e-5, atol=1e-5)


def test_ties_does_not_depend_on_the_order_of_the_models() -> None:
    base, *models = random_tensors(1, 4)
    reordered = ties(base, models[::-1], WEIGHTS[::-1], density=0.4)
    torch.testing.assert_close(ties(base, models, WEIGHTS, density=0.4), reordered)


def test_ties_is_no_weighted_mean() -> None:
    """Guards the comparison above: with signs that disagree the two differ."""
    base, *models = random_tensors(2, 4)
    mean = sum(w * model for w, model in zip(WEIGHTS, models, strict=True))
    assert not torch.allclose(ties(base, models, WEIGHTS, density=1.0), mean, atol=0.1)


@pytest.mark.parametrize("method", ["ties", "dare"])
def test_equal_models_undropped_are_that_model(method: str) -> None:
    base, model = random_tensors(3, 2)
    merged = (
        ties(base, [model] * 3, WEIGHTS, density=1.0)
        if method == "ties"
        else dare(base, [model] * 3, WEIGHTS, density=1.0, seeds=["a", "b", "c"])
    )
    torch.testing.assert_close(merged, model)


def test_dare_without_dropping_is_the_weighted_mean() -> None:
    base, *models = random_tensors(4, 4)
    merged = dare(base, models, WEIGHTS, density=1.0, seeds=["a", "b", "c"])
    torch.testing.assert_close(merged, sum(w * model for w, model in zip(WEIGHTS, models, strict=True)))


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_dare_keeps_the_share_it_says_and_the_expectation(density: float) -> None:
    """Yu et al. 2023: dropped with probability 1 - density, the rest divided by density. Over more than one block."""
    base = torch.zeros(BLOCK + 12_345)
    merged = dare(base, [torch.ones_like(base)], [1.0], density=density, seeds=["a"])
    assert sorted(merged.unique().tolist()) == pytest.approx([0.0, 1.0 / density])
    assert merged.mean().item() == pytest.approx(1.0, abs=5 * ((1 - density) / density / len(base)) ** 0.5)


def test_dare_drops_the_same_entries_for_the_same_seed_only() -> None:
    base = torch.zeros(1000)
    first, again, other = (
        dare(base, [torch.ones(1000)], [1.0], density=0.5, seeds=[seed]) for seed in ("0/0/a", "0/0/a", "0/0/b")
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("density", [0.5, 1.0])
def test_the_inputs_are_left_as_they_are(density: float) -> None:
    base, *models = random_tensors(6, 3)
    before = [tensor.clone() for tensor in (base, *models)]
    ties(base, models, [0.5, 0.5], density=density)
    dare(base, models, [0.5, 0.5], density=density, seeds=["a", "b"])
    assert all(torch.equal(tensor, copy) for tensor, copy in zip((base, *models), before, strict=True))


def test_dare_ties_elects_signs_among_what_is_left() -> None:
    base, *models = random_tensors(5, 3)
    seeds = ["a", "b"]
    left = [dare(base, [models[i]], [1.0], density=0.5, seeds=[seeds[i]]) for i in range(2)]
    expected = _ties_reference(base, left, [0.6, 0.4], density=1.0, scale=1.0)
    merged = dare(base, models, [0.6, 0.4], density=0.5, seeds=seeds, elect_signs=True)
    torch.testing.assert_close(merged.double(), expected, rtol=1e-4, atol=1e-5)
