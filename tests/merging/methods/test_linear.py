"""weighted_mean: the float64 formula, in any order, and equal tensors to the bit; blocks do not show."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3emb_train.merging.methods import blocks
from qwen3emb_train.merging.methods.linear import weighted_mean
from tests.merging.methods.tensors import random_tensors


@given(st.integers(0, 10_000), st.lists(st.floats(0.01, 10.0), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_equals_the_float64_formula_in_any_order(seed: int, weights: list[float]) -> None:
    tensors = random_tensors(seed, len(weights))
    expected = sum(w * tensor.double() for w, tensor in zip(weights, tensors, strict=True)) / sum(weights)
    for order in (slice(None), slice(None, None, -1)):
        mean = weighted_mean(tensors[order], weights[order])
        torch.testing.assert_close(mean.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_tensors_give_that_tensor_to_the_bit(dtype: torch.dtype) -> None:
    (a,) = random_tensors(1, 1)
    assert torch.equal(weighted_mean([a.to(dtype)] * 5, [0.3, 0.1, 0.2, 0.15, 0.25]).to(dtype), a.to(dtype))


def test_a_tensor_larger_than_a_block_is_merged_whole() -> None:
    """Sizes that do not fill the last block; a transposed tensor, whose memory is in another order."""
    a, b = random_tensors(2, 2, shape=(blocks.BLOCK // 300, 701))
    for x, y in ((a, b), (a.T, b.T)):
        torch.testing.assert_close(weighted_mean([x, y], [1.0, 3.0]), 0.25 * x + 0.75 * y)
        products = blocks.inner_products([x, y])
        expected = torch.stack([x, y]).double().flatten(1)
        torch.testing.assert_close(products, expected @ expected.T, rtol=1e-6, atol=1e-2)
