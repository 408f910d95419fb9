"""Packed attention: texts concatenated in one row, without attention between them.

transformers' own models run on ``[1, tokens]`` without padding; only their attention function is replaced, through
``AttentionInterface.register("packed", ...)``. Their built-in detection of packed rows is not used: it needs a dense
``tokens x tokens`` mask, and silently leaks across texts when a cache or a mask is present.

On a GPU in bf16 or fp16 a varlen kernel reads the packed rows as they are (``models.varlen``); elsewhere texts of
similar length share dense grids (``models.grids``). Both are exact.

A prefix that several texts share (``data.prefixes``) is a segment of its own; its keys and values are copied in front
of those of each text that starts with it, and the texts' queries start after them: causal attention aligned at the last
key.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from qwen3emb_train.data.batches import Extents, PackedTokens
from qwen3emb_train.models.grids import Copy, Grids
from qwen3emb_train.models.precision import dtype_of_products
from qwen3emb_train.models.varlen import VarlenKernel, VarlenSpans, is_readable, torch_kernel, varlen_kernel_for

PACKED = "packed"


@dataclass(frozen=True, eq=False)
class LayoutShapes:
    """The sizes of a layout whose tokens do not exist: what ``planning`` traces.

    Attributes:
        grids: as ``Grids.of`` would cut them.
        spans: where a varlen kernel is to be traced, whatever this machine has; None: the grids are.
    """

    grids: Grids
    spans: VarlenSpans | None


class PackedLayout:
    """Which tokens attend to which; the form that a kernel or grid needs is computed once per forward pass.

    Not a dataclass: FSDP2 takes those apart to cast the tensors in them, so that every layer would receive a copy and
    work out anew what is kept here.

    Attributes:
        cu_seqlens: of the tokens. None: a layout of shapes alone, which no kernel can use.
        prefix_of: the segment that each one continues, -1 = none; None: no prefix is shared.
        shapes: of a layout of shapes alone.
        extents: of the tokens, where they are known without asking a device.
    """

    def __init__(
        self,
        cu_seqlens: Int[Tensor, " segments_and_one"] | None,
        prefix_of: Int[Tensor, " segments"] | None = None,
        shapes: LayoutShapes | None = None,
        extents: Extents | None = None,
    ) -> None:
        self.cu_seqlens, self.prefix_of, self.shapes, self.extents = cu_seqlens, prefix_of, shapes, extents

    @staticmethod
    def of(tokens: PackedTokens) -> "PackedLayout":
        return PackedLayout(tokens.cu_seqlens, tokens.prefix_of, extents=tokens.extents)

    @cached_property
    def grids(self) -> Grids:
        if self.shapes is not None:
            return self.shapes.grids
        assert self.cu_seqlens is not None
        return Grids.of(self.cu_seqlens, self.prefix_of)

    @cached_property
    def spans(self) -> VarlenSpans:
        """As a varlen kernel needs it."""
        if self.shapes is not None and self.shapes.spans is not None:
            return self.shapes.spans
        assert self.cu_seqlens is not None
        cu_queries = self.cu_seqlens.int()
        known = self.extents
        longest_query = int(self.cu_seqlens.diff().max()) if known is None else known.longest_segment
        if self.prefix_of is None:
            return VarlenSpans(cu_queries, cu_queries, longest_query, longest_query)
        shared, own = self._shared_and_own
        cu_keys = F.pad((shared + own).cumsum(0), (1, 0)).int()
        return VarlenSpans(
            cu_queries, cu_keys, longest_query, int((shared + own).max()) if known is None else known.longest_key
        )

    def kernel_for(self, query: Tensor, dtype: torch.dtype) -> VarlenKernel | None:
        """The varlen kernel for queries that are cast to ``dtype``; None: the grids are used."""
        if self.shapes is None:
            return varlen_kernel_for(query.device, dtype, query.shape[-1])
        return torch_kernel if self.shapes.spans is not None and is_readable(dtype, query.shape[-1]) else None

    @cached_property
    def key_tokens(self) -> Int[Tensor, " keys"]:
        """Where prefixes are shared, the token of each key, segment by segment, each prefix before the rest."""
        assert self.cu_seqlens is not None
        assert self.prefix_of is not None
        shared, own = self._shared_and_own
        starts, whole = self.cu_seqlens[:-1], shared + own
        ends = whole.cumsum(0)
        segments = torch.arange(len(whole), device=whole.device)
        num_keys = int(ends[-1]) if self.extents is None else self.extents.num_keys
        segment = segments.repeat_interleave(whole, output_size=num_keys)
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
    s_aux: Float[Tensor, " query_heads"] | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "1 tokens query_heads head_dim"], None]:
    """The attention function that transformers calls in every layer.

    Args:
        module: the layer's attention module.
        query, key, value: of all tokens.
        attention_mask: not used.
        layout: which tokens attend to which.
        scaling: of the logits; None = 1 / sqrt(head_dim).
        dropout: probability of dropping an attention weight.
        sliding_window: keys that a query sees, its own included; None = unlimited.
        softcap: logits are softcap * tanh(logits / softcap) (Gemma-2); None = as they are.
        s_aux: the logit of each head's attention sink (gpt-oss); None = no sinks.

    Raises:
        ValueError: called without a layout.
    """
    if layout is None:
        raise ValueError("its attention is called without the layout of the texts (use models.text_model.Encoder)")
    is_causal = bool(getattr(module, "is_causal", True))
    if layout.prefix_of is not None and not is_causal:
        raise ValueError("shared prefixes are exact under causal attention only; encode a bidirectional model without.")
    dtype = dtype_of_products(query)
    queries, keys, values = (rows[0].transpose(0, 1) for rows in (query, key, value))
    is_plain = not dropout and softcap is None and s_aux is None
    kernel = layout.kernel_for(query, dtype) if is_plain else None
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
        softcap=softcap,
        sinks=s_aux,
    )
    return rows.unsqueeze(0), None


def is_causal(backbone: nn.Module) -> bool:
    """Whether no attention layer looks ahead."""
    return all(getattr(module, "is_causal", True) for module in backbone.modules())


def register_packed_attention() -> None:
    """Registers ``attn_implementation="packed"`` with transformers; may be called repeatedly.

    Not with ``AttentionMaskInterface``: for an attention without an entry there transformers builds no mask at all, and
    one that is registered is asked after the texts' bounds were looked for, which makes the host wait for a GPU.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED, packed_attention)
