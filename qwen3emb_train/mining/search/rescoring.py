"""A reranker's scores of retrieved documents and positives: more accurate than cosines, and useful for distillation."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwen3emb_train.index.embedders import model_identity
from qwen3emb_train.index.rerankers import TextReranker, is_yes_no_reranker
from qwen3emb_train.lineage import value_digest
from qwen3emb_train.mining.config import MiningConfig
from qwen3emb_train.mining.queries import Query, SearchProblem
from qwen3emb_train.mining.rules import window
from qwen3emb_train.mining.search.blocks import QueryBlocks, blocks_for
from qwen3emb_train.mining.search.finding import own_device, pad_rows
from qwen3emb_train.models.loading import quiet_transformers

# Queries and the documents of each -> their scores, query by query.
Scorer = Callable[[Sequence[Query], Sequence[Sequence[str]]], list[float]]


def rescore(problem: SearchProblem, found: Sequence[QueryBlocks], config: MiningConfig, work_dir: Path) -> QueryBlocks:
    """``rows`` (padded with -1) and ``scores`` of each query's relevant and kept documents and of the windows.

    A yes/no reranker uses the query's instruction, its own where there is none. Other cross-encoders get the bare
    query: they have their own template.

    Args:
        problem: what is searched.
        found: by model and by BM25.
        config: which reranker, and the window.
        work_dir: of the blocks.
    """
    assert config.reranker is not None
    depends_on = [
        [blocks.directory.name for blocks in found], problem.labels_digest, config.rank_from, config.rank_to,
        model_identity(config.reranker), config.max_tokens, config.precision,
        value_digest([query.instruction for query in problem.queries]),
    ]  # fmt: skip
    blocks = blocks_for(work_dir, "rescored", len(problem.queries), config.queries_per_block, depends_on)
    scorer: list[Scorer] = []

    def work(span: range) -> dict[str, Tensor]:
        if not scorer:
            scorer.append(load_scorer(config))
        rows = [_rows_to_score(problem.queries[query], query, found, config) for query in span]
        documents = [[problem.pool.texts[row] for row in its_rows] for its_rows in rows]
        padded = pad_rows(rows)
        placed = torch.zeros(padded.shape)
        placed[padded >= 0] = torch.tensor(scorer[0](problem.queries[span.start : span.stop], documents))
        return {"rows": padded, "scores": placed}

    blocks.fill(work)
    return blocks


def load_scorer(config: MiningConfig) -> Scorer:
    """The scorer of a query's documents: a yes/no reranker of ours, exported or not, or any other cross-encoder.

    Raises:
        ImportError: another cross-encoder, and sentence-transformers is not installed.
        ValueError: the model gives several scores to a pair.
    """
    return _yes_no_reranker(config) if is_yes_no_reranker(str(config.reranker)) else _cross_encoder(config)


def _yes_no_reranker(config: MiningConfig) -> Scorer:
    """In our packed model, which reads a query's instruction and text once for all its documents."""
    reranker = TextReranker.load(
        str(config.reranker), max_tokens=config.max_tokens, precision=config.precision.value, device=own_device()
    )

    def score(queries: Sequence[Query], documents: Sequence[Sequence[str]]) -> list[float]:
        of_instruction: dict[str | None, list[int]] = defaultdict(list)
        for number, query in enumerate(queries):
            of_instruction[query.instruction].append(number)
        scores: list[list[float]] = [[]] * len(queries)
        for instruction, numbers in of_instruction.items():
            found = reranker.score_groups(
                [queries[number].text for number in numbers],
                [documents[number] for number in numbers],
                instruction,
                tokens_per_batch=config.tokens_per_batch,
            )
            for number, its_scores in zip(numbers, found, strict=True):
                scores[number] = its_scores.tolist()
        return [value for its_scores in scores for value in its_scores]

    return score


def _cross_encoder(config: MiningConfig) -> Scorer:
    """Sentence-Transformers' own, with its own activation."""
    try:
        from sentence_transformers import CrossEncoder
    except ImportError:
        raise ImportError(
            "reranker needs sentence-transformers: pip install 'qwen3emb-train[mine]' (sentence-transformers)."
        ) from None
    path = str(config.reranker)
    with quiet_transformers():
        model: Any = CrossEncoder(path, max_length=config.max_tokens, local_files_only=Path(path).is_dir())
    if model.num_labels != 1:
        raise ValueError(f"reranker={path}: gives {model.num_labels} scores to a pair; it must give one.")

    def score(queries: Sequence[Query], documents: Sequence[Sequence[str]]) -> list[float]:
        pairs = [(query.text, document) for query, its in zip(queries, documents, strict=True) for document in its]
        found = model.predict(pairs, batch_size=config.texts_per_batch, show_progress_bar=False)
        return [float(value) for value in found]

    return score


def _rows_to_score(query: Query, number: int, found: Sequence[QueryBlocks], config: MiningConfig) -> list[int]:
    """In ascending order, each once. The window is widened by the kept documents that are removed from it."""
    rows = query.relevant | query.kept
    for blocks in found:
        ranks = window(
            blocks.of(number)["rows"].tolist(), query.relevant, config.rank_from, config.rank_to + len(query.kept)
        )
        rows |= {row for _, row in ranks}
    return sorted(rows)
