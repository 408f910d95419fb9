"""What the collators share: which texts of a planned row are taken, and their tokens, cut and framed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.data.permutation import random_bits
from qwen3emb_train.data.token_store import TokenStore, flat_spans


@dataclass(frozen=True)
class Frame:
    """Ids that stand before and after every text and are never cut: an EOS token, or a reranker's template."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.before) + len(self.after)


@dataclass(frozen=True, eq=False)
class Drawn:
    """Texts of some rows: their indices in the store, and which of the rows each belongs to (ascending)."""

    texts: Int[np.ndarray, " texts"]
    row_idx: Int[np.ndarray, " texts"]

    def keep(self, kept: Bool[np.ndarray, " texts"]) -> "Drawn":
        return Drawn(self.texts[kept], self.row_idx[kept])


def spans_of_rows(store: TokenStore, rows: Int[np.ndarray, " rows"]) -> tuple[Drawn, Drawn, Drawn]:
    """All queries, positives and negatives of the rows."""
    queries, negatives, ends = store.row_spans(rows)
    positives = flat_spans(queries + 1, negatives - queries - 1)
    return Drawn(queries, np.arange(len(rows))), Drawn(*positives), Drawn(*flat_spans(negatives, ends - negatives))


def draw(found: Drawn, limit: int | None, seed: int, step: int, name: str) -> Drawn:
    """At most ``limit`` texts of each row: those with the smallest random numbers. A text's index says its row, so the
    draw depends on (seed, step, source, row) only.
    """
    if limit is None or not len(found.texts):
        return found
    luck = random_bits(found.texts, seed, "draw", step, name)
    order = np.lexsort((luck, found.row_idx))
    place = np.arange(len(order)) - np.searchsorted(found.row_idx, found.row_idx)  # in its row, row_idx ascend
    kept = np.sort(order[place < limit])
    return Drawn(found.texts[kept], found.row_idx[kept])


def pack_framed(
    stores: Sequence[TokenStore],
    source: Int[np.ndarray, " texts"],
    texts: Int[np.ndarray, " texts"],
    limits: Int[np.ndarray, " texts"],
    frame: Frame,
) -> PackedTokens:
    """The texts' tokens, each at most ``limits`` long with its frame."""
    starts, lengths = np.empty_like(texts), np.empty_like(texts)
    for number in np.unique(source):
        own = source == number
        starts[own], lengths[own] = stores[number].text_spans(texts[own])
    lengths = np.minimum(lengths, limits - len(frame))
    ends = np.cumsum(lengths + len(frame))
    begins = ends - lengths - len(frame)
    flat = np.empty(int(ends[-1]), dtype=np.int64)
    for place, token in enumerate(frame.before):
        flat[begins + place] = token
    for place, token in enumerate(reversed(frame.after), start=1):
        flat[ends - place] = token
    for number in np.unique(source):
        own = source == number
        target, _ = flat_spans((begins + len(frame.before))[own], lengths[own])
        read, _ = flat_spans(starts[own], lengths[own])
        flat[target] = stores[number].ids[read]
    bounds = np.concatenate(([0], ends))
    positions = np.arange(len(flat)) - np.repeat(begins, ends - begins)
    return PackedTokens(torch.from_numpy(flat), torch.from_numpy(bounds), torch.from_numpy(positions))


class TextColumn:
    """Texts of one role, gathered source by source and then put in the order of the batch's rows."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._parts: list[tuple[np.ndarray, ...]] = []
        self.source = self.texts = self.row_idx = self.text_hashes = np.zeros(0, dtype=np.int64)
        self.scores: Float[np.ndarray, " texts"] = np.zeros(0, dtype=np.float32)

    def add(self, store: TokenStore, number: int, drawn: Drawn, queries: Int[np.ndarray, " rows"]) -> None:
        """
        Args:
            queries: the batch's number of each row that ``drawn`` counts.
        """
        none = np.full(len(drawn.texts), np.nan, dtype=np.float32)
        scores = none if store.scores is None else store.scores[drawn.texts]
        source = np.full(len(drawn.texts), number)
        self._parts.append((source, drawn.texts, queries[drawn.row_idx], store.text_hashes[drawn.texts], scores))

    def finish(self) -> None:
        source, texts, row_idx, hashes, scores = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        order = np.argsort(row_idx, kind="stable")
        self.source, self.texts, self.row_idx = source[order], texts[order], row_idx[order]
        self.text_hashes, self.scores = hashes[order], scores[order]
