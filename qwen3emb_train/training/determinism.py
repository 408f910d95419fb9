"""The same bits from the same steps on a GPU too, at the cost of speed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def deterministic_algorithms(enabled: bool) -> Iterator[None]:
    """torch's deterministic algorithms where asked for; an operation that has none raises.

    FlashAttention's backward pass adds up in an order that differs from run to run unless it is asked not to: torch's
    varlen kernel asks torch's switch, flash-attn is told by ``models.varlen``. cuBLAS reads its workspace's size from
    the environment when it is first used, so this comes before the first product.

    Args:
        enabled: false leaves everything as it is.
    """
    if not enabled:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False  # nothing here reads it
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = filled
