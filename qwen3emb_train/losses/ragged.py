"""Ragged groups without padding: queries have different numbers of documents.

Segments are given by an ascending index vector with one entry per item: ``[0, 0, 2]`` means that segment 0 has two
items, segment 1 none and segment 2 one. Nothing here loops over segments. The reductions take segments in any order.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def floor_of(dtype: torch.dtype) -> float:
    """The logit of a masked item: so low that its exponential is 0, finite so that no gradient is NaN."""
    return torch.finfo(dtype).min / 2


def count_items(
    segment: Int[Tensor, " items"], num_segments: int, counted: Bool[Tensor, " items"] | None = None
) -> Int[Tensor, " segments"]:
    """How many items each segment has. Not by ``bincount``, which makes the host wait for a GPU twice.

    Args:
        segment: of each item.
        num_segments: number of segments.
        counted: which items count; None: all.
    """
    ones = torch.ones_like(segment) if counted is None else counted.to(segment.dtype)
    return segment.new_zeros(num_segments).index_add_(0, segment, ones)


def join(
    left_segment: Int[Tensor, " left"], right_segment: Int[Tensor, " right"], num_segments: int
) -> tuple[Int[Tensor, " joined"], Int[Tensor, " joined"]]:
    """All pairs (left item, right item) of the same segment, ordered by left item: their two index vectors.

    Args:
        left_segment, right_segment: the segment of each item.
        num_segments: number of segments, empty ones included.
    """
    right_count = count_items(right_segment, num_segments)
    right_start = right_count.cumsum(0) - right_count
    repeats = right_count[left_segment]
    left = torch.arange(len(left_segment), device=left_segment.device).repeat_interleave(repeats)
    first = repeats.cumsum(0) - repeats
    right = right_start[left_segment[left]] + torch.arange(len(left), device=left.device) - first[left]
    return left, right


def slots(segment: Int[Tensor, " items"], num_segments: int) -> Int[Tensor, "segments slots"]:
    """The indices of each segment's items, as wide as the largest segment; smaller ones repeat their last item.

    Repetition instead of padding does not change the result of an "any item ..." reduction.

    Raises:
        ValueError: a segment has no item.
    """
    count = count_items(segment, num_segments)
    least, most = torch.stack(count.aminmax()).tolist()  # one wait for a GPU
    if least == 0:
        raise ValueError(f"Query {int(count.argmin())} of the batch has no positive; every query needs at least one.")
    start = count.cumsum(0) - count
    slot = torch.arange(most, device=segment.device)
    return start[:, None] + torch.minimum(slot, count[:, None] - 1)


def segment_logsumexp(
    values: Float[Tensor, " items"], segment: Int[Tensor, " items"], num_segments: int
) -> Float[Tensor, " segments"]:
    """log(sum(exp(values))) of each segment's items; ``floor_of`` for a segment without items.

    Args:
        values: of the items.
        segment: the segment of each item.
        num_segments: number of segments, empty ones included.
    """
    floor = values.new_full((num_segments,), floor_of(values.dtype))
    largest = segment_max(values.detach(), segment, floor)
    # Each sum starts with exp(floor - largest): 0 beside a real item, 1 where there is none, so never log(0).
    total = (floor - largest).exp().index_add(0, segment, (values - largest[segment]).exp())
    return largest + total.log()


def segment_log_softmax(
    values: Float[Tensor, " items"], segment: Int[Tensor, " items"], num_segments: int
) -> Float[Tensor, " items"]:
    """Log-softmax over the items of each segment; exactly 0 for a single item.

    Args:
        values: of the items.
        segment: the segment of each item.
        num_segments: number of segments, empty ones included.
    """
    return values - segment_logsumexp(values, segment, num_segments)[segment]


def segment_max(
    values: Float[Tensor, " items"], segment: Int[Tensor, " items"], initial: Float[Tensor, " segments"]
) -> Float[Tensor, " segments"]:
    """The largest of each segment's items and its initial value.

    Args:
        values: of the items.
        segment: the segment of each item.
        initial: lower bound of each segment's maximum.
    """
    return initial.scatter_reduce(0, segment, values, "amax")
