"""A cache of vectors on disk, keyed by a digest of everything they depend on."""

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train import lineage
from qwen3emb_train.index.embedders import Embedder, EmbeddingSettings, model_identity


class CachedEmbedder:
    """An embedder with a cache directory of ``.npy`` files; the model is loaded at the first cache miss.

    Vectors are cached at full width, so one file serves every dimension. Settings that change rounding errors only
    (texts in a batch, processes) are not part of the digest.

    Args:
        load: returns the embedder.
        cache_dir: directory of the files; None: nothing is cached.
        model, settings, num_layers: arguments of ``load``.
    """

    def __init__(
        self,
        load: Callable[[], Embedder],
        cache_dir: str | None,
        model: str,
        settings: EmbeddingSettings,
        num_layers: int | None = None,
    ) -> None:
        self._load = load
        self._directory = None if cache_dir is None else Path(cache_dir)
        self._model = model
        self._settings = settings
        self._num_layers = num_layers

    @cached_property
    def embedder(self) -> Embedder:
        """The embedder without the cache, for texts that are encoded once."""
        return self._load()

    def encode_queries(self, queries: Sequence[str], instruction: str | None) -> Float[Tensor, "texts dim"]:
        """See ``Embedder.encode_queries``."""
        how = {"role": "query", "instruction": instruction}
        return self._vectors(queries, how, lambda: self.embedder.encode_queries(queries, instruction))

    def encode_documents(self, documents: Sequence[str]) -> Float[Tensor, "texts dim"]:
        """See ``Embedder.encode_documents``."""
        return self._vectors(documents, {"role": "document"}, lambda: self.embedder.encode_documents(documents))

    def _vectors(
        self, texts: Sequence[str], how: dict[str, str | None], encode: Callable[[], Tensor]
    ) -> Float[Tensor, "texts dim"]:
        if self._directory is None:
            return encode()
        file = self._directory / f"{self._key(texts, how)}.npy"
        cached = _read(file, len(texts))
        if cached is None:
            vectors = encode()
            self._directory.mkdir(parents=True, exist_ok=True)
            writing = file.with_suffix(f".{os.getpid()}.writing")
            with writing.open("wb") as stream:
                np.save(stream, vectors.numpy(), allow_pickle=False)
                stream.flush()
                os.fsync(stream.fileno())
            writing.replace(file)
            cached = _read(file, len(texts))
            assert cached is not None
        return torch.from_numpy(cached)

    def _key(self, texts: Sequence[str], how: dict[str, str | None]) -> str:
        return lineage.value_digest({
            "model": self._identity,
            "num_layers": self._num_layers,
            "texts": _texts_digest(texts),
            "max_tokens": self._settings.max_tokens,
            "precision": self._settings.precision.value,
            **how,
        })  # fmt: skip

    @cached_property
    def _identity(self) -> str:
        return model_identity(self._model)


def _read(file: Path, num_texts: int) -> Float[np.ndarray, "texts dim"] | None:
    """The vectors of a file; None where it is missing, damaged or short: they are encoded again."""
    try:
        # Copy on write: torch needs a writable array, and the file must not change.
        vectors: np.ndarray = np.load(file, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return vectors if vectors.ndim == 2 and len(vectors) == num_texts and vectors.dtype == np.float32 else None


def _texts_digest(texts: Sequence[str]) -> str:
    combined = hashlib.sha256()
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        combined.update(f"{len(encoded)}\n".encode())  # so that the boundaries of texts count
        combined.update(encoded)
    return combined.hexdigest()
