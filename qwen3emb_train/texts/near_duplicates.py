"""Near-duplicates among more texts than fit into memory: the matches of ``NearDuplicateIndex``, found on disk.

Texts are numbered in their order and *sketched*: digest of the shingles, the hash of each MinHash band, the shingles.
Sketches may be made in any number of processes. ``match`` then brings equal digests and equal band hashes together in
bucket files, each small enough to be sorted in memory, tests each candidate pair once, and writes the true ones.
Nothing in the result depends on how the texts were divided.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Int

from qwen3emb_train.texts.buckets import Buckets, read_blocks
from qwen3emb_train.texts.overlap import SKETCH, similarity
from qwen3emb_train.texts.sketches import BLOCK, Sketches

_PAIR = np.dtype([("text", "<i8"), ("other", "<i8")])
_KEYED = np.dtype([("key", "<u8"), ("text", "<i8"), ("size", "<i8")])
_TWIN = np.dtype([("high", "<u8"), ("low", "<u8"), ("text", "<i8")])
EDGE = np.dtype([("text", "<i8"), ("other", "<i8"), ("similarity", "<f8")])


class Matches:
    """The true pairs among texts that differ, and which texts are the same.

    Args:
        directory: that ``match`` wrote.
        num_texts: in all.
    """

    def __init__(self, directory: Path, num_texts: int) -> None:
        self.first = np.memmap(directory / "first", np.int64, "r", shape=(num_texts,)) if num_texts else np.empty(0)
        self._edges = os.open(directory / "edges", os.O_RDONLY)
        self._num_edges = os.fstat(self._edges).st_size // EDGE.itemsize
        self._has_edges = np.zeros(num_texts, bool)
        for block in read_blocks(directory / "edges", EDGE, BLOCK):
            self._has_edges[block["text"]] = True

    def neighbours(self, text: int) -> list[tuple[int, float]]:
        """The texts, first of those that are the same as they are, that a first text is near to."""
        if not self._has_edges[text]:
            return []
        low, high = 0, self._num_edges
        while low < high:
            middle = (low + high) // 2
            if self._at(middle, 1)["text"][0] < text:
                low = middle + 1
            else:
                high = middle
        found: list[tuple[int, float]] = []
        while True:
            block = self._at(low + len(found), 64)
            own = block[block["text"] == text]
            found += zip(own["other"].tolist(), own["similarity"].tolist(), strict=True)
            if len(own) < 64:
                return found

    def close(self) -> None:
        """Closes the file."""
        os.close(self._edges)

    def _at(self, place: int, num: int) -> np.ndarray:
        return np.frombuffer(os.pread(self._edges, num * EDGE.itemsize, place * EDGE.itemsize), EDGE)


Told = Callable[[str, int, int], None]
"""Receives a step's name, how much of it is done, and how much there is."""


