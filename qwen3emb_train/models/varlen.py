"""Varlen kernels: attention over packed texts in one call, with no grid and no padding. GPUs only.

Both kernels use FlashAttention-2's conventions: ``cu_seqlens`` in int32, a window of (left, right) keys around a
query's own position, and where a segment has more keys than queries the last query is aligned to the last key (bottom
right). torch's ``varlen_attn`` is FlashAttention-2 inside and aligns the same way: its mask adds the difference of a
segment's lengths to the row (aten/src/ATen/native/transformers/cuda/flash_attn/mask.h); flash-attn does so since 2.1.

What the kernels do not support runs on the dense grids of ``models.grids``: float32, attention dropout, head sizes that
are no multiple of 8 or above 256, GPUs older than Ampere, ROCm (its alignment was not checked).
"""

import inspect
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int32
from torch import Tensor

_MAX_HEAD_DIM = 256
_AMPERE = (8, 0)


@dataclass(frozen=True, eq=False)
class VarlenSpans:
    """The segments of queries and keys: segment ``i`` is between entries ``i`` and ``i + 1``.

    Attributes:
        cu_queries, cu_keys: offset of each segment in the packed queries and keys, and the total at the end.
        longest_query, longest_key: tokens of the longest segment, as the Python integers that kernels need.
    """

    cu_queries: Int32[Tensor, " segments_and_one"]
    cu_keys: Int32[Tensor, " segments_and_one"]
    longest_query: int
    longest_key: int


@runtime_checkable
class VarlenKernel(Protocol):
    """Attention inside each segment; grouped-query where there are fewer key heads."""

    def __call__(
        self,
        query: Float[Tensor, "queries query_heads head_dim"],
        key: Float[Tensor, "keys key_heads head_dim"],
        value: Float[Tensor, "keys key_heads head_dim"],
        spans: VarlenSpans,
        *,
        window: tuple[int, int],
        scale: float | None,
    ) -> Float[Tensor, "queries query_heads head_dim"]:
        """
        Args:
            query, key, value: of all segments, packed.
            spans: the segments.
            window: keys that a query sees left and right of its own position; -1 = unlimited. (-1, 0) is causal.
            scale: of the logits; None = 1 / sqrt(head_dim).
        """
        ...


def varlen_kernel_for(device: torch.device, dtype: torch.dtype, head_dim: int) -> VarlenKernel | None:
    """The kernel for such tensors; None: no kernel supports them, use the dense grid.

    Args:
        device, dtype: of the tensors.
        head_dim: components of a head.
    """
    if device.type != "cuda" or torch.version.hip is not None or not is_readable(dtype, head_dim):
        return None
    if torch.cuda.get_device_capability(device) < _AMPERE:
        return None
    if "window_size" in _torch_settings():
        return torch_kernel
    return flash_attn_kernel if find_spec("flash_attn") is not None else None


def is_readable(dtype: torch.dtype, head_dim: int) -> bool:
    """Whether kernels read such numbers, on any GPU that has them."""
    return dtype in (torch.bfloat16, torch.float16) and head_dim % 8 == 0 and head_dim <= _MAX_HEAD_DIM


def torch_kernel(
    query: Float[Tensor, "queries query_heads head_dim"],
    key: Float[Tensor, "keys key_heads head_dim"],
    value: Float[Tensor, "keys key_heads head_dim"],
    spans: VarlenSpans,
    *,
    window: tuple[int, int],
    scale: float | None,
) -> Float[Tensor, "queries query_heads head_dim"]:
    """``torch.nn.attention.varlen``.

    Args:
        query, key, value, spans, window, scale: as in ``VarlenKernel``.
    """
    from torch.nn.attention.varlen import varlen_attn

    # The first versions have no such parameter and accept fewer key heads without it.
    is_grouped = query.shape[1] != key.shape[1]
    grouped: dict[str, Any] = {"enable_gqa": is_grouped} if "enable_gqa" in _torch_settings() else {}
    output = varlen_attn(
        query, key, value, spans.cu_queries, spans.cu_keys, spans.longest_query, spans.longest_key,
        scale=scale, window_size=window, **grouped,
    )  # fmt: skip
    assert isinstance(output, Tensor)  # not the pair that return_aux would give
    return output


def flash_attn_kernel(
    query: Float[Tensor, "queries query_heads head_dim"],
    key: Float[Tensor, "keys key_heads head_dim"],
    value: Float[Tensor, "keys key_heads head_dim"],
    spans: VarlenSpans,
    *,
    window: tuple[int, int],
    scale: float | None,
) -> Float[Tensor, "queries query_heads head_dim"]:
    """``flash_attn.flash_attn_varlen_func`` of flash-attn >= 2.4.1, the first whose backward pass can be deterministic.

    Args:
        query, key, value, spans, window, scale: as in ``VarlenKernel``.
    """
    from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found, unused-ignore]

    return flash_attn_varlen_func(
        query, key, value, spans.cu_queries, spans.cu_keys, spans.longest_query, spans.longest_key,
        softmax_scale=scale, causal=window[1] == 0, window_size=window,
        deterministic=torch.are_deterministic_algorithms_enabled(),  # torch's own kernel asks for itself
    )  # fmt: skip


@cache
def _torch_settings() -> frozenset[str]:
    """The parameters of this torch's ``varlen_attn``; its first release had no window."""
    from torch.nn.attention.varlen import varlen_attn

    return frozenset(inspect.signature(varlen_attn).parameters)
