"""Packed attention: texts end to end in one row, none of them sees another.

transformers' own models run on ``[1, tokens]`` without padding; only their attention function is exchanged, through
``AttentionInterface.register("packed", ...)``. Their built-in detection of packed rows is not used: it needs a dense
``tokens x tokens`` mask, and silently leaks across texts when a cache or a mask is present (stack.md 5).

On a GPU in bf16 or fp16 a varlen kernel reads the packed rows as they are (``models.varlen``). Elsewhere queries, keys
and values alone are spread from ``[tokens]`` to ``[texts, longest]``, go through ``scaled_dot_product_attention``, and
are collected back; every other layer works on real tokens only. Both are exact.

A beginning that several texts share (``data.prefixes``) is a segment of its own; its keys and values are copied before
those of each text that begins so, and the texts' queries start behind them: causal attention aligned at the last key.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.models.varlen import VarlenSpans, varlen_kernel_for

PACKED = "packed"


@dataclass(frozen=True, eq=False)
class PackedLayout:
    """Where each packed token lies in the dense ``[segments, longest]`` grid; made once for a forward.

    Attributes:
        cells: flat dense cell of each token.
        lengths: keys of each segment: its tokens and those of its shared prefix.
        num_texts, longest: the dense grid's sides.
        is_full: every segment has the same length and none a prefix, so that spreading is a mere view.
        key_tokens, key_cells: where beginnings are shared, the token behind each key, segment by segment and each
            prefix before what follows it, and the key's cell. None: the keys are the tokens.
        cu_seqlens: of the tokens. None: a layout of shapes alone, which no kernel can use.
    """

    cells: Int[Tensor, " tokens"]
    lengths: Int[Tensor, " segments"]
    num_texts: int
    longest: int
    is_full: bool
    key_tokens: Int[Tensor, " keys"] | None = None
    key_cells: Int[Tensor, " keys"] | None = None
    cu_seqlens: Int[Tensor, " segments_and_one"] | None = None

    @staticmethod
    def of(tokens: PackedTokens) -> "PackedLayout":
        lengths, starts = tokens.lengths, tokens.cu_seqlens[:-1]
        num_segments = len(lengths)
        segments = torch.arange(num_segments, device=lengths.device)
        owner = segments.repeat_interleave(lengths, output_size=tokens.num_tokens)
        if tokens.prefix_of is None:
            longest = int(lengths.max())
            cells = owner * longest + tokens.position_ids
            is_full = num_segments * longest == tokens.num_tokens
            return PackedLayout(cells, lengths, num_segments, longest, is_full, cu_seqlens=tokens.cu_seqlens)
        shared = torch.where(tokens.prefix_of >= 0, lengths[tokens.prefix_of], 0)
        whole = lengths + shared
        ends = whole.cumsum(0)
        longest, num_keys = torch.stack([whole.max(), ends[-1]]).tolist()
        segment = segments.repeat_interleave(whole, output_size=num_keys)
        position = torch.arange(num_keys, device=lengths.device) - (ends - whole)[segment]
        in_prefix, in_own = starts[tokens.prefix_of], starts - shared
        return PackedLayout(
            owner * longest + tokens.position_ids,
            whole,
            num_segments,
            longest,
            False,
            key_tokens=position + torch.where(position < shared[segment], in_prefix[segment], in_own[segment]),
            key_cells=segment * longest + position,
            cu_seqlens=tokens.cu_seqlens,
        )

    @cached_property
    def spans(self) -> VarlenSpans:
        """The same in a varlen kernel's terms; made for the first layer that asks."""
        assert self.cu_seqlens is not None
        cu_queries = self.cu_seqlens.int()
        if self.key_tokens is None:
            return VarlenSpans(cu_queries, cu_queries, self.longest, self.longest)
        cu_keys = F.pad(self.lengths.cumsum(0), (1, 0)).int()
        return VarlenSpans(cu_queries, cu_keys, int(cu_queries.diff().max()), self.longest)

    def key_rows(
        self, packed: Float[Tensor, "1 heads tokens head_dim"], dtype: torch.dtype
    ) -> Float[Tensor, "keys heads head_dim"]:
        """Tokens' keys (or values) to the stream of keys, copied where texts share them."""
        rows = packed[0].transpose(0, 1)
        return rows.to(dtype) if self.key_tokens is None else _Copy.apply(rows, self.key_tokens, dtype)

    def spread(self, rows: Float[Tensor, "tokens heads head_dim"]) -> Float[Tensor, "texts heads longest head_dim"]:
        """Tokens to the dense grid; the cells that are no token's are zero."""
        return self._on_grid(rows, self.cells)

    def spread_keys(self, rows: Float[Tensor, "keys heads head_dim"]) -> Float[Tensor, "texts heads longest head_dim"]:
        """The stream of keys (or values) to the dense grid."""
        return self._on_grid(rows, self.cells if self.key_cells is None else self.key_cells)

    def _on_grid(self, rows: Tensor, cells: Tensor) -> Tensor:
        dense = rows if self.is_full else _Spread.apply(rows, cells, self.num_texts * self.longest)
        return dense.reshape(self.num_texts, self.longest, *rows.shape[1:]).transpose(1, 2)

    def collect(self, dense: Float[Tensor, "texts heads longest head_dim"]) -> Float[Tensor, "1 tokens heads head_dim"]:
        """The dense grid back to tokens."""
        rows = dense.transpose(1, 2).flatten(0, 1)
        return (rows if self.is_full else _Collect.apply(rows, self.cells)).unsqueeze(0)


