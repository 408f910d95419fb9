"""karcher_mean: the nearest point to all directions, in no order; slerp for two; the tensor itself for equal ones."""

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3emb_train.merging.methods.karcher import karcher_mean
from qwen3emb_train.merging.methods.slerp import slerp
from tests.merging.methods.tensors import random_tensors

SEEDS = st.integers(0, 10_000)


def _angles(mean: torch.Tensor, tensors: list[torch.Tensor]) -> list[float]:
    mean = mean.double().flatten() / mean.double().norm()
    units = [tensor.double().flatten() / tensor.double().norm() for tensor in tensors]
    return [2.0 * math.atan2((mean - u).norm().item(), (mean + u).norm().item()) for u in units]


@given(SEEDS)
@settings(max_examples=25, deadline=None)
def test_no_point_nearby_is_nearer_to_all(seed: int) -> None:
    """The definition: the weighted sum of squared angles has its minimum there."""
    tensors, weights = random_tensors(seed, 3), [0.5, 0.3, 0.2]
    mean = karcher_mean(tensors, weights)

    def cost(point: torch.Tensor) -> float:
        return sum(w * angle**2 for w, angle in zip(weights, _angles(point, tensors), strict=True))

    generator = torch.Generator().manual_seed(seed)
    for _ in range(5):
        step = torch.randn(mean.shape, generator=generator)
        assert cost(mean) <= cost(mean + 0.05 * step) + 1e-9


@given(SEEDS, st.floats(0.05, 0.95))
@settings(max_examples=25, deadline=None)
def test_two_tensors_of_one_norm_are_a_slerp(seed: int, t: float) -> None:
    a, b = random_tensors(seed, 2)
    b = b * (a.norm() / b.norm())
    torch.testing.assert_close(karcher_mean([a, b], [1 - t, t]), slerp(a, b, t), rtol=1e-4, atol=1e-5)


@given(SEEDS)
@settings(max_examples=25, deadline=None)
def test_the_order_does_not_matter(seed: int) -> None:
    tensors, weights = random_tensors(seed, 3), [0.5, 0.3, 0.2]
    means = [karcher_mean([tensors[i] for i in p], [weights[i] for i in p]) for p in permutations(range(3))]
    assert all(torch.allclose(mean, means[0], rtol=1e-5, atol=1e-6) for mean in means)


def test_slerps_in_turn_do_depend_on_it() -> None:
    """So the test above can fail."""
    from qwen3emb_train.merging.methods.slerp import slerp_in_turn

    tensors = random_tensors(1, 3)
    assert not torch.allclose(
        slerp_in_turn(tensors, [1.0, 1.0, 1.0]), slerp_in_turn(tensors[::-1], [1.0, 1.0, 1.0]), atol=1e-3
    )


@pytest.mark.parametrize("num_tensors", [2, 3, 5])
def test_equal_tensors_give_that_tensor_to_the_bit(num_tensors: int) -> None:
    (a,) = random_tensors(2, 1)
    assert torch.equal(karcher_mean([a] * num_tensors, [1 / num_tensors] * num_tensors), a)


def test_the_norm_is_the_weighted_mean_of_the_norms() -> None:
    tensors = random_tensors(3, 3)
    expected = sum(w * tensor.norm() for w, tensor in zip([0.5, 0.3, 0.2], tensors, strict=True))
    torch.testing.assert_close(karcher_mean(tensors, [0.5, 0.3, 0.2]).norm(), expected)


def test_a_tensor_of_zeros_has_no_direction_and_is_averaged_linearly() -> None:
    a, b = random_tensors(4, 2)
    expected = 0.25 * a + 0.25 * b
    torch.testing.assert_close(karcher_mean([a, torch.zeros_like(a), b], [0.25, 0.5, 0.25]), expected)


def test_opposite_directions_are_refused() -> None:
    a, b = random_tensors(5, 2)
    with pytest.raises(ValueError, match="opposite directions"):
        karcher_mean([a, b, -3.0 * a], [0.4, 0.3, 0.3])
    plane = [torch.tensor([math.cos(x), math.sin(x)]) for x in (0.0, 2 * math.pi / 3, 4 * math.pi / 3)]
    with pytest.raises(ValueError, match="opposite directions"):  # three that cancel
        karcher_mean(plane, [1 / 3] * 3)
