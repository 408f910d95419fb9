"""Splitting a packed batch into chunks of a token budget, over texts sorted by length."""

import torch
from jaxtyping import Int
from torch import Tensor


def chunk_by_tokens(lengths: Int[Tensor, " texts"], tokens_per_chunk: int) -> list[Int[Tensor, " chosen"]]:
    """Groups texts of similar length, longest first, into chunks of at most ``tokens_per_chunk`` tokens.

    Longest first, so that a step that does not fit fails at its beginning. Similar lengths share a chunk, which keeps
    the dense grids of the CPU path nearly full. A text longer than the budget is a chunk of its own.

    Returns:
        Text indices of each chunk; every text occurs exactly once.

    Raises:
        ValueError: ``tokens_per_chunk`` is below 1.
    """
    if tokens_per_chunk < 1:
        raise ValueError(f"tokens_per_chunk is {tokens_per_chunk}; it must be at least 1 (a usual value is 4096).")
    order = torch.argsort(lengths, descending=True, stable=True)
    ends = lengths[order].cumsum(0).tolist()
    chunks: list[Tensor] = []
    first, used = 0, 0
    for position, end in enumerate(ends):
        if end - used > tokens_per_chunk and position > first:
            chunks.append(order[first:position])
            first, used = position, ends[position - 1]
    if first < len(order):
        chunks.append(order[first:])
    return chunks