class _Copy(torch.autograd.Function):
    """Rows by index, repeated ones included, in another type.

    The gradients of a row's copies, of which an instruction has hundreds, are added up in float32: GPUs would add bf16
    to bf16, and such a sum of equal terms stops growing after 256 of them.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(index)
        ctx.num_rows, ctx.dtype = len(rows), rows.dtype
        return rows.index_select(0, index).to(dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (index,) = ctx.saved_tensors
        terms = gradients[0].to(torch.promote_types(gradients[0].dtype, torch.float32))
        total = terms.new_zeros(ctx.num_rows, *terms.shape[1:]).index_add_(0, index, terms)
        return total.to(ctx.dtype), None, None


class _Spread(torch.autograd.Function):
    """Row copy to distinct cells. Its backward is a plain gather; autograd's own would add into zeros."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, cells: Tensor, num_cells: int) -> Tensor:
        ctx.save_for_backward(cells)
        return rows.new_zeros(num_cells, *rows.shape[1:]).index_copy_(0, cells, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (cells,) = ctx.saved_tensors
        return gradients[0].index_select(0, cells), None, None


class _Collect(torch.autograd.Function):
    """The inverse of ``_Spread``, and each is the other's backward."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, cells: Tensor) -> Tensor:
        ctx.save_for_backward(cells)
        ctx.num_cells = len(rows)
        return rows.index_select(0, cells)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (cells,) = ctx.saved_tensors
        return gradients[0].new_zeros(ctx.num_cells, *gradients[0].shape[1:]).index_copy_(0, cells, gradients[0]), None


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
    if layout.key_tokens is not None and not is_causal:
        raise ValueError("shared prefixes are exact under causal attention only; encode a bidirectional model without.")
    dtype = _dtype_of_products(query)
    rows = query[0].transpose(0, 1).to(dtype)
    keys, values = layout.key_rows(key, dtype), layout.key_rows(value, dtype)
    kernel = None if dropout else varlen_kernel_for(query.device, dtype, query.shape[-1])
    if kernel is not None:
        reach = -1 if sliding_window is None else sliding_window - 1
        window = (reach, 0 if is_causal else reach)
        return kernel(rows, keys, values, layout.spans, window=window, scale=scaling).unsqueeze(0), None
    mask = _dense_mask(layout, is_causal, sliding_window)
    dense = F.scaled_dot_product_attention(
        layout.spread(rows),
        layout.spread_keys(keys),
        layout.spread_keys(values),
        attn_mask=mask,
        is_causal=is_causal and mask is None,
        dropout_p=dropout,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return layout.collect(dense), None


def _dtype_of_products(query: Tensor) -> torch.dtype:
    """What autocast makes of the operands: it does not know the kernels, and on a grid it would cast empty cells, too.

    Under autocast the rotary phases and the head norms leave queries and keys in float32, values in bf16.
    """
    if torch.is_autocast_enabled(query.device.type):
        return torch.get_autocast_dtype(query.device.type)
    return query.dtype


def _dense_mask(
    layout: PackedLayout, is_causal: bool, sliding_window: int | None
) -> Bool[Tensor, "*texts longest longest"] | None:
    """Which keys a query may see, where plain causality does not already say it; None = plain causal or all.

    Causal texts need no padding mask: the empty cells lie behind every real token.
    """
    window = sliding_window if sliding_window is not None and sliding_window < layout.longest else None
    if window is None and (is_causal or layout.is_full):
        return None
    position = torch.arange(layout.longest, device=layout.lengths.device)
    distance = position[:, None] - position[None, :]
    if is_causal:
        return (distance >= 0) & (distance < (window or layout.longest))
    is_token = position[None, :] < layout.lengths[:, None]
    return is_token[:, None, None, :] & (distance.abs() < (window or layout.longest))


def register_packed_attention() -> None:
    """Makes ``attn_implementation="packed"`` known to transformers (again: harmless)."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(PACKED, packed_attention)
    # The layout says who may see whom: no mask is ever built.
    AttentionMaskInterface.register(PACKED, lambda *args, **kwargs: None)
