"""Ragged groups without padding: queries own different numbers of documents.

A group is given by an *owner* vector, ascending, one entry for each item: ``[0, 0, 2]`` says that owner 0 has two
items, owner 1 none and owner 2 one. Nothing here loops over owners. The segment reductions take owners in any order.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def floor_of(dtype: torch.dtype) -> float:
    """The logit of a masked cell: so low that its exponential is 0, finite so that no gradient is NaN."""
    return torch.finfo(dtype).min / 2


def count_items(owner: Int[Tensor, " items"], num_owners: int) -> Int[Tensor, " owners"]:
    """How many items each owner has."""
    return torch.bincount(owner, minlength=num_owners)


def join(
    left_owner: Int[Tensor, " left"], right_owner: Int[Tensor, " right"], num_owners: int
) -> tuple[Int[Tensor, " joined"], Int[Tensor, " joined"]]:
    """All pairs (left item, right item) of the same owner, ordered by left item: their two index vectors."""
    right_count = count_items(right_owner, num_owners)
    right_start = right_count.cumsum(0) - right_count
    repeats = right_count[left_owner]
    left = torch.arange(len(left_owner), device=left_owner.device).repeat_interleave(repeats)
    first = repeats.cumsum(0) - repeats
    right = right_start[left_owner[left]] + torch.arange(len(left), device=left.device) - first[left]
    return left, right


def slots(owner: Int[Tensor, " items"], num_owners: int) -> Int[Tensor, "owners slots"]:
    """The indices of each owner's items, as wide as the largest group; smaller groups repeat their last item.

    Repeating instead of padding suits questions of the kind "does any item ...?".

    Raises:
        ValueError: an owner has no item.
    """
    count = count_items(owner, num_owners)
    if int(count.min()) == 0:
        raise ValueError(f"Query {int(count.argmin())} of the batch has no positive; every query needs at least one.")
    start = count.cumsum(0) - count
    slot = torch.arange(int(count.max()), device=owner.device)
    return start[:, None] + torch.minimum(slot, count[:, None] - 1)


def segment_logsumexp(
    values: Float[Tensor, " items"], owner: Int[Tensor, " items"], num_owners: int
) -> Float[Tensor, " owners"]:
    """log(sum(exp(values))) of each owner's items; the floor for an owner without items."""
    floor = values.new_full((num_owners,), floor_of(values.dtype))
    largest = segment_max(values.detach(), owner, floor)
    # Each sum starts with exp(floor - largest): 0 beside a real item, 1 where there is none, so never log(0).
    total = (floor - largest).exp().index_add(0, owner, (values - largest[owner]).exp())
    return largest + total.log()


def segment_max(
    values: Float[Tensor, " items"], owner: Int[Tensor, " items"], initial: Float[Tensor, " owners"]
) -> Float[Tensor, " owners"]:
    """The largest of each owner's items and its initial value."""
    return initial.scatter_reduce(0, owner, values, "amax")
