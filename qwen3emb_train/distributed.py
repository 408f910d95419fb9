"""Ranks, and a gather that carries gradients.

Everything works without a process group: then there is one rank. ``torch.distributed`` is initialised by the training
program (through accelerate) or by a test, never here.
"""

import os

import torch
import torch.distributed as dist
from torch import Tensor


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


def all_gather_rows(rows: Tensor) -> list[Tensor]:
    """Every rank's ``[rows, ...]`` tensor in rank order; the row counts may differ. Carries no gradient."""
    if world_size() == 1:
        return [rows.detach()]
    counts = gather_counts(len(rows), rows.device)
    padded = rows.detach().new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    return [part[:count] for part, count in zip(gathered, counts, strict=True)]


def gather_counts(count: int, device: torch.device) -> list[int]:
    """``count`` of every rank, in rank order."""
    if world_size() == 1:
        return [count]
    counts = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([count], dtype=torch.long, device=device))
    return [int(c) for c in counts]


class _AllGatherWithGradient(torch.autograd.Function):
    """Forward: concatenates all ranks' rows. Backward: every rank receives the sum of all ranks' gradients of its rows.

    Both ready-made autograd gathers are deprecated in torch 2.13 and their successors are missing in 2.11, so this one
    is ours. With each rank's loss a mean over its own rows, DDP's averaging then gives exactly the gradient of the
    global mean (tests/losses/test_ranks.py).
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, rows: Tensor) -> Tensor:
        parts = all_gather_rows(rows)
        ctx.counts = [len(part) for part in parts]  # type: ignore[attr-defined]
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        counts: list[int] = ctx.counts  # type: ignore[attr-defined]
        first = sum(counts[: rank()])
        return total[first : first + counts[rank()]]


def all_gather_with_grad(rows: Tensor) -> Tensor:
    """All ranks' rows, concatenated in rank order, differentiable with respect to this rank's rows."""
    if world_size() == 1:
        return rows
    result: Tensor = _AllGatherWithGradient.apply(rows)
    return result


def any_rank(flag: bool, device: torch.device | str = "cpu") -> bool:
    """True on every rank if ``flag`` is true on at least one."""
    if world_size() == 1:
        return flag
    votes = torch.tensor([int(flag)], device=device)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return bool(votes.item())
