"""Arithmetic on large tensors in blocks that stay in the processor's cache: no float32 copy of a whole tensor."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

BLOCK = 1 << 17
"""Elements: 0.5 MiB of float32, a few of which fit into a core's level-2 cache."""


def float_blocks(*tensors: Float[Tensor, "..."]) -> Iterator[list[Tensor]]:
    """The tensors' elements in float32, flat, in matching blocks.

    To be read only, and before the next ones are asked for: a float32 tensor's are views, the others' are overwritten.
    """
    rooms = [None if tensor.dtype == torch.float32 else torch.empty(BLOCK) for tensor in tensors]
    for stored in blocks(*tensors):
        yield [
            block if room is None else room[: len(block)].copy_(block)
            for block, room in zip(stored, rooms, strict=True)
        ]


def blocks(*tensors: Float[Tensor, "..."]) -> Iterator[tuple[Tensor, ...]]:
    """The tensors' elements as they are stored, flat, in matching blocks (views where a tensor is contiguous)."""
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
    """The sum of coefficient times tensor, in float32, stored as ``dtype``."""

    def total(entries: list[Tensor], room: Tensor) -> Tensor:
        torch.mul(entries[0], coefficients[0], out=room)
        for block, coefficient in zip(entries[1:], coefficients[1:], strict=True):
            room.add_(block, alpha=coefficient)
        return room

    return by_blocks(total, tensors, dtype)


def interpolate(
    a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"], t: float, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*shape"]:
    """``a + t (b - a)`` in float32, stored as ``dtype``; ``a`` itself, to the bit, where the two are equal."""
    return by_blocks(lambda entries, room: torch.lerp(entries[0], entries[1], t, out=room), [a, b], dtype)


def by_blocks(
    function: Callable[[list[Tensor], Tensor], Tensor],
    tensors: Sequence[Float[Tensor, "*shape"]],
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "*shape"]:
    """``function`` of the tensors, entry by entry.

    Args:
        function: takes the float32 blocks and a block to write its result into, and returns that.
        dtype: of the result.
    """
    result = torch.empty(tensors[0].shape, dtype=dtype)
    targets = result.reshape(-1).split(BLOCK)
    room = torch.empty(BLOCK)
    for target, inputs in zip(targets, float_blocks(*tensors), strict=True):
        if dtype == torch.float32:
            function(inputs, target)
        else:
            target.copy_(function(inputs, room[: len(target)]))
    return result


def join_in_turn(
    tensors: Iterable[Float[Tensor, "*shape"]],
    weights: Iterable[float],
    join: Callable[[Tensor, Tensor, float], Tensor],
) -> Float[Tensor, "*shape"]:
    """Folds many tensors into one: each joins the result of those before it at its share of the weight so far.

    Args:
        tensors: one or more; they are asked for one after the other, so that only one and the result are held.
        weights: positive, one for each tensor.
        join: ``join(result, tensor, t)``, the result at ``t`` = 0 and the tensor at 1.
    """
    joined, so_far = None, 0.0
    for tensor, weight in zip(tensors, weights, strict=True):
        so_far += weight
        joined = tensor.float() if joined is None else join(joined, tensor, weight / so_far)
    if joined is None:
        raise ValueError("nothing to merge: give at least one tensor.")
    return joined
