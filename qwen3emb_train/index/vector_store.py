"""The vectors of a corpus on disk: sharded, memory-mapped, and identified by model, settings and texts.

    store = embed_texts(pairs_of_id_and_text, "outputs/mine/model", Path("outputs/vectors"), EmbedConfig(dim=256))
    store = VectorStore.open(Path("outputs/vectors"))       # later, or in another process: cheap, needs no model
    for first in range(0, store.num_rows, 8192):
        block = store.rows(first, first + 8192)              # float32 [rows, dim], whatever the stored type
    store.ids(0, 10), store.at([5, 99, 7]), store.ids_at([5, 99, 7])

``embed_texts`` (``index.embed_texts``) writes a store, continues an interrupted one, and returns a finished one without
loading the model. Row ``i`` is the ``i``-th text given. Layout of the directory:

    store.json              written last: the store is complete. Settings, number of rows, digests of every shard
    shard_00000/            each written under a temporary name and renamed
        vectors.safetensors   ``vectors`` (and ``scales`` for int8), ``text_hashes``: 63-bit hash of each text
        ids.json              the ids, in row order
        shard.json            settings, number of rows, digest of ids and texts, digest of each file
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from qwen3emb_train.index.vector_bytes import VectorType, from_stored
from qwen3emb_train.lineage import file_digest, value_digest

STORE_FILE = "store.json"
SHARD_FILE = "shard.json"
VECTORS_FILE = "vectors.safetensors"
IDS_FILE = "ids.json"
_MAPPED_SHARDS = 64  # kept open at once
_ARRAY_TYPES = {"F32": np.float32, "F16": np.float16, "I8": np.int8, "U8": np.uint8, "I64": np.int64}


@dataclass(frozen=True)
class StoredShard:
    """The content of a shard's ``shard.json``.

    Attributes:
        num_rows, dim: of its vectors.
        texts: digest of its ids and texts, in order.
        files: SHA-256 of each of its files.
        sizes: bytes of each of its files.
        settings: what the vectors depend on besides the texts; ``store.json`` has them once for all shards.
    """

    num_rows: int
    dim: int
    texts: str
    files: dict[str, str]
    sizes: dict[str, int]
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class VectorStore:
    """A complete store. All rows are float32 on the CPU when read; ids and rows are in the order of the texts.

    Attributes:
        directory: of the store.
        settings: what the vectors depend on besides the texts: model (digest), role, instruction, dim, dtype,
            rows_per_shard, max_tokens, num_layers, precision.
        shards: all shards, in row order.
    """

    directory: Path
    settings: dict[str, Any]
    shards: tuple[StoredShard, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_arrays", lru_cache(_MAPPED_SHARDS)(self._map))
        object.__setattr__(self, "_shard_ids", lru_cache(_MAPPED_SHARDS)(self._read_ids))

    @staticmethod
    def open(directory: Path, *, verify: bool = False) -> "VectorStore":
        """Opens a complete store.

        Args:
            directory: of the store.
            verify: read every byte and compare it with the digests (sizes are compared in any case).

        Raises:
            FileNotFoundError: nothing there, or a store that is not complete yet.
            ValueError: a shard is missing or damaged; names it.
        """
        store = VectorStore.read(directory)
        if store is None:
            unfinished = "an unfinished vector store" if any(directory.glob("shard_*")) else "no vector store"
            raise FileNotFoundError(f"{directory}: {unfinished}. Run `embed` on it; it continues where it stopped.")
        for number, shard in enumerate(store.shards):
            check_files(shard_directory(directory, number), shard, verify=verify)
        return store

    @staticmethod
    def read(directory: Path) -> "VectorStore | None":
        """``open`` without checking the shards; None where there is no complete store.

        Raises:
            ValueError: ``store.json`` is not readable.
        """
        path = directory / STORE_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            shards = tuple(StoredShard(**shard) for shard in content["shards"])
            return VectorStore(directory, content["settings"], shards)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: not readable ({error}). Delete that file and run `embed` again; it keeps the shards."
            ) from None

    @property
    def num_rows(self) -> int:
        return sum(shard.num_rows for shard in self.shards)

    @property
    def dim(self) -> int:
        """Components of a vector."""
        return self.shards[0].dim

    @property
    def vector_type(self) -> VectorType:
        return VectorType(self.settings["dtype"])

    @property
    def fingerprint(self) -> str:
        """Digest of everything the vectors depend on: settings (with the model's digest), ids and texts."""
        return value_digest([self.settings, [shard.texts for shard in self.shards]])

    def rows(self, start: int, stop: int) -> Float[Tensor, "rows dim"]:
        """Rows ``start`` to ``stop - 1`` (fewer at the end of the store), dequantised."""
        parts = [self._restored(number, rows) for number, rows in self._spans(start, stop)]
        return torch.cat(parts) if parts else torch.empty(0, self.dim)

    def at(self, rows: Sequence[int] | Int[Tensor, " rows"]) -> Float[Tensor, "rows dim"]:
        """Any rows, in the given order, dequantised.

        Raises:
            IndexError: a row that the store does not have.
        """
        wanted = np.asarray(rows, dtype=np.int64).reshape(-1)
        result = torch.empty(len(wanted), self.dim)
        numbers, within = self._places(wanted)
        for number in np.unique(numbers).tolist():
            chosen = (numbers == number).nonzero()[0]
            result[torch.from_numpy(chosen)] = self._restored(number, within[chosen])
        return result

    def ids(self, start: int = 0, stop: int | None = None) -> list[str]:
        """Ids of rows ``start`` to ``stop - 1``; of all rows by default."""
        spans = self._spans(start, self.num_rows if stop is None else stop)
        return [text_id for number, rows in spans for text_id in self._ids_of(number)[rows]]

    def ids_at(self, rows: Sequence[int] | Int[Tensor, " rows"]) -> list[str]:
        """Ids of any rows, in the given order."""
        numbers, within = self._places(np.asarray(rows, dtype=np.int64).reshape(-1))
        return [self._ids_of(number)[row] for number, row in zip(numbers.tolist(), within.tolist(), strict=True)]

    def _places(self, rows: Int[np.ndarray, " rows"]) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " rows"]]:
        """The shard of each row, and the row within it."""
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.num_rows:
            raise IndexError(f"{self.directory}: rows {rows.min()} to {rows.max()} of a store of {self.num_rows}.")
        return np.divmod(rows, self.settings["rows_per_shard"])

    def _spans(self, start: int, stop: int) -> list[tuple[int, slice]]:
        """The shards that contain the rows, and which of their rows."""
        if start < 0:
            raise IndexError(f"{self.directory}: row {start}; rows count from 0.")
        size, stop = int(self.settings["rows_per_shard"]), min(stop, self.num_rows)
        return [
            (number, slice(max(start - number * size, 0), min(stop - number * size, size)))
            for number in range(start // size, math.ceil(stop / size))
        ]

    def _restored(self, number: int, rows: slice | Int[np.ndarray, " rows"]) -> Float[Tensor, "rows dim"]:
        arrays = self._arrays(number)  # type: ignore[attr-defined]
        stored = {name: array[rows] for name, array in arrays.items() if name != "text_hashes"}
        return from_stored(stored, self.vector_type, self.dim)

    def _ids_of(self, number: int) -> list[str]:
        ids: list[str] = self._shard_ids(number)  # type: ignore[attr-defined]
        return ids

    def _map(self, number: int) -> dict[str, Shaped[np.ndarray, "rows ..."]]:
        return map_arrays(shard_directory(self.directory, number) / VECTORS_FILE)

    def _read_ids(self, number: int) -> list[str]:
        return read_ids(shard_directory(self.directory, number))


def shard_directory(directory: Path, number: int) -> Path:
    return directory / f"shard_{number:05d}"


def read_shard(directory: Path) -> StoredShard | None:
    """The description of a shard; None where it does not exist yet.

    Raises:
        ValueError: its ``shard.json`` is not readable.
    """
    try:
        return StoredShard(**json.loads((directory / SHARD_FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise ValueError(damaged(directory, f"{SHARD_FILE} is not readable: {error}")) from None


def check_files(directory: Path, shard: StoredShard, *, verify: bool) -> None:
    """Checks the files of a shard.

    Args:
        directory: of the shard.
        shard: its description.
        verify: compare the bytes too, not only the sizes.

    Raises:
        ValueError: a file is missing, of another size, or (``verify``) has other bytes; names the shard.
    """
    for name, size in shard.sizes.items():
        path = directory / name
        if not path.is_file():
            raise ValueError(damaged(directory, f"{name} is missing"))
        if path.stat().st_size != size:
            raise ValueError(damaged(directory, f"{name} has {path.stat().st_size} bytes instead of {size}"))
        if verify and file_digest(path) != shard.files[name]:
            raise ValueError(damaged(directory, f"the bytes of {name} are not those that were written"))


def damaged(directory: Path, reason: str) -> str:
    """The message about a damaged shard."""
    return (
        f"{directory}: damaged shard: {reason}. Delete this directory and run `embed` again; it writes this shard "
        "again and keeps the others."
    )


def read_ids(directory: Path) -> list[str]:
    ids: list[str] = json.loads((directory / IDS_FILE).read_text(encoding="utf-8"))
    return ids


def map_arrays(path: Path) -> dict[str, Shaped[np.ndarray, "rows ..."]]:
    """The tensors of a safetensors file, memory-mapped: rows are read on access.

    (safetensors' own slices cannot select single rows without reading the tensor.)
    """
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_size))
    header.pop("__metadata__", None)
    arrays = {}
    for name, tensor in header.items():
        offset = 8 + header_size + tensor["data_offsets"][0]
        # As a plain array: slicing a memmap costs several times more.
        mapped = np.memmap(path, _ARRAY_TYPES[tensor["dtype"]], "r", offset, tuple(tensor["shape"]))
        arrays[name] = np.asarray(mapped)
    return arrays
