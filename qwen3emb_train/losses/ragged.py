"""Ragged groups without padding: queries own different numbers of documents.

Segments are given by an index vector, ascending, one entry for each item: ``[0, 0, 2]`` says that segment 0 has two
items, segment 1 none and segment 2 one. Nothing here loops over segments. The reductions take segments in any order.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def floor_of(dtype: torch.dtype) -> float:
    """The logit of a masked cell: so low that its exponential is 0, finite so that no gradient is NaN."""
    return torch.finfo(dtype).min / 2


def count_items(segment: Int[Tensor, " items"], num_segments: int) -> Int[Tensor, " segments"]:
    """How many items each segment has."""
    return torch.bincount(segment, minlength=num_segments)


def join(
    left_segment: Int[Tensor, " left"], right_segment: Int[Tensor, " right"], num_segments: int
) -> tuple[Int[Tensor, " joined"], Int[Tensor, " joined"]]:
    """All pairs (left item, right item) of the same segment, ordered by left item: their two index vectors."""
    right_count = count_items(right_segment, num_segments)
    right_start = right_count.cumsum(0) - right_count
    repeats = right_count[left_segment]
    left = torch.arange(len(left_segment), device=left_segment.device).repeat_interleave(repeats)
    first = repeats.cumsum(0) - repeats
    right = right_start[left_segment[left]] + torch.arange(len(left), device=left.device) - first[left]
    return left, right


def slots(segment: Int[Tensor, " items"], num_segments: int) -> Int[Tensor, "segments slots"]:
    """The indices of each segment's items, as wide as the largest group; smaller groups repeat their last item.

    Repeating instead of padding suits questions of the kind "does any item ...?".

    Raises:
        ValueError: an segment has no item.
    """
    count = count_items(segment, num_segments)
    if int(count.min()) == 0:
        raise ValueError(f"Query {int(count.argmin())} of the batch has no positive; every query needs at least one.")
    start = count.cumsum(0) - count
    slot = torch.arange(int(count.max()), device=segment.device)
    return start[:, None] + torch.minimum(slot, count[:, None] - 1)


def segment_logsumexp(
    values: Float[Tensor, " items"], segment: Int[Tensor, " items"], num_segments: int
) -> Float[Tensor, " segments"]:
    """log(sum(exp(values))) of each segment's items; the floor for an segment without items."""
    floor = values.new_full((num_segments,), floor_of(values.dtype))
    largest = segment_max(values.detach(), segment, floor)
    # Each sum starts with exp(floor - largest): 0 beside a real item, 1 where there is none, so never log(0).
    total = (floor - largest).exp().index_add(0, segment, (values - largest[segment]).exp())
    return largest + total.log()


def segment_max(
    values: Float[Tensor, " items"], segment: Int[Tensor, " items"], initial: Float[Tensor, " segments"]
) -> Float[Tensor, " segments"]:
    """The largest of each segment's items and its initial value."""
    return initial.scatter_reduce(0, segment, values, "amax")
