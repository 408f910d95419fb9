"""Sketches of texts on disk: what two texts are compared by, made in any number of processes.

PART/digests  two uint64 a text      PART/bands   one uint64 a text and band
PART/ends     where its shingles end, in PART/shingles; PART/shown_ends, PART/shown: what a message calls it
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import UInt64

from qwen3emb_train.texts.buckets import read_blocks
from qwen3emb_train.texts.overlap import SKETCH, ComparedText, band_shape

BLOCK = 1 << 16  # values of texts in memory at once
_FLUSH = 2048


class SketchWriter:
    """Sketches of texts, written to a directory as they come.

    Args:
        directory: exists and is empty.
        threshold: of the comparison; the bands depend on it.
    """

    def __init__(self, directory: Path, threshold: float) -> None:
        self._bands, self._rows = band_shape(threshold)
        names = ("digests", "bands", "ends", "shingles", "shown_ends", "shown")
        self._files: dict[str, BinaryIO] = {name: (directory / name).open("wb") for name in names}
        self._waiting: dict[str, list[bytes]] = {name: [] for name in names}
        self._end = self._shown_end = self._num_waiting = 0

    def add(self, text: ComparedText, shown: str) -> None:
        """Appends a text, and what a message calls it."""
        shingles = text.shingles
        digest = hashlib.sha256(shingles.tobytes()).digest()[:16] if shingles.size else b"\0" * 16
        kept, told = shingles[:SKETCH], shown.encode("utf-8", "surrogatepass")
        self._end += kept.size
        self._shown_end += len(told)
        values = {
            "digests": digest, "bands": band_keys(text, self._bands, self._rows).tobytes(),
            "ends": np.int64(self._end).tobytes(), "shingles": kept.tobytes(),
            "shown_ends": np.int64(self._shown_end).tobytes(), "shown": told,
        }  # fmt: skip
        for name, value in values.items():
            self._waiting[name].append(value)
        self._num_waiting += 1
        if self._num_waiting >= _FLUSH:
            self._flush()

    def close(self) -> None:
        """Writes what is left."""
        self._flush()
        for file in self._files.values():
            file.close()

    def _flush(self) -> None:
        for name, values in self._waiting.items():
            self._files[name].write(b"".join(values))
            values.clear()
        self._num_waiting = 0


def band_keys(text: ComparedText, bands: int, rows: int) -> UInt64[np.ndarray, " bands"]:
    """A hash for each band of a text's MinHash; 0 without shingles.

    Args:
        text: to sketch.
        bands: number of bands.
        rows: MinHash values in a band.
    """
    if not text.shingles.size:
        return np.zeros(bands, np.uint64)
    values = text.minhash.hashvalues[: bands * rows].reshape(bands, rows).astype(np.uint64)
    keys = np.arange(1, bands + 1, dtype=np.uint64)
    for column in range(rows):  # splitmix64's finalizer after each value
        keys = (keys + values[:, column]) * np.uint64(0xBF58476D1CE4E5B9)
        keys = (keys ^ (keys >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)
        keys ^= keys >> np.uint64(32)
    return keys


class Sketches:
    """The texts of several directories, numbered through. Read with ``pread``: mapped pages would count as memory."""

    def __init__(self, parts: Sequence[Path], threshold: float) -> None:
        self.parts, self.threshold = list(parts), threshold
        self.num_bands = band_shape(threshold)[0]
        counts = [(part / "ends").stat().st_size // 8 for part in parts]
        self.starts = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        self._files: dict[tuple[int, str], int] = {}

    def __len__(self) -> int:
        return int(self.starts[-1])

    def blocks(self, name: str, dtype: np.dtype[Any], width: int = 1) -> Iterator[np.ndarray]:
        """One kind of value of all texts, in blocks.

        Args:
            name: of the kind, which is that of its file.
            dtype: of a value.
            width: values a text.
        """
        for part in self.parts:
            yield from read_blocks(part / name, dtype, BLOCK, width)

    def shingles(self, text: int) -> UInt64[np.ndarray, " shingles"]:
        """The smallest of a text."""
        return np.frombuffer(self._piece(text, "ends", "shingles", 8), np.uint64)

    def shown(self, text: int) -> str:
        """What a message calls a text."""
        return self._piece(text, "shown_ends", "shown", 1).decode("utf-8", "surrogatepass")

    def close(self) -> None:
        """Closes the files."""
        for file in self._files.values():
            os.close(file)
        self._files.clear()

    def _piece(self, text: int, ends: str, name: str, size: int) -> bytes:
        part = int(np.searchsorted(self.starts, text, side="right")) - 1
        local = text - int(self.starts[part])
        first = max(local - 1, 0)
        bounds = np.frombuffer(os.pread(self._file(part, ends), 8 * (local - first + 1), 8 * first), np.int64)
        start, end = (0 if not local else int(bounds[0])), int(bounds[-1])
        return os.pread(self._file(part, name), size * (end - start), size * start)

    def _file(self, part: int, name: str) -> int:
        if (part, name) not in self._files:
            if len(self._files) > 200:
                self.close()
            self._files[part, name] = os.open(self.parts[part] / name, os.O_RDONLY)
        return self._files[part, name]
