"""The cosine of every pair, and the rank of its document among all; in blocks, on vectors on disk."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int

from qwen3emb_train.curation.selection.config import SelectPairsConfig
from qwen3emb_train.curation.selection.pairs import PairTexts
from qwen3emb_train.index.embed_config import TextRole, embed_config
from qwen3emb_train.index.embed_texts import embed_texts
from qwen3emb_train.index.nearest import candidate_scores, top_k_documents
from qwen3emb_train.index.vector_store import VectorStore


def embed_pairs(texts: PairTexts, config: SelectPairsConfig, work_dir: Path) -> tuple[VectorStore, VectorStore]:
    """Stores of the queries' and the documents' vectors, by index; written, continued or reused.

    Args:
        texts: the pairs.
        config: which model.
        work_dir: parent of the stores.
    """
    # Prompts include their instructions, which differ from query to query: the model must add none.
    of_queries, of_documents = embed_config(config, TextRole.query, ""), embed_config(config, TextRole.document)
    return (
        embed_texts(texts.different_queries(), config.model, work_dir / "queries", of_queries),
        embed_texts(texts.different_documents(), config.model, work_dir / "documents", of_documents),
    )


def score_pairs(
    path: Path, texts: PairTexts, queries: VectorStore, documents: VectorStore, rows_per_block: int
) -> Float[np.ndarray, " pairs"]:
    """Writes the cosines to ``path`` and returns them, memory-mapped.

    Args:
        path: .npy file, float32.
        texts: the pairs.
        queries, documents: vectors of the distinct texts.
        rows_per_block: pairs scored at once.
    """
    scores = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(len(texts),))
    for first in range(0, len(texts), rows_per_block):
        block = slice(first, first + rows_per_block)
        query_vectors = queries.at(torch.from_numpy(texts.queries.rows[block]))
        rows = torch.from_numpy(texts.documents.rows[block]).unsqueeze(1)
        scores[block] = candidate_scores(query_vectors, documents, rows)[:, 0].numpy()
    scores.flush()
    return scores


def rank_pairs(
    texts: PairTexts, queries: VectorStore, documents: VectorStore, top_k: int, config: SelectPairsConfig
) -> Int[np.ndarray, " pairs"]:
    """The rank, from 1, of each pair's document for its query among all documents; 0 beyond ``top_k``.

    The query's other positives are not counted. Equal scores are ordered by index.

    Args:
        texts: the pairs.
        queries, documents: vectors of the distinct texts.
        top_k: the largest rank of interest.
        config: sizes of blocks.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ranks = np.zeros(len(texts), dtype=np.int32)
    by_query = np.argsort(texts.queries.rows, kind="stable")  # a query's pairs need not be adjacent
    bounds = np.searchsorted(texts.queries.rows[by_query], np.arange(queries.num_rows + 1))
    most = int(np.diff(bounds).max())
    for first in range(0, queries.num_rows, config.rows_per_block):
        block = queries.rows(first, first + config.rows_per_block)
        _, found = top_k_documents(block, documents, top_k + most - 1, config.block_elements, device)
        for query, nearest in enumerate(found.numpy(), start=first):
            pairs = by_query[bounds[query] : bounds[query + 1]]
            is_own = np.isin(nearest, texts.documents.rows[pairs])
            others_before = np.cumsum(~is_own)
            for pair in pairs:
                (place,) = np.nonzero(nearest == texts.documents.rows[pair])
                if place.size and others_before[place[0]] < top_k:
                    ranks[pair] = others_before[place[0]] + 1
    return ranks
