"""slerp: exact endpoints, the formula of Shoemake 1985 in float64, norms, and what happens where no arc is defined."""

import math
import weakref
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3emb_train.merging.methods.slerp import slerp, slerp_in_turn
from tests.merging.methods.tensors import random_tensors

POSITIONS = st.floats(0.0, 1.0, allow_nan=False)
SEEDS = st.integers(0, 10_000)


def _pair(seed: int, shape: tuple[int, ...] = (6, 5)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def _formula(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    """The textbook formula in float64; the angle by atan2, another route than the code's."""
    a, b = a.double().flatten(), b.double().flatten()
    unit_a, unit_b = a / a.norm(), b / b.norm()
    angle = 2.0 * math.atan2((unit_a - unit_b).norm().item(), (unit_a + unit_b).norm().item())
    return (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)


@given(SEEDS, POSITIONS)
@settings(max_examples=60, deadline=None)
def test_equals_the_float64_formula(seed: int, t: float) -> None:
    a, b = _pair(seed)
    torch.testing.assert_close(slerp(a, b, t).flatten().double(), _formula(a, b, t), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_endpoints_are_equal_to_the_bit(dtype: torch.dtype) -> None:
    a, b = (tensor.to(dtype) for tensor in _pair(1))
    assert torch.equal(slerp(a, b, 0.0).to(dtype), a)
    assert torch.equal(slerp(a, b, 1.0).to(dtype), b)
    assert torch.equal(slerp(a, -a, 1.0).to(dtype), -a)  # the ends exist even where no arc does
    assert slerp(a, b, 0.0).data_ptr() != a.data_ptr()


@given(SEEDS, POSITIONS)
@settings(max_examples=40, deadline=None)
def test_a_tensor_with_itself_is_itself(seed: int, t: float) -> None:
    a, _ = _pair(seed)
    assert torch.equal(slerp(a, a, t), a)


@given(SEEDS, POSITIONS)
@settings(max_examples=40, deadline=None)
def test_equal_norms_are_kept_which_a_linear_average_does_not(seed: int, t: float) -> None:
    a, b = _pair(seed)
    b = b * (a.norm() / b.norm())
    assert slerp(a, b, t).norm().item() == pytest.approx(a.norm().item(), rel=1e-5)


def test_the_norm_property_bites() -> None:
    a, b = _pair(3)
    b = b * (a.norm() / b.norm())
    assert torch.lerp(a, b, 0.5).norm() < 0.9 * a.norm()


@given(SEEDS, POSITIONS, st.floats(0.1, 10.0))
@settings(max_examples=40, deadline=None)
def test_the_norm_lies_between_the_two_up_to_a_right_angle(seed: int, t: float, ratio: float) -> None:
    a, b = _pair(seed)
    b = b if torch.sum(a * b) >= 0 else -b
    low, high = sorted((a.norm().item(), (ratio * b).norm().item()))
    assert low * (1 - 1e-5) <= slerp(a, ratio * b, t).norm().item() <= high * (1 + 1e-5)


@given(SEEDS, POSITIONS)
@settings(max_examples=40, deadline=None)
def test_exchanging_the_models_mirrors_t(seed: int, t: float) -> None:
    a, b = _pair(seed)
    torch.testing.assert_close(slerp(a, b, t), slerp(b, a, 1.0 - t), rtol=1e-4, atol=1e-5)


def test_coefficients_apply_to_the_unnormalised_tensors_as_in_mergekit() -> None:
    """mergekit: the angle from normalised copies, the weights on the originals: perpendicular 3 and 1 meet at 3s, s."""
    result = slerp(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 1.0]), 0.5)
    torch.testing.assert_close(result, torch.tensor([3.0, 1.0]) * math.sqrt(0.5))


def test_nearly_parallel_tensors_are_interpolated_linearly() -> None:
    a, noise = _pair(4)
    b = a + 1e-3 * noise
    assert torch.equal(slerp(a, b, 0.3), torch.lerp(a, b, 0.3))
    torch.testing.assert_close(slerp(a, b, 0.3).flatten().double(), _formula(a, b, 0.3), rtol=1e-4, atol=1e-5)


def test_a_tensor_of_zeros_has_no_direction_and_is_interpolated_linearly() -> None:
    a = torch.tensor([2.0, -4.0])
    assert torch.equal(slerp(torch.zeros(2), a, 0.25), 0.25 * a)
    assert torch.equal(slerp(torch.zeros(2), torch.zeros(2), 0.25), torch.zeros(2))


def test_opposite_directions_are_refused() -> None:
    a, _ = _pair(5)
    with pytest.raises(ValueError, match="opposite directions"):
        slerp(a, -2.0 * a, 0.5)


@pytest.mark.parametrize("t", [-0.1, 1.1, math.nan])
def test_t_outside_the_arc_is_refused(t: float) -> None:
    with pytest.raises(ValueError, match="not on the arc"):
        slerp(*_pair(6), t)


@given(SEEDS, st.lists(st.floats(0.05, 5.0), min_size=2, max_size=5))
@settings(max_examples=40, deadline=None)
def test_many_in_turn_are_slerps_of_slerps(seed: int, weights: list[float]) -> None:
    tensors = random_tensors(seed, len(weights))
    expected, so_far = tensors[0], weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        so_far += weight
        expected = _formula(expected, tensor, weight / so_far).view(tensor.shape).float()
    torch.testing.assert_close(slerp_in_turn(tensors, weights), expected, rtol=1e-4, atol=1e-5)


def test_equal_tensors_in_turn_give_that_tensor_to_the_bit() -> None:
    a, _ = _pair(7)
    assert torch.equal(slerp_in_turn([a] * 4, [0.1, 0.2, 0.3, 0.4]), a)


def test_tensors_are_asked_for_one_after_the_other() -> None:
    """Memory: the merge so far and one tensor, never all of them."""
    alive: list[weakref.ref[torch.Tensor]] = []

    def tensors() -> Iterator[torch.Tensor]:
        for tensor_seed in range(6):
            assert sum(reference() is not None for reference in alive) <= 2
            tensor = _pair(tensor_seed)[0]
            alive.append(weakref.ref(tensor))
            yield tensor
            del tensor

    slerp_in_turn(tensors(), [1.0] * 6)
    assert len(alive) == 6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_result_is_rounded_once(dtype: torch.dtype) -> None:
    a, b = (tensor.to(dtype) for tensor in _pair(8))
    assert torch.equal(slerp(a, b, 0.3, dtype), slerp(a.float(), b.float(), 0.3).to(dtype))
