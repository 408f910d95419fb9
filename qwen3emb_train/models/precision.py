"""In which precision matrix products run. Master weights are float32 in every case."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from enum import Enum

import torch


class Precision(str, Enum):
    """``auto``: bf16 where the hardware multiplies it faster than float32 (CUDA, CPUs with AMX), else fp32."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


def resolve_device(device: str) -> torch.device:
    """ "auto" is CUDA where there is one, else the CPU."""
    if device != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """Replaces ``auto``.

    On a CPU with AMX tiles bf16 products are about four times as fast as float32's (measured); on one without, bf16 is
    emulated and slower.
    """
    if precision is not Precision.auto:
        return precision
    if device.type == "cuda":
        return Precision.bf16 if torch.cuda.is_bf16_supported() else Precision.fp32
    has_amx = device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    return Precision.bf16 if has_amx else Precision.fp32


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """The context in which an encoder runs; ``precision`` must be resolved."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision is Precision.bf16)


@contextmanager
def full_float32_products() -> Iterator[None]:
    """CUDA's float32 products in float32, not TF32, whatever the process or its environment chose.

    TF32 has 10 bits of mantissa: a cosine is rounded to about 0.0005, which is 0.025 at temperature 0.02. The switch is
    the process's, so it holds for backward passes in autograd's threads too.
    """
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
