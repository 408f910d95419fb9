"""Shards of a few thousand texts and their vectors: a vector store grows by one complete shard at a time."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor

from qwen3emb_train.data.tokenization import text_hash
from qwen3emb_train.index.embed_config import EmbedConfig, TextRole
from qwen3emb_train.index.embedders import Embedder, EmbeddingSettings, load_embedder
from qwen3emb_train.index.vector_bytes import to_stored
from qwen3emb_train.index.vector_store import (
    IDS_FILE,
    SHARD_FILE,
    VECTORS_FILE,
    StoredShard,
    map_arrays,
    read_ids,
    shard_directory,
)
from qwen3emb_train.lineage import atomic_directory, file_digest, write_text
from qwen3emb_train.models.text_model import truncate_and_normalize

_TEXTS_AT_ONCE = 4096  # tokenised and sorted together; a worker can be stopped between two such groups


@dataclass(frozen=True, eq=False)
class TextShard:
    """The texts of one shard.

    Attributes:
        number: index of the shard in the store.
        ids, texts: in row order.
    """

    number: int
    ids: list[str]
    texts: list[str]

    @cached_property
    def hashes(self) -> Int[np.ndarray, " texts"]:
        """63-bit hash of each text: enough to report which one changed."""
        return np.array([text_hash(text) for text in self.texts], dtype=np.int64)

    @cached_property
    def digest(self) -> str:
        """Of all ids and texts, in order."""
        return hashlib.sha256(json.dumps(self.ids).encode() + b"\0" + self.hashes.tobytes()).hexdigest()


def cut_shards(texts: Iterable[tuple[str, str]], rows_per_shard: int) -> Iterator[TextShard]:
    """Reads ``(id, text)`` pairs, a shard at a time."""
    iterator, number = iter(texts), 0
    while rows := list(islice(iterator, rows_per_shard)):
        yield TextShard(number, [text_id for text_id, _ in rows], [text for _, text in rows])
        number += 1


def first_difference(directory: Path, shard: TextShard) -> str:
    """Describes the first difference between a stored shard and the present texts, by id."""
    ids, hashes = read_ids(directory), map_arrays(directory / VECTORS_FILE)["text_hashes"]
    first = shard.number
    for row, (stored_id, stored_hash) in enumerate(zip(ids, hashes.tolist(), strict=True)):
        if row >= len(shard.ids):
            return f"document {stored_id!r} is in the store, but no longer among the texts"
        if shard.ids[row] != stored_id:
            return f"document {shard.ids[row]!r} is where the store has {stored_id!r} (row {row} of shard {first})"
        if shard.hashes[row] != stored_hash:
            return f"the text of document {stored_id!r} has changed (row {row} of shard {first})"
    return f"document {shard.ids[len(ids)]!r} is not in the store"


@dataclass(frozen=True)
class ShardTask:
    """All that a process needs to write shards; small, so that it can be sent to one.

    Attributes:
        directory: of the store.
        model: model directory or hub name.
        device: where it runs; "auto": CUDA where there is one.
        config: how to encode.
        settings: what the vectors depend on besides the texts; recorded in every shard.
    """

    directory: Path
    model: str
    device: str
    config: EmbedConfig
    settings: dict[str, Any] = field(default_factory=dict)

    def load(self) -> Embedder:
        config = self.config
        settings = EmbeddingSettings(
            config.max_tokens, config.precision, config.tokens_per_batch, config.texts_per_batch, self.device
        )
        return load_embedder(self.model, settings, config.num_layers, as_published=False)

    def write(self, embedder: Embedder, shard: TextShard, check: Callable[[], None] = lambda: None) -> None:
        """Encodes a shard and writes it, complete or not at all.

        Args:
            embedder: the model.
            shard: its texts.
            check: called regularly; may raise to stop.

        Raises:
            ValueError: the model gives a vector that is not finite, or zero; names the document.
        """
        parts = []
        for first in range(0, len(shard.texts), _TEXTS_AT_ONCE):
            check()
            parts.append(self._encode(embedder, shard.texts[first : first + _TEXTS_AT_ONCE]))
        vectors = torch.cat(parts)
        usable = vectors.isfinite().all(dim=1) & vectors.any(dim=1)
        if not usable.all():
            bad = shard.ids[int((~usable).nonzero()[0])]
            raise ValueError(
                f"{self.model} gives document {bad!r} a vector of zeros or with NaN: it overflowed, or its weights are "
                "damaged. Try precision=fp32."
            )
        arrays = to_stored(vectors, self.config.dtype) | {"text_hashes": torch.from_numpy(shard.hashes)}
        final = shard_directory(self.directory, shard.number)
        with atomic_directory(final) as directory:
            save_file(arrays, directory / VECTORS_FILE)
            write_text(directory / IDS_FILE, json.dumps(shard.ids))
            files = [directory / VECTORS_FILE, directory / IDS_FILE]
            stored = StoredShard(
                num_rows=len(vectors),
                dim=vectors.shape[1],
                texts=shard.digest,
                files={file.name: file_digest(file) for file in files},
                sizes={file.name: file.stat().st_size for file in files},
                settings=self.settings,
            )
            write_text(directory / SHARD_FILE, json.dumps(asdict(stored), indent=1) + "\n")

    def _encode(self, embedder: Embedder, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        if self.config.role is TextRole.query:
            vectors = embedder.encode_queries(texts, self.config.instruction)
        else:
            vectors = embedder.encode_documents(texts)
        return truncate_and_normalize(vectors, self.config.dim)