def match(sketches: Sketches, directory: Path, tell: Told = lambda *_: None, per_bucket: int = 1 << 18) -> Matches:
    """Finds the pairs at or above the threshold.

    Args:
        sketches: of all texts.
        directory: gets the result and, meanwhile, the buckets.
        tell: is told of the progress.
        per_bucket: entries that are sorted in memory at once, on average.
    """
    num_buckets = max(1, -(-len(sketches) // per_bucket))
    _write_first(sketches, directory, num_buckets)
    first = np.memmap(directory / "first", np.int64, "r", shape=(len(sketches),)) if len(sketches) else np.empty(0)
    pairs = Buckets(directory / "pairs", _PAIR, max(1, num_buckets))
    for band in range(sketches.num_bands):
        tell("band", band, sketches.num_bands)
        with Buckets(directory / f"band-{band}", _KEYED, num_buckets) as keyed:
            for block in _keyed(sketches, band, first):
                keyed.add(block, (block["key"] % np.uint64(num_buckets)).astype(np.int64))
            for rows in keyed.read():
                for found in _candidates(rows, sketches.threshold):
                    pairs.add(found, found["text"] * num_buckets // max(len(sketches), 1))
    with pairs, Buckets(directory / "both", EDGE, num_buckets) as both:
        for number, found in enumerate(pairs.read()):
            tell("pairs", number, num_buckets)
            for edges in _true_pairs(sketches, np.unique(found)):
                both.add(edges, edges["text"] * num_buckets // len(sketches))
        with (directory / "edges").open("wb") as file:
            for edges in both.read():
                file.write(np.sort(edges, order=("text", "other")).tobytes())
    return Matches(directory, len(sketches))


def _write_first(sketches: Sketches, directory: Path, num_buckets: int) -> None:
    """For each text the first one with the same shingles; -1 without shingles."""
    path, start = directory / "first", 0
    with path.open("wb") as file:
        file.truncate(8 * len(sketches))
    if not len(sketches):
        return
    with Buckets(directory / "same", _TWIN, num_buckets) as same:
        for block in sketches.blocks("digests", np.dtype("<u8"), 2):
            rows = np.empty(len(block), _TWIN)
            rows["high"], rows["low"], rows["text"] = block[:, 0], block[:, 1], np.arange(start, start + len(block))
            start += len(block)
            same.add(rows, (rows["high"] % np.uint64(num_buckets)).astype(np.int64))
        first = np.memmap(path, np.int64, "r+", shape=(len(sketches),))
        for rows in same.read():
            rows = np.sort(rows, order=("high", "low", "text"))
            is_new = np.ones(len(rows), bool)
            is_new[1:] = (rows["high"][1:] != rows["high"][:-1]) | (rows["low"][1:] != rows["low"][:-1])
            texts = rows["text"][is_new][np.cumsum(is_new) - 1]
            first[rows["text"]] = np.where((rows["high"] == 0) & (rows["low"] == 0), -1, texts)
        first.flush()


def _keyed(sketches: Sketches, band: int, first: np.ndarray) -> Iterator[np.ndarray]:
    start = 0
    bands = sketches.blocks("bands", np.dtype("<u8"), sketches.num_bands)
    for block, sizes in zip(bands, _sizes(sketches), strict=True):
        rows = np.empty(len(block), _KEYED)
        rows["key"], rows["text"] = block[:, band], np.arange(start, start + len(block))
        rows["size"] = sizes
        yield rows[first[start : start + len(block)] == rows["text"]]
        start += len(block)


def _sizes(sketches: Sketches) -> Iterator[Int[np.ndarray, " texts"]]:
    for part in sketches.parts:
        last = 0
        for ends in read_blocks(part / "ends", np.dtype("<i8"), BLOCK):
            yield np.diff(ends, prepend=last)
            last = int(ends[-1])


def _candidates(rows: np.ndarray, threshold: float) -> Iterator[np.ndarray]:
    """Pairs with the same key, without those whose sizes alone rule them out; the later text first."""
    rows = np.sort(rows, order=("key", "text"))
    bounds = np.flatnonzero(np.concatenate(([True], rows["key"][1:] != rows["key"][:-1], [True])))
    waiting: list[np.ndarray] = []
    num_waiting = 0
    for start, end in pairwise(bounds):
        for place in range(int(start) + 1, int(end)):
            before, size = rows[start:place], int(rows["size"][place])
            least, most = np.minimum(before["size"], size), np.maximum(before["size"], size)
            near = before["text"][(least >= threshold * most - 1) | (before["size"] + size > SKETCH)]
            found = np.empty(len(near), _PAIR)
            found["text"], found["other"] = rows["text"][place], near
            waiting.append(found)
            num_waiting += len(found)
            if num_waiting > BLOCK:
                yield np.concatenate(waiting)
                waiting, num_waiting = [], 0
    if waiting:
        yield np.concatenate(waiting)


def _true_pairs(sketches: Sketches, pairs: np.ndarray) -> Iterator[np.ndarray]:
    """Those at or above the threshold, in both directions."""
    for start in range(0, len(pairs), BLOCK):
        found: list[tuple[int, int, float]] = []
        last, shingles = -1, np.empty(0, np.uint64)
        for text, other in pairs[start : start + BLOCK].tolist():
            if text != last:
                last, shingles = text, sketches.shingles(text)
            how_near = similarity(shingles, sketches.shingles(other))
            if how_near >= sketches.threshold:
                found += [(text, other, how_near), (other, text, how_near)]
        yield np.array(found, EDGE)


class FirstOnes:
    """Keeps of texts that come in their order the first of those that are near to one another.

    Args:
        sketches: of all texts.
        matches: among them.
    """

    def __init__(self, sketches: Sketches, matches: Matches) -> None:
        self._sketches, self._matches = sketches, matches
        self._is_kept = np.zeros(len(sketches), bool)
        self._later: dict[int, int] = {}  # kept in place of an equal text that was never offered

    def offer(self, text: int) -> tuple[str, float] | None:
        """None: it is kept. Otherwise the nearest one of those kept, the earliest of equals, and its similarity."""
        first = int(self._matches.first[text])
        if first < 0:
            return None
        near = [(-1.0, self._kept(first)), *((-value, self._kept(one)) for one, value in self._neighbours(first))]
        best = min(((value, one) for value, one in near if one is not None), default=None)
        if best is not None:
            return self._sketches.shown(best[1]), -best[0]
        self._is_kept[text] = True
        if text != first:
            self._later[first] = text
        return None

    def _neighbours(self, first: int) -> Iterable[tuple[int, float]]:
        return self._matches.neighbours(first)

    def _kept(self, first: int) -> int | None:
        return first if self._is_kept[first] else self._later.get(first)
