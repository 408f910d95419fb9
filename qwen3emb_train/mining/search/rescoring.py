"""A cross-encoder's scores of what was found, and of the positives: better judges than cosines, worth distilling."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwen3emb_train.mining.config import MiningConfig
from qwen3emb_train.mining.queries import Query, SearchProblem
from qwen3emb_train.mining.rules import window
from qwen3emb_train.mining.search.blocks import QueryBlocks, blocks_for
from qwen3emb_train.mining.search.finding import pad_rows
from qwen3emb_train.models.embedders import model_identity
from qwen3emb_train.models.loading import quiet_transformers

Scorer = Callable[[Sequence[tuple[str, str]]], list[float]]


def rescore(problem: SearchProblem, found: Sequence[QueryBlocks], config: MiningConfig, work_dir: Path) -> QueryBlocks:
    """``rows`` (ended by -1) and ``scores`` of each query's relevant and kept documents and of the windows.

    The query is given without its instruction: a cross-encoder brings its own template.
    """
    assert config.reranker is not None
    depends_on = [
        [blocks.directory.name for blocks in found], problem.labels_digest, config.rank_from, config.rank_to,
        model_identity(config.reranker), config.max_tokens,
    ]  # fmt: skip
    blocks = blocks_for(work_dir, "rescored", len(problem.queries), config.queries_per_block, depends_on)
    scorer: list[Scorer] = []

    def work(span: range) -> dict[str, Tensor]:
        if not scorer:
            scorer.append(load_scorer(config))
        rows = [_rows_to_score(problem.queries[query], query, found, config) for query in span]
        pairs = [
            (problem.queries[query].text, problem.pool.texts[row])
            for query, its_rows in zip(span, rows, strict=True)
            for row in its_rows
        ]
        padded = pad_rows(rows)
        placed = torch.zeros(padded.shape)
        placed[padded >= 0] = torch.tensor(scorer[0](pairs))
        return {"rows": padded, "scores": placed}

    blocks.fill(work)
    return blocks


def load_scorer(config: MiningConfig) -> Scorer:
    """A Sentence-Transformers cross-encoder (``export_reranker`` writes one), with its own activation.

    Raises:
        ImportError: sentence-transformers is not installed.
        ValueError: the model gives several scores to a pair.
    """
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

    def score(pairs: Sequence[tuple[str, str]]) -> list[float]:
        found = model.predict(list(pairs), batch_size=config.texts_per_batch, show_progress_bar=False)
        return [float(value) for value in found]

    return score


def _rows_to_score(query: Query, number: int, found: Sequence[QueryBlocks], config: MiningConfig) -> list[int]:
    """In ascending order, each once. The window is widened by what an example may take out of it."""
    rows = query.relevant | query.kept
    for blocks in found:
        ranks = window(
            blocks.of(number)["rows"].tolist(), query.relevant, config.rank_from, config.rank_to + len(query.kept)
        )
        rows |= {row for _, row in ranks}
    return sorted(rows)
