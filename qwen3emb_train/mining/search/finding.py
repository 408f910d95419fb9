"""The best documents of every query, by the model and by BM25."""

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from qwen3emb_train.index.bm25 import Bm25Index
from qwen3emb_train.index.faiss_index import FaissIndex
from qwen3emb_train.index.nearest import candidate_scores, rank_candidates, top_k_documents
from qwen3emb_train.index.vector_rows import TensorRows, VectorRows
from qwen3emb_train.index.vector_store import VectorStore
from qwen3emb_train.mining.config import Backend, MiningConfig
from qwen3emb_train.mining.queries import SearchProblem
from qwen3emb_train.mining.search.blocks import QueryBlocks, blocks_for
from qwen3emb_train.models.precision import resolve_device

_RECALL_QUERIES = 100
_IN_MEMORY = 2**27  # elements of vectors: 512 MiB


def find_by_model(
    problem: SearchProblem, documents: VectorStore, queries: VectorStore, config: MiningConfig, work_dir: Path
) -> QueryBlocks:
    """``rows`` and ``scores`` (cosines) of the nearest documents of each query, best first.

    Ranked in float64 (see ``index.nearest``), so the result does not depend on blocks, ranks or devices. An approximate
    index may miss documents; where it finds too few, rows end in -1.

    Args:
        problem: what is searched.
        documents, queries: their vectors.
        config: how to search.
        work_dir: of the blocks.
    """
    blocks = _blocks(problem, documents, queries, config, work_dir, "model")
    k = config.rank_to + problem.most_taken_out
    device = own_device()
    index = _index(documents, problem.num_candidates, config, work_dir) if config.backend is Backend.faiss else None

    @cache
    def searched() -> VectorRows:
        """In memory if small enough, since every block of queries reads all of them."""
        if problem.num_candidates * documents.dim > _IN_MEMORY:
            return documents
        return TensorRows(documents.rows(0, problem.num_candidates))

    def work(span: range) -> dict[str, Tensor]:
        some = queries.rows(span.start, span.stop)
        if index is not None:
            scores, rows = rank_candidates(some, documents, index.search(some, k), k)
        else:
            scores, rows = top_k_documents(some, searched(), k, config.block_elements, device, problem.num_candidates)
        return {"scores": scores, "rows": rows}

    blocks.fill(work)
    return blocks


def find_by_bm25(
    problem: SearchProblem, documents: VectorStore, queries: VectorStore, config: MiningConfig, work_dir: Path
) -> QueryBlocks:
    """``rows`` of each query's best documents by BM25, best first (-1: no more share a word), and their cosines.

    Args:
        problem, documents, queries, config, work_dir: as in ``find_by_model``.
    """
    blocks = _blocks(problem, documents, queries, config, work_dir, "bm25")
    k = config.rank_to + problem.most_taken_out
    index: list[Bm25Index] = []

    def work(span: range) -> dict[str, Tensor]:
        if not index:
            index.append(Bm25Index(problem.pool.texts[: problem.num_candidates]))
        matches, rows = index[0].top_k([problem.queries[query].text for query in span], k)
        rows = rows.masked_fill(matches <= 0, -1)  # no word in common: an arbitrary document
        return {"scores": candidate_scores(queries.rows(span.start, span.stop), documents, rows), "rows": rows}

    blocks.fill(work)
    return blocks


def score_known(
    problem: SearchProblem, documents: VectorStore, queries: VectorStore, config: MiningConfig, work_dir: Path
) -> QueryBlocks:
    """Cosines of each query's relevant and kept documents; ``rows`` end in -1.

    Args:
        problem, documents, queries, config, work_dir: as in ``find_by_model``.
    """
    blocks = _blocks(problem, documents, queries, config, work_dir, "labels")

    def work(span: range) -> dict[str, Tensor]:
        known = [problem.queries[query].relevant | problem.queries[query].kept for query in span]
        rows = pad_rows([sorted(its_rows) for its_rows in known])
        return {"scores": candidate_scores(queries.rows(span.start, span.stop), documents, rows), "rows": rows}

    blocks.fill(work)
    return blocks


def pad_rows(rows: Sequence[Sequence[int]]) -> Int[Tensor, "queries longest"]:
    """Ragged rows, padded with -1."""
    longest = max(map(len, rows))
    return torch.tensor([[*its_rows, *[-1] * (longest - len(its_rows))] for its_rows in rows], dtype=torch.long)


def _blocks(
    problem: SearchProblem,
    documents: VectorStore,
    queries: VectorStore,
    config: MiningConfig,
    work_dir: Path,
    kind: str,
) -> QueryBlocks:
    depends_on: list[Any] = [documents.fingerprint, queries.fingerprint]
    if kind == "labels":
        depends_on.append(problem.labels_digest)
    else:
        depends_on += [problem.num_candidates, config.rank_to + problem.most_taken_out]
    if kind == "model" and config.backend is Backend.faiss:
        depends_on += [config.faiss_index, config.faiss_probes]
    return blocks_for(work_dir, f"found_by_{kind}", queries.num_rows, config.queries_per_block, depends_on)


def sampled_recall(
    found: QueryBlocks, documents: VectorStore, queries: VectorStore, problem: SearchProblem, config: MiningConfig
) -> float:
    """The share of the true first ``rank_to`` documents that the index found; on evenly spaced queries.

    Args:
        found: by ``find_by_model``.
        documents, queries: their vectors.
        problem, config: as in ``find_by_model``.
    """
    chosen = torch.linspace(0, queries.num_rows - 1, min(_RECALL_QUERIES, queries.num_rows)).long()
    _, truth = top_k_documents(
        queries.at(chosen), documents, config.rank_to, config.block_elements, own_device(), problem.num_candidates
    )
    hits = [
        len(set(true.tolist()) & set(found.of(query)["rows"].tolist())) / len(true)
        for query, true in zip(chosen.tolist(), truth, strict=True)
    ]
    return sum(hits) / len(hits)


def _index(documents: VectorStore, num_candidates: int, config: MiningConfig, work_dir: Path) -> FaissIndex:
    return FaissIndex.build_or_read(
        documents, num_candidates, config.faiss_index, config.faiss_probes, work_dir / "faiss"
    )


def own_device() -> str:
    """The rank's own GPU."""
    device = str(resolve_device("auto"))
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device
