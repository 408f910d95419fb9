"""Attention of packed texts where no varlen kernel runs: texts of similar length share a dense grid.

Only queries, keys and values are scattered from ``[tokens]`` to ``[texts, rows]``, pass through
``scaled_dot_product_attention`` and are gathered back; every other layer works on real tokens only. A grid's cost is
its area, so texts that would be much shorter than their grid get one of their own. Where a text's prefix is shared,
only its own tokens are queries: its grid is as high as their number, and as wide as prefix and text together.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

_SIMILAR = 0.75  # texts of a grid have at least this share of the longest one's own tokens,
_MIN_SAVED = 4096  # or splitting would save fewer score cells than another call costs (measured on a CPU)


@dataclass(frozen=True, eq=False)
class Grid:
    """A dense grid of several texts.

    Attributes:
        num_texts, height, width: number of texts, rows of queries and rows of keys per text.
        query_cells, key_cells: flat index of each query's and each key's cell, text by text.
        is_full: no cell is empty, so that scattering is a view.
        first: position of a text's first query among its keys; None: 0 for all.
        lengths: keys of each text.
    """

    num_texts: int
    height: int
    width: int
    query_cells: Int[Tensor, " queries"]
    key_cells: Int[Tensor, " keys"]
    is_full: bool
    first: Int[Tensor, " texts"] | None
    lengths: Int[Tensor, " texts"]
    _masks: dict[tuple[bool, int | None, torch.dtype], Tensor | None] = field(default_factory=dict)

    def attend(
        self,
        query: Float[Tensor, "queries query_heads head_dim"],
        key: Float[Tensor, "keys key_heads head_dim"],
        value: Float[Tensor, "keys key_heads head_dim"],
        *,
        is_causal: bool,
        window: int | None,
        dropout: float,
        scale: float | None,
        softcap: float | None = None,
        sinks: Float[Tensor, " query_heads"] | None = None,
    ) -> Float[Tensor, "queries query_heads head_dim"]:
        """Attention inside each text.

        Args:
            query, key, value: of the grid's texts, text by text.
            is_causal: whether queries see only keys up to their own position.
            window: keys that a query sees, its own included; None = unlimited.
            dropout: probability of dropping an attention weight.
            scale: of the logits; None = 1 / sqrt(head_dim).
            softcap: logits are softcap * tanh(logits / softcap); None = as they are.
            sinks: a further logit of each head, which takes weight and gives no value; None = there is none.
        """
        mask = self._mask(is_causal, window, query.dtype)
        queries = self._spread(query, self.query_cells, self.height)
        keys, values = (self._spread(rows, self.key_cells, self.width) for rows in (key, value))
        if softcap is None and sinks is None:
            dense = F.scaled_dot_product_attention(
                queries,
                keys,
                values,
                attn_mask=mask,
                is_causal=is_causal and mask is None,
                dropout_p=dropout,
                scale=scale,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        else:
            if is_causal and mask is None:
                mask = self._make_mask(True, self.width, query.dtype)
            dense = _attention_with(queries, keys, values, mask, dropout, scale, softcap, sinks)
        rows = dense.transpose(1, 2).flatten(0, 1)
        return rows if self.is_full else _Collect.apply(rows, self.query_cells)

    def _spread(self, rows: Tensor, cells: Tensor, height: int) -> Float[Tensor, "texts heads height head_dim"]:
        """Tokens to the grid; empty cells are zero."""
        dense = rows if self.is_full else _Spread.apply(rows, cells, self.num_texts * height)
        return dense.reshape(self.num_texts, height, *rows.shape[1:]).transpose(1, 2)

    def _mask(self, is_causal: bool, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """Cached between layers; models have at most two kinds of layers."""
        how = (is_causal, window if window is not None and window < self.width else None, dtype)
        if how not in self._masks:
            self._masks[how] = self._make_mask(*how)
        return self._masks[how]

    def _make_mask(
        self, is_causal: bool, window: int | None, dtype: torch.dtype
    ) -> Float[Tensor, "#texts 1 height width"] | None:
        """What is added to the scores; None where ``is_causal`` (or no mask) is exact.

        Causal texts need no padding mask: the empty cells come after every real token.
        """
        if self.first is None and window is None and (is_causal or self.is_full):
            return None
        position = torch.arange(self.width, device=self.lengths.device)
        first = self.first if self.first is not None else self.lengths.new_zeros(1)
        # Empty rows after a text's last one see what the last key sees: a row without keys would be NaN.
        query_position = (first[:, None] + position[: self.height]).clamp(max=self.width - 1)
        distance = query_position[:, :, None] - position
        reach = window or self.width
        if is_causal:
            allowed = (distance >= 0) & (distance < reach)
        else:
            allowed = (distance.abs() < reach) & (position < self.lengths[:, None, None])
        return torch.zeros_like(allowed, dtype=dtype).masked_fill_(~allowed, -torch.inf)[:, None]


@dataclass(frozen=True, eq=False)
class Grids:
    """All texts of a forward pass.

    Attributes:
        grids: see ``Grid``.
        order, place: the token of each query, grid by grid, and the inverse permutation. None: the tokens' own order.
        key_tokens: where prefixes are shared, the token of each key, grid by grid. None: the same as the queries'.
    """

    grids: tuple[Grid, ...]
    order: Int[Tensor, " tokens"] | None = None
    place: Int[Tensor, " tokens"] | None = None
    key_tokens: Int[Tensor, " keys"] | None = None

    @staticmethod
    def of(cu_seqlens: Int[Tensor, " segments_and_one"], prefix_of: Int[Tensor, " segments"] | None = None) -> "Grids":
        """Groups texts of similar length into grids.

        Args:
            cu_seqlens: of the tokens.
            prefix_of: the segment that each one continues; -1 = none.
        """
        own, starts = cu_seqlens.diff(), cu_seqlens[:-1]
        if prefix_of is None:
            shared, in_prefix = torch.zeros_like(own), starts
        else:
            shared = torch.where(prefix_of >= 0, own[prefix_of], 0)
            in_prefix = starts[prefix_of]
        groups = list(_groups(own.tolist(), shared.tolist()))
        chosen = [torch.tensor(group, device=own.device) for group in groups]
        grids = tuple(_grid(own[rows], shared[rows]) for rows in chosen)
        rows = torch.cat(chosen)
        order = place = None
        if len(groups) > 1:
            order = _runs(starts[rows], own[rows])
            place = torch.empty_like(order)
            place[order] = torch.arange(len(order), device=order.device)
        if prefix_of is None:
            return Grids(grids, order, place)
        # A text's keys are two runs of tokens: those of its prefix, then its own.
        run_starts = torch.stack([in_prefix[rows], starts[rows]], 1).flatten()
        run_lengths = torch.stack([shared[rows], own[rows]], 1).flatten()
        return Grids(grids, order, place, _runs(run_starts, run_lengths))

    def attend(
        self,
        query: Float[Tensor, "tokens query_heads head_dim"],
        key: Float[Tensor, "tokens key_heads head_dim"],
        value: Float[Tensor, "tokens key_heads head_dim"],
        *,
        dtype: torch.dtype,
        is_causal: bool,
        window: int | None = None,
        dropout: float = 0.0,
        scale: float | None = None,
        softcap: float | None = None,
        sinks: Float[Tensor, " query_heads"] | None = None,
    ) -> Float[Tensor, "tokens query_heads head_dim"]:
        """Attention inside each text, and to its shared prefix; the result is of ``dtype``.

        Args:
            query, key, value: of all tokens.
            dtype: in which the products are computed.
            is_causal, window, dropout, scale, softcap, sinks: as in ``Grid.attend``.
        """
        num_keys = [len(grid.key_cells) for grid in self.grids]
        queries = self._ordered(query.to(dtype)).split([len(grid.query_cells) for grid in self.grids])
        keys, values = (self._keys(rows, dtype).split(num_keys) for rows in (key, value))
        how: dict[str, Any] = {"is_causal": is_causal, "window": window, "dropout": dropout, "scale": scale}
        found = [
            grid.attend(*rows, **how, softcap=softcap, sinks=sinks)
            for grid, *rows in zip(self.grids, queries, keys, values, strict=True)
        ]
        if self.order is None:
            return found[0]
        return _Permute.apply(torch.cat(found), self.place, self.order)

    def _ordered(self, rows: Tensor) -> Tensor:
        return rows if self.order is None else _Permute.apply(rows, self.order, self.place)

    def _keys(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        return self._ordered(rows.to(dtype)) if self.key_tokens is None else Copy.apply(rows, self.key_tokens, dtype)


def _attention_with(
    query: Float[Tensor, "texts query_heads height head_dim"],
    key: Float[Tensor, "texts key_heads width head_dim"],
    value: Float[Tensor, "texts key_heads width head_dim"],
    mask: Float[Tensor, "#texts 1 height width"] | None,
    dropout: float,
    scale: float | None,
    softcap: float | None,
    sinks: Float[Tensor, " query_heads"] | None,
) -> Float[Tensor, "texts query_heads height head_dim"]:
    """What ``scaled_dot_product_attention`` lacks; all scores are in memory, as in transformers' own "eager".

    Args:
        query, key, value: of a grid.
        mask: what is added to the logits.
        dropout, scale, softcap, sinks: as in ``Grid.attend``.
    """
    repeats = query.shape[1] // key.shape[1]
    key, value = (rows.repeat_interleave(repeats, dim=1) for rows in (key, value))
    wide = torch.promote_types(query.dtype, torch.float32)
    logits = (query @ key.transpose(2, 3)).to(wide) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    if mask is not None:
        logits = logits + mask
    if sinks is not None:
        column = sinks.to(logits.dtype)[None, :, None, None].expand(*logits.shape[:3], 1)
        logits = torch.cat([logits, column], dim=3)
    weights = F.dropout(logits.softmax(3)[..., : key.shape[2]], dropout)
    return weights.to(value.dtype) @ value


def _groups(own: list[int], shared: list[int]) -> Iterator[list[int]]:
    """Segments with similar numbers of own tokens, those with a shared prefix apart; a single group keeps the order."""
    for kind in (
        [row for row, keys in enumerate(shared) if not keys],
        [row for row, keys in enumerate(shared) if keys],
    ):
        longest_first = sorted(kind, key=lambda row: -own[row])
        group: list[int] = []
        for number, row in enumerate(longest_first):
            if group and own[row] < _SIMILAR * own[group[0]]:
                width = max(own[other] + shared[other] for other in group)
                if (len(longest_first) - number) * (own[group[0]] - own[row]) * width >= _MIN_SAVED:
                    yield group
                    group = []
            group.append(row)
        if group:
            # A single group keeps its order: nothing has to be moved.
            yield sorted(group) if len(group) == len(own) else group


def _grid(own: Int[Tensor, " texts"], shared: Int[Tensor, " texts"]) -> Grid:
    keys = own + shared
    num_texts, height, width, has_prefix = len(own), int(own.max()), int(keys.max()), bool(shared.any())
    # Causality halves a square's cost: where own tokens are the greater part, empty rows for the prefix cost less.
    if has_prefix and 2 * height > width:
        return Grid(num_texts, width, width, _cells(own, width, shared), _cells(keys, width), False, None, keys)
    cells = _cells(own, height)
    if has_prefix:
        return Grid(num_texts, height, width, cells, _cells(keys, width), False, shared, keys)
    return Grid(num_texts, height, width, cells, cells, num_texts * height == len(cells), None, keys)


def _cells(
    lengths: Int[Tensor, " texts"], height: int, first: Int[Tensor, " texts"] | None = None
) -> Int[Tensor, " rows"]:
    starts = torch.arange(len(lengths), device=lengths.device) * height
    return _runs(starts if first is None else starts + first, lengths)


def _runs(starts: Int[Tensor, " runs"], lengths: Int[Tensor, " runs"]) -> Int[Tensor, " numbers"]:
    """The indices ``start, ..., start + length - 1`` of all runs."""
    ends = lengths.cumsum(0)
    total = int(ends[-1])
    return (starts - ends + lengths).repeat_interleave(lengths, output_size=total) + torch.arange(
        total, device=starts.device
    )


class Copy(torch.autograd.Function):
    """Rows by index, repeated ones included, in another dtype.

    The gradients of a row's copies, of which an instruction has hundreds, are summed in float32: GPUs would add bf16 to
    bf16, and such a sum of equal terms stops growing after 256 of them.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
        """
        Args:
            ctx: autograd's context.
            rows: what is copied.
            index: the row of each copy.
            dtype: of the copies.
        """
        ctx.save_for_backward(index)
        ctx.num_rows, ctx.dtype = len(rows), rows.dtype
        return rows.index_select(0, index).to(dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (index,) = ctx.saved_tensors
        terms = gradients[0].to(torch.promote_types(gradients[0].dtype, torch.float32))
        total = terms.new_zeros(ctx.num_rows, *terms.shape[1:]).index_add_(0, index, terms)
        return total.to(ctx.dtype), None, None


class _Permute(torch.autograd.Function):
    """Rows in another order. Its backward is a gather too; autograd's own would add into zeros."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        return rows.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (place,) = ctx.saved_tensors
        return gradients[0].index_select(0, place), None, None


class _Spread(torch.autograd.Function):
    """Rows to distinct cells, with a gather as its backward."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, cells: Tensor, num_cells: int) -> Tensor:
        ctx.save_for_backward(cells)
        return rows.new_zeros(num_cells, *rows.shape[1:]).index_copy_(0, cells, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (cells,) = ctx.saved_tensors
        return gradients[0].index_select(0, cells), None, None


class _Collect(torch.autograd.Function):
    """The inverse of ``_Spread``; each is the other's backward."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, cells: Tensor) -> Tensor:
        ctx.save_for_backward(cells)
        ctx.num_cells = len(rows)
        return rows.index_select(0, cells)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (cells,) = ctx.saved_tensors
        return gradients[0].new_zeros(ctx.num_cells, *gradients[0].shape[1:]).index_copy_(0, cells, gradients[0]), None
