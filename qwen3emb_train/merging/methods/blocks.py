"""Arithmetic on large tensors in blocks that fit the CPU cache, without a float32 copy of a whole tensor."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

BLOCK = 1 << 17
"""Elements: 0.5 MiB of float32, a few of which fit into a core's level-2 cache."""


def float_blocks(*tensors: Float[Tensor, "..."]) -> Iterator[list[Tensor]]:
    """Elements of the tensors in float32, flat, in matching blocks.

    Blocks are read-only and valid until the next iteration: those of float32 tensors are views, others are overwritten.
    """
    buffers = [None if tensor.dtype == torch.float32 else torch.empty(BLOCK) for tensor in tensors]
    for stored in blocks(*tensors):
        yield [
            block if buffer is None else buffer[: len(block)].copy_(block)
            for block, buffer in zip(stored, buffers, strict=True)
        ]


def blocks(*tensors: Float[Tensor, "..."]) -> Iterator[tuple[Tensor, ...]]:
    """Elements of the tensors in their dtype, flat, in matching blocks (views of contiguous tensors)."""
    return zip(*(tensor.reshape(-1).split(BLOCK) for tensor in tensors), strict=True)


def inner_products(tensors: Sequence[Float[Tensor, "*shape"]]) -> Float[Tensor, "n n"]:
    """All inner products, in one pass: float32 within a block, the blocks' sums in float64."""
    sums = [[0.0] * len(tensors) for _ in tensors]
    for rows in float_blocks(*tensors):
        for i, row in enumerate(rows):
            for j in range(i + 1):
                sums[i][j] += torch.dot(row, rows[j]).item()
    lower = torch.tensor(sums, dtype=torch.float64)
    return lower + lower.tril(-1).T


def weighted_sum(
    tensors: Sequence[Float[Tensor, "*shape"]], coefficients: Sequence[float], dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*shape"]:
    """The sum of coefficient times tensor, computed in float32.

    Args:
        tensors: of one shape.
        coefficients: one for each tensor.
        dtype: of the result.
    """

    def total(entries: list[Tensor], out: Tensor) -> Tensor:
        torch.mul(entries[0], coefficients[0], out=out)
        for block, coefficient in zip(entries[1:], coefficients[1:], strict=True):
            out.add_(block, alpha=coefficient)
        return out

    return by_blocks(total, tensors, dtype)


def interpolate(
    a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"], t: float, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*shape"]:
    """``a + t (b - a)``, computed in float32; exactly ``a`` where the two are equal.

    Args:
        a, b: of one shape.
        t: 0 gives ``a``, 1 gives ``b``.
        dtype: of the result.
    """
    return by_blocks(lambda entries, out: torch.lerp(entries[0], entries[1], t, out=out), [a, b], dtype)


def by_blocks(
    function: Callable[[list[Tensor], Tensor], Tensor],
    tensors: Sequence[Float[Tensor, "*shape"]],
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "*shape"]:
    """``function`` of the tensors, entry by entry.

    Args:
        function: takes the float32 blocks and an output block, which it fills and returns.
        tensors: of one shape.
        dtype: of the result.
    """
    result = torch.empty(tensors[0].shape, dtype=dtype)
    targets = result.reshape(-1).split(BLOCK)
    buffer = torch.empty(BLOCK)
    for target, inputs in zip(targets, float_blocks(*tensors), strict=True):
        if dtype == torch.float32:
            function(inputs, target)
        else:
            target.copy_(function(inputs, buffer[: len(target)]))
    return result


def join_in_turn(
    tensors: Iterable[Float[Tensor, "*shape"]],
    weights: Iterable[float],
    join: Callable[[Tensor, Tensor, float], Tensor],
) -> Float[Tensor, "*shape"]:
    """Folds many tensors into one: each is joined to the result so far at its fraction of the weight so far.

    Args:
        tensors: one or more, consumed one at a time, so that only one and the result are in memory.
        weights: positive, one for each tensor.
        join: ``join(result, tensor, t)``, the result at ``t`` = 0 and the tensor at 1.

    Raises:
        ValueError: there are no tensors.
    """
    joined, so_far = None, 0.0
    for tensor, weight in zip(tensors, weights, strict=True):
        so_far += weight
        joined = tensor.float() if joined is None else join(joined, tensor, weight / so_far)
    if joined is None:
        raise ValueError("nothing to merge: give at least one tensor.")
    return joined
