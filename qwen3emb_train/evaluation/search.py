"""A query against a corpus: the quickest look at what a model has learned."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train import lineage
from qwen3emb_train.data.corpus import read_texts
from qwen3emb_train.models.embedders import Embedder, EmbeddingSettings, load_embedder
from qwen3emb_train.models.nearest import top_k_documents
from qwen3emb_train.models.pooling import truncate_and_normalize
from qwen3emb_train.models.precision import Precision


@dataclass
class SearchConfig:
    """What is searched.

    Attributes:
        model: a model directory (an export, a checkpoint's ``model/``, a merge).
        corpus: JSONL with ``text``, optional ``title`` and ``_id``; a BEIR corpus.jsonl is one.
        query: the question.
        top_k: how many hits.
        instruction: what stands before the query. None: the model's own; "": nothing.
        dim: Matryoshka dimension; None = the full vector.
        max_tokens: longest text.
        precision: of the matrix products.
        cache_dir: where document vectors are kept between searches; None = nowhere.
    """

    model: str = "???"
    corpus: str = "???"
    query: str = "???"
    top_k: int = 10
    instruction: str | None = None
    dim: int | None = None
    max_tokens: int = 8192
    precision: Precision = Precision.auto
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; ask for at least 1 hit.")
        if not self.query.strip():
            raise ValueError("query is empty; give the text to search for.")


@dataclass(frozen=True)
class Hit:
    """A found document; ``score`` is the cosine, ``rank`` counts from 1."""

    rank: int
    score: float
    id: str
    text: str


def search(config: SearchConfig) -> list[Hit]:
    """The ``top_k`` documents nearest to the query, best first; equal scores in corpus order.

    Raises:
        FileNotFoundError, ValueError: the model or the corpus cannot be read (file, line and field are named).
    """
    corpus = read_texts(Path(config.corpus))
    embedder = load_embedder(config.model, EmbeddingSettings(config.max_tokens, config.precision))
    query = truncate_and_normalize(embedder.encode_queries([config.query], config.instruction), config.dim)
    scores, rows = top_k_documents(query, _document_vectors(config, embedder, list(corpus.values())), config.top_k)
    ids, texts = list(corpus), list(corpus.values())
    found = zip(scores[0].tolist(), rows[0].tolist(), strict=True)
    return [Hit(rank, score, ids[row], texts[row]) for rank, (score, row) in enumerate(found, start=1)]


def format_hits(hits: Sequence[Hit], *, width: int = 100) -> str:
    """One line for each hit: rank, cosine, id and the beginning of the text."""
    lines = []
    for hit in hits:
        text = " ".join(hit.text.split())
        shown = text if len(text) <= width else text[: width - 3] + "..."
        lines.append(f"{hit.rank:>3}  {hit.score:.4f}  {hit.id}  {shown}")
    return "\n".join(lines)


def _document_vectors(config: SearchConfig, embedder: Embedder, documents: list[str]) -> Float[Tensor, "documents dim"]:
    if config.cache_dir is None:
        return truncate_and_normalize(embedder.encode_documents(documents), config.dim)
    file = Path(config.cache_dir) / f"{_cache_key(config)}.npy"
    if not file.is_file():
        vectors = truncate_and_normalize(embedder.encode_documents(documents), config.dim)
        file.parent.mkdir(parents=True, exist_ok=True)
        writing = file.with_suffix(".writing.npy")
        np.save(writing, vectors.numpy())
        writing.replace(file)
    # Copy on write: torch wants a writable array, the file must stay as it is.
    return torch.from_numpy(np.load(file, mmap_mode="c", allow_pickle=False))


def _cache_key(config: SearchConfig) -> str:
    """Digest of everything that the document vectors depend on."""
    parts = {
        "model": lineage.digest(Path(config.model)),
        "corpus": lineage.digest(Path(config.corpus)),
        "dim": config.dim,
        "max_tokens": config.max_tokens,
        "precision": config.precision.value,
    }
    return lineage.value_digest(parts)
