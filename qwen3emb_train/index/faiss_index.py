"""An approximate index, for corpora too large to compare every query with every document.

It returns candidates only; the caller ranks them by exact scores. So an index costs recall, but never changes order.
"""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qwen3emb_train.distributed import launched_rank
from qwen3emb_train.index.vector_store import VectorStore
from qwen3emb_train.lineage import value_digest

_BLOCK = 65_536  # vectors added at once
_TRAINING_VECTORS = 500_000  # at most: faiss itself uses no more than 256 for each cell
_POLL_SECONDS = 1.0


class FaissIndex:
    """A FAISS index; on all GPUs where faiss has them."""

    def __init__(self, index: Any, num_probes: int) -> None:
        faiss = _import_faiss()
        self._index = index
        with suppress(RuntimeError):  # an index without cells has no such parameter
            faiss.extract_index_ivf(index).nprobe = num_probes
        if getattr(faiss, "get_num_gpus", lambda: 0)():
            self._index = faiss.index_cpu_to_all_gpus(index)

    @staticmethod
    def build_or_read(
        documents: VectorStore, num_documents: int, description: str, num_probes: int, directory: Path
    ) -> "FaissIndex":
        """The index over the first ``num_documents``; the first rank builds it, and it is kept in ``directory``.

        Args:
            documents: the store.
            num_documents: rows to index.
            num_probes: cells searched per query, where the index has cells.
            directory: of index files.
            description: for ``faiss.index_factory``: "IVF4096,Flat", "HNSW32", "IVF65536,PQ64", ...

        Raises:
            ImportError: faiss is not installed.
            ValueError: faiss does not know the description, or it needs more documents.
        """
        faiss = _import_faiss()
        name = value_digest([documents.fingerprint, num_documents, description])[:16]
        path = directory / f"{name}.index"
        if not path.is_file() and launched_rank() == 0:
            directory.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".writing")
            faiss.write_index(_build(documents, num_documents, description), str(temporary))
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        while not path.is_file():
            time.sleep(_POLL_SECONDS)
        return FaissIndex(faiss.read_index(str(path)), num_probes)

    def search(self, queries: Float[Tensor, "queries dim"], k: int) -> Int[Tensor, "queries k"]:
        """Rows of the ``k`` nearest that the index finds, in no particular order; -1 where it finds fewer."""
        _, rows = self._index.search(queries.numpy(), k)
        return torch.from_numpy(rows)


def _build(documents: VectorStore, num_documents: int, description: str) -> Any:
    faiss = _import_faiss()
    try:
        index = faiss.index_factory(documents.dim, description, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise ValueError(f"faiss_index={description}: faiss does not know it ({error}).") from None
    if not index.is_trained:
        sample = torch.linspace(0, num_documents - 1, min(num_documents, _TRAINING_VECTORS)).long()
        try:
            index.train(documents.at(sample).numpy())
        except RuntimeError as error:
            raise ValueError(
                f"faiss_index={description}: cannot be made from {num_documents} documents ({error}). Choose fewer "
                "cells (about four times the root of that number), or backend=exact."
            ) from None
    for first in range(0, num_documents, _BLOCK):
        index.add(documents.rows(first, min(first + _BLOCK, num_documents)).numpy())
    return index


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise ImportError("backend=faiss needs faiss: pip install 'qwen3emb-train[mine]'.") from None
    return faiss
