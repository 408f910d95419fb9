"""Packed attention: texts end to end in one row, none of them sees another.

transformers' own models run on ``[1, tokens]`` without padding; only their attention function is exchanged, through
``AttentionInterface.register("packed", ...)``. Their built-in detection of packed rows is not used: it needs a dense
``tokens x tokens`` mask, and silently leaks across texts when a cache or a mask is present (docs/sources.md).

On a GPU in bf16 or fp16 a varlen kernel reads the packed rows as they are (``models.varlen``); elsewhere texts of like
size share dense grids (``models.grids``). Both are exact.

A beginning that several texts share (``data.prefixes``) is a segment of its own; its keys and values are copied before
those of each text that begins so, and the texts' queries start behind them: causal attention aligned at the last key.
"""

from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.models.grids import Copy, Grids
from qwen3emb_train.models.varlen import VarlenSpans, varlen_kernel_for

PACKED = "packed"


class PackedLayout:
    """Which tokens attend to which; made once for a forward, in the terms of whoever asks first.

    Not a dataclass: FSDP2 takes those apart to cast the tensors in them, so that every layer would receive a copy and
    work out anew what is kept here.

    Attributes:
        cu_seqlens: of the tokens. None: a layout of shapes alone, which no kernel can use.
        prefix_of: the segment that each one continues, -1 = none; None: no beginning is shared.
        shapes: the grids of a layout of shapes alone.
    """

    def __init__(
        self,
        cu_seqlens: Int[Tensor, " segments_and_one"] | None,
        prefix_of: Int[Tensor, " segments"] | None = None,
        shapes: Grids | None = None,
    ) -> None:
        self.cu_seqlens, self.prefix_of, self.shapes = cu_seqlens, prefix_of, shapes

    @staticmethod
    def of(tokens: PackedTokens) -> "PackedLayout":
        return PackedLayout(tokens.cu_seqlens, tokens.prefix_of)

    @cached_property
    def grids(self) -> Grids:
        if self.shapes is not None:
            return self.shapes
        assert self.cu_seqlens is not None
        return Grids.of(self.cu_seqlens, self.prefix_of)

    @cached_property
    def spans(self) -> VarlenSpans:
        """In a varlen kernel's terms."""
        assert self.cu_seqlens is not None
        cu_queries = self.cu_seqlens.int()
        longest_query = int(self.cu_seqlens.diff().max())
        if self.prefix_of is None:
            return VarlenSpans(cu_queries, cu_queries, longest_query, longest_query)
        shared, own = self._shared_and_own
        cu_keys = F.pad((shared + own).cumsum(0), (1, 0)).int()
        return VarlenSpans(cu_queries, cu_keys, longest_query, int((shared + own).max()))

    @cached_property
    def key_tokens(self) -> Int[Tensor, " keys"]:
        """Where beginnings are shared, the token of each key, segment by segment, each beginning before the rest."""
        assert self.cu_seqlens is not None
        assert self.prefix_of is not None
        shared, own = self._shared_and_own
        starts, whole = self.cu_seqlens[:-1], shared + own
        ends = whole.cumsum(0)
        segments = torch.arange(len(whole), device=whole.device)
        segment = segments.repeat_interleave(whole, output_size=int(ends[-1]))
        position = torch.arange(len(segment), device=whole.device) - (ends - whole)[segment]
        in_prefix, in_own = starts[self.prefix_of], starts - shared
        return position + torch.where(position < shared[segment], in_prefix[segment], in_own[segment])

    @cached_property
    def _shared_and_own(self) -> tuple[Int[Tensor, " segments"], Int[Tensor, " segments"]]:
        assert self.cu_seqlens is not None
        assert self.prefix_of is not None
        own = self.cu_seqlens.diff()
        return torch.where(self.prefix_of >= 0, own[self.prefix_of], 0), own


def packed_attention(
    module: nn.Module,
    query: Float[Tensor, "1 query_heads tokens head_dim"],
    key: Float[Tensor, "1 key_heads tokens head_dim"],
    value: Float[Tensor, "1 key_heads tokens head_dim"],
    attention_mask: None = None,
    *,
    layout: PackedLayout | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "1 tokens query_heads head_dim"], None]:
    """The attention function that transformers calls in every layer.

    Raises:
        ValueError: called without a layout, or for a model with soft-capped logits.
    """
    if layout is None:
        raise ValueError("packed attention needs layout=PackedLayout; call the model through models.encoder.Encoder.")
    if softcap is not None:
        raise ValueError("packed attention cannot soft-cap logits (Gemma-2): set model.attention=padded.")
    is_causal = bool(getattr(module, "is_causal", True))
    if layout.prefix_of is not None and not is_causal:
        raise ValueError("shared prefixes are exact under causal attention only; encode a bidirectional model without.")
    dtype = _dtype_of_products(query)
    queries, keys, values = (rows[0].transpose(0, 1) for rows in (query, key, value))
    kernel = None if dropout else varlen_kernel_for(query.device, dtype, query.shape[-1])
    if kernel is not None:
        keys, values = (
            rows.to(dtype) if layout.prefix_of is None else Copy.apply(rows, layout.key_tokens, dtype)
            for rows in (keys, values)
        )
        reach = -1 if sliding_window is None else sliding_window - 1
        window = (reach, 0 if is_causal else reach)
        return kernel(queries.to(dtype), keys, values, layout.spans, window=window, scale=scaling).unsqueeze(0), None
    rows = layout.grids.attend(
        queries,
        keys,
        values,
        dtype=dtype,
        is_causal=is_causal,
        window=sliding_window,
        dropout=dropout,
        scale=scaling,
    )
    return rows.unsqueeze(0), None


def _dtype_of_products(query: Tensor) -> torch.dtype:
    """What autocast makes of the operands: it does not know the kernels, and on a grid it would cast empty cells, too.

    Under autocast the rotary phases and the head norms leave queries and keys in float32, values in bf16.
    """
    if torch.is_autocast_enabled(query.device.type):
        return torch.get_autocast_dtype(query.device.type)
    return query.dtype


def register_packed_attention() -> None:
    """Makes ``attn_implementation="packed"`` known to transformers (again: harmless)."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(PACKED, packed_attention)
    # The layout says who may see whom: no mask is ever built.
    AttentionMaskInterface.register(PACKED, lambda *args, **kwargs: None)
