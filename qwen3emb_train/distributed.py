"""Ranks, and a gather that carries gradients.

Everything works without a process group: then there is one rank. ``torch.distributed`` is initialised by the training
program (through accelerate) or by a test, never here.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

_BACKENDS_THAT_SCATTER = ("nccl", "gloo", "fake")  # fake: the dry run of ``planning`` counts what a cluster would do


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_main_process() -> bool:
    """Also before the process group exists: a launcher names the rank in the environment."""
    if dist.is_available() and dist.is_initialized():
        return rank() == 0
    return launched_rank() == 0


def launched_rank() -> int:
    """The rank that a launcher put into the environment; for programs that need no process group."""
    return int(os.environ.get("RANK", "0"))


def launched_world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def all_gather_rows(rows: Tensor, counts: Sequence[int] | None = None) -> list[Tensor]:
    """Every rank's ``[rows, ...]`` tensor in rank order; the row counts may differ. Carries no gradient.

    ``counts``: rows of each rank, where they are known; asking for them makes the host wait for the device.
    """
    if world_size() == 1:
        return [rows.detach()]
    counts = gather_counts(len(rows), rows.device) if counts is None else counts
    padded = rows.detach().new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    return [part[:count] for part, count in zip(gathered, counts, strict=True)]


def gather_counts(count: int, device: torch.device) -> list[int]:
    """``count`` of every rank, in rank order."""
    return [of_rank[0] for of_rank in gather_all_counts([count], device)]


def gather_all_counts(counts: Sequence[int], device: torch.device) -> list[list[int]]:
    """Several counts of every rank, in rank order, in one collective and one wait for the device."""
    if world_size() == 1:
        return [list(counts)]
    own = torch.tensor(counts, dtype=torch.long).to(device, non_blocking=True)
    gathered = own.new_empty(world_size(), len(counts))
    dist.all_gather(list(gathered), own)
    of_ranks: list[list[int]] = gathered.tolist()
    return of_ranks


class _AllGatherWithGradient(torch.autograd.Function):
    """Forward: concatenates all ranks' rows. Backward: every rank receives the sum of all ranks' gradients of its rows.

    Both ready-made autograd gathers are deprecated in torch 2.13 and their successors are missing in 2.11, so this one
    is ours. With each rank's loss a mean over its own rows, DDP's averaging then gives exactly the gradient of the
    global mean (tests/losses/test_ranks.py).
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, rows: Tensor, known: Sequence[int] | None) -> Tensor:
        parts = all_gather_rows(rows, known)
        ctx.counts = [len(part) for part in parts]  # type: ignore[attr-defined]
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous()
        counts: list[int] = ctx.counts  # type: ignore[attr-defined]
        if len(set(counts)) == 1 and dist.get_backend() in _BACKENDS_THAT_SCATTER:  # half the traffic of an all-reduce
            own = total.new_empty(counts[0], *total.shape[1:])
            dist.reduce_scatter(own, list(total.split(counts)))
            return own, None
        dist.all_reduce(total)
        first = sum(counts[: rank()])
        return total[first : first + counts[rank()]], None


def all_gather_with_grad(rows: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """All ranks' rows, concatenated in rank order, differentiable with respect to this rank's rows.

    ``counts``: as in ``all_gather_rows``.
    """
    if world_size() == 1:
        return rows
    result: Tensor = _AllGatherWithGradient.apply(rows, counts)
    return result


def any_rank(flag: bool, device: torch.device | str = "cpu") -> bool:
    """True on every rank if ``flag`` is true on at least one."""
    if world_size() == 1:
        return flag
    votes = torch.tensor([int(flag)], device=device)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return bool(votes.item())


@contextmanager
def together(device: torch.device, doing: str = "write its part of the checkpoint") -> Iterator[None]:
    """A block that succeeds on every rank or fails on every rank: none waits for one that has failed. Collective.

    Raises:
        Exception: what the block raised on this rank.
        OSError: the block raised on another rank only; ``doing`` is for the message.
    """
    own: Exception | None = None
    try:
        yield
    except Exception as error:
        own = error
    if any_rank(own is not None, device):
        raise own or OSError(f"another rank could not {doing}; see its message")
