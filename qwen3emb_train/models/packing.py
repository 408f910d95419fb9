"""Packed attention: texts end to end in one row, none of them sees another.

transformers' own models run on ``[1, tokens]`` without padding; only their attention function is exchanged, through
``AttentionInterface.register("packed", ...)``. Their built-in detection of packed rows is not used: it needs a dense
``tokens x tokens`` mask, and silently leaks across texts when a cache or a mask is present (stack.md 5).

Here queries, keys and values alone are spread from ``[tokens]`` to ``[texts, longest]``, go through
``scaled_dot_product_attention``, and are collected back; every other layer works on real tokens only. It is exact, and
runs on every device. (A varlen kernel for GPUs belongs behind the same name.)

A beginning that several texts share (``data.prefixes``) is a segment of its own; its keys and values are copied before
those of each text that begins so, and the texts' queries start behind them: plain causal attention on the same grid.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qwen3emb_train.data.batches import PackedTokens

PACKED = "packed"


@dataclass(frozen=True, eq=False)
class PackedLayout:
    """Where each packed token lies in the dense ``[segments, longest]`` grid; made once for a forward.

    Attributes:
        cells: flat dense cell of each token.
        lengths: tokens of each segment, its shared prefix included.
        num_texts, longest: the dense grid's sides.
        is_full: every segment has the same length and none a prefix, so that spreading is a mere view.
        prefix_tokens, prefix_cells: tokens of shared prefixes, and the cells that hold copies of them as keys and
            values; a token as often as segments share it. None: nothing is shared.
    """

    cells: Int[Tensor, " tokens"]
    lengths: Int[Tensor, " segments"]
    num_texts: int
    longest: int
    is_full: bool
    prefix_tokens: Int[Tensor, " copies"] | None = None
    prefix_cells: Int[Tensor, " copies"] | None = None

    @staticmethod
    def of(tokens: PackedTokens) -> "PackedLayout":
        lengths = tokens.lengths
        num_segments = len(lengths)
        owner = torch.repeat_interleave(
            torch.arange(num_segments, device=lengths.device), lengths, output_size=tokens.num_tokens
        )
        if tokens.prefix_of is None:
            longest = int(lengths.max())
            cells = owner * longest + tokens.position_ids
            return PackedLayout(cells, lengths, num_segments, longest, num_segments * longest == tokens.num_tokens)
        has_prefix = (tokens.prefix_of >= 0).nonzero().flatten()
        prefix = tokens.prefix_of[has_prefix]
        whole = lengths.index_add(0, has_prefix, lengths[prefix])
        longest = int(whole.max())
        copies = PackedTokens.gather(
            torch.arange(tokens.num_tokens, device=lengths.device), tokens.cu_seqlens[prefix], lengths[prefix]
        )
        row = has_prefix.repeat_interleave(lengths[prefix])
        return PackedLayout(
            owner * longest + tokens.position_ids,
            whole,
            num_segments,
            longest,
            False,
            prefix_tokens=copies.input_ids,
            prefix_cells=row * longest + copies.position_ids,
        )

    def spread(self, packed: Float[Tensor, "1 heads tokens head_dim"]) -> Float[Tensor, "texts heads longest head_dim"]:
        """Tokens to the dense grid; the cells that are no token's are zero."""
        return self._on_grid(packed[0].transpose(0, 1), self.cells)

    def spread_keys(
        self, packed: Float[Tensor, "1 heads tokens head_dim"]
    ) -> Float[Tensor, "texts heads longest head_dim"]:
        """As ``spread``, with copies of the shared prefixes before the segments that begin with them."""
        if self.prefix_tokens is None or self.prefix_cells is None:
            return self.spread(packed)
        rows = packed[0].transpose(0, 1)
        copied = torch.cat([rows, rows.index_select(0, self.prefix_tokens)])
        return self._on_grid(copied, torch.cat([self.cells, self.prefix_cells]))

    def _on_grid(self, rows: Tensor, cells: Tensor) -> Tensor:
        dense = rows if self.is_full else _Spread.apply(rows, cells, self.num_texts * self.longest)
        return dense.reshape(self.num_texts, self.longest, *rows.shape[1:]).transpose(1, 2)

    def collect(self, dense: Float[Tensor, "texts heads longest head_dim"]) -> Float[Tensor, "1 tokens heads head_dim"]:
        """The dense grid back to tokens."""
        rows = dense.transpose(1, 2).flatten(0, 1)
        return (rows if self.is_full else _Collect.apply(rows, self.cells)).unsqueeze(0)


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
    if layout.prefix_tokens is not None and not is_causal:
        raise ValueError("shared prefixes are exact under causal attention only; encode a bidirectional model without.")
    mask = _dense_mask(layout, is_causal, sliding_window)
    dense = F.scaled_dot_product_attention(
        layout.spread(query),
        layout.spread_keys(key),
        layout.spread_keys(value),
        attn_mask=mask,
        is_causal=is_causal and mask is None,
        dropout_p=dropout,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return layout.collect(dense), None


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
