"""Sampling without a random state: everything is computed from a key and a position. Also how the collators use it.

A seeded shuffle of n rows needs n numbers in memory. Here the row at any position is computed on its own, so 150
million rows cost as much as a hundred, and resuming at step s is arithmetic. The numbers do not depend on a library's
generator, which may change between versions.

The permutation is a Feistel network over Z_a x Z_b ("generalised Feistel", J. Black and P. Rogaway, *Ciphers with
Arbitrary Finite Domains*, CT-RSA 2002, sections 3 and 4): x = left + a * right, and each round adds a keyed hash of one
half to the other. A round is invertible, so the network is a bijection of [0, a * b) for any hash. With
a = ceil(sqrt(n)) at most a - 1 values lie outside [0, n); they are encrypted again until they fall inside ("cycle
walking", ibid.), which keeps it a bijection. The hash is the output function of SplitMix64 (G. Steele, D. Lea,
C. Flood, *Fast Splittable Pseudorandom Number Generators*, OOPSLA 2014). It is random, not cryptographically secure.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.data.token_store import TokenStore, flat_spans

_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def keys_of(*words: int | str) -> np.ndarray:
    """Eight 64-bit keys derived from their purpose, e.g. ``keys_of(seed, "order", name, epoch)``."""
    return np.frombuffer(hashlib.blake2b(json.dumps(words).encode()).digest(), dtype="<u8")


def mixed(values: np.ndarray) -> np.ndarray:
    """SplitMix64's output function on each uint64: every bit of the input changes half of the output's."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def random_bits(positions: np.ndarray, *words: int | str) -> np.ndarray:
    """A uint64 for each position: SplitMix64's number ``position`` when seeded by ``words``."""
    return mixed(keys_of(*words)[0] + (np.asarray(positions, dtype=np.uint64) + np.uint64(1)) * _GOLDEN_GAMMA)


def uniform(positions: np.ndarray, *words: int | str) -> Float[np.ndarray, " positions"]:
    """A number in [0, 1) for each position."""
    return (random_bits(positions, *words) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(positions: np.ndarray, size: int, *words: int | str) -> Int[np.ndarray, " positions"]:
    """The image of each position under a random permutation of ``range(size)``, chosen by ``words``.

    Raises:
        ValueError: a position is outside ``range(size)``.
    """
    values = np.asarray(positions, dtype=np.uint64)
    if len(values) and int(values.max()) >= size:
        raise ValueError(f"position {int(values.max())} is outside a permutation of {size} rows.")
    width = math.isqrt(size - 1) + 1 if size else 1
    height = -(-size // width)
    keys = keys_of(*words)
    values = _network(values, keys, width, height)
    outside = np.flatnonzero(values >= size)
    while len(outside):
        values[outside] = _network(values[outside], keys, width, height)
        outside = outside[values[outside] >= size]
    return values.astype(np.int64)


def _network(values: np.ndarray, keys: np.ndarray, width: int, height: int) -> np.ndarray:
    a, b = np.uint64(width), np.uint64(height)
    left: np.ndarray = values % a
    right: np.ndarray = values // a
    for number, key in enumerate(keys):
        if number % 2 == 0:
            left = (left + mixed(right ^ key) % a) % a
        else:
            right = (right + mixed(left ^ key) % b) % b
    return left + a * right


@dataclass(frozen=True)
class Frame:
    """Token ids before and after every text, never truncated: an EOS token, or a reranker's template."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.before) + len(self.after)


@dataclass(frozen=True, eq=False)
class RowTexts:
    """Texts of some rows.

    Attributes:
        texts: their indices in the store.
        row_idx: which of the rows each belongs to (ascending).
    """

    texts: Int[np.ndarray, " texts"]
    row_idx: Int[np.ndarray, " texts"]

    def keep(self, kept: Bool[np.ndarray, " texts"]) -> "RowTexts":
        return RowTexts(self.texts[kept], self.row_idx[kept])


def spans_of_rows(store: TokenStore, rows: Int[np.ndarray, " rows"]) -> tuple[RowTexts, RowTexts, RowTexts]:
    """All queries, positives and negatives of the rows."""
    queries, negatives, ends = store.row_spans(rows)
    positives = flat_spans(queries + 1, negatives - queries - 1)
    return (
        RowTexts(queries, np.arange(len(rows))),
        RowTexts(*positives),
        RowTexts(*flat_spans(negatives, ends - negatives)),
    )


def sample_texts(found: RowTexts, limit: int | None, seed: int, step: int, name: str) -> RowTexts:
    """At most ``limit`` texts of each row: those with the smallest random numbers.

    A text's index in the store identifies its row, so the sample depends on (seed, step, source, row) only.

    Args:
        found: all texts of the rows.
        limit: texts per row; None = all.
        seed: of the run.
        step: the training step.
        name: of the source.
    """
    if limit is None or not len(found.texts):
        return found
    bits = random_bits(found.texts, seed, "draw", step, name)
    order = np.lexsort((bits, found.row_idx))
    rank = np.arange(len(order)) - np.searchsorted(found.row_idx, found.row_idx)  # within its row
    kept = np.sort(order[rank < limit])
    return RowTexts(found.texts[kept], found.row_idx[kept])


def pack_framed(
    stores: Sequence[TokenStore],
    source: Int[np.ndarray, " texts"],
    texts: Int[np.ndarray, " texts"],
    limits: Int[np.ndarray, " texts"],
    frame: Frame,
) -> PackedTokens:
    """The texts' tokens, truncated and framed.

    Args:
        stores: of the sources.
        source: of each text, an index into ``stores``.
        texts: indices in their store.
        limits: maximum tokens of each text, frame included.
        frame: around each text.
    """
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
    """Texts of one role, added source by source and then sorted into the order of the batch's rows."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._parts: list[tuple[np.ndarray, ...]] = []
        self.source = self.texts = self.row_idx = self.text_hashes = np.zeros(0, dtype=np.int64)
        self.scores: Float[np.ndarray, " texts"] = np.zeros(0, dtype=np.float32)

    def add(self, store: TokenStore, number: int, sampled: RowTexts, queries: Int[np.ndarray, " rows"]) -> None:
        """Adds texts of one source.

        Args:
            store: of the source.
            number: index of the source.
            sampled: the texts.
            queries: index in the batch of each row that ``sampled.row_idx`` counts.
        """
        none = np.full(len(sampled.texts), np.nan, dtype=np.float32)
        scores = none if store.scores is None else store.scores[sampled.texts]
        source = np.full(len(sampled.texts), number)
        self._parts.append((source, sampled.texts, queries[sampled.row_idx], store.text_hashes[sampled.texts], scores))

    def finish(self) -> None:
        source, texts, row_idx, hashes, scores = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        order = np.argsort(row_idx, kind="stable")
        self.source, self.texts, self.row_idx = source[order], texts[order], row_idx[order]
        self.text_hashes, self.scores = hashes[order], scores[order]
