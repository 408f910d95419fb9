"""Planned rows to a ``RerankingBatch``: a query's documents, each in a prompt; likely false negatives are left out."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from qwen3emb_train.data.batch_plan import Step
from qwen3emb_train.data.batches import RerankingBatch
from qwen3emb_train.data.mixture import SourceConfig
from qwen3emb_train.data.sampling import Frame, RowTexts, TextColumn, pack_framed, sample_texts, spans_of_rows
from qwen3emb_train.data.token_store import TokenStore


@dataclass
class FalseNegativeFilter:
    """Drops negatives that score too close to the positives to count as irrelevant, by the scores in the rows.

    Rows without scores, and both limits null, keep all. Mining applies such rules once (``mine_negatives``); here they
    filter files that somebody else mined.

    Attributes:
        margin: a negative must score at least this much below the mean of its query's positives.
        max_relative_score: and below this share of that mean; for cosines, NV-Retriever's 0.95 (arXiv 2407.15831).
    """

    margin: float | None = None
    max_relative_score: float | None = None

    def __post_init__(self) -> None:
        if self.max_relative_score is not None and self.max_relative_score <= 0:
            raise ValueError(
                f"false_negatives.max_relative_score is {self.max_relative_score}; use a share such as 0.95."
            )

    def admits(
        self, negatives: Float[np.ndarray, " negatives"], positives: Float[np.ndarray, " negatives"]
    ) -> Bool[np.ndarray, " negatives"]:
        """Which negatives are kept, given their scores and the mean score of each one's positives; NaN = unknown."""
        too_close = np.zeros(len(negatives), dtype=bool)
        if self.margin is not None:
            too_close |= negatives > positives - self.margin
        if self.max_relative_score is not None:
            too_close |= negatives >= positives * self.max_relative_score
        return ~too_close  # a comparison with NaN is false: unscored negatives are kept


class RerankingCollator:
    """Builds batches from the plan's steps; which documents are sampled depends on (seed, step, source, row) only.

    Attributes:
        names: of the sources, in the order of their indices.
    """

    def __init__(
        self,
        sources: Mapping[str, SourceConfig],
        stores: Mapping[str, TokenStore],
        frame: Frame,
        false_negatives: FalseNegativeFilter,
        *,
        max_tokens: int,
        seed: int,
    ) -> None:
        """
        Args:
            sources, stores: by name.
            frame: the prompt template around every body.
            false_negatives: which negatives to leave out.
            max_tokens: of a prompt, template included.
            seed: of the run.
        """
        self.names = tuple(sorted(sources))  # as BatchPlan.source_names
        self._sources, self._stores = [sources[name] for name in self.names], [stores[name] for name in self.names]
        self._frame, self._false_negatives, self._max_tokens, self._seed = frame, false_negatives, max_tokens, seed

    def __call__(self, step: int, planned: Step, members: tuple[int, ...]) -> RerankingBatch:
        """The batch of a step.

        Args:
            step: its index.
            planned: its rows, or one rank's slice of them.
            members: sources of the whole step: all ranks must agree whether it has scores.

        Raises:
            ValueError: no row has a document to judge.
        """
        relevant, others = TextColumn(self._max_tokens), TextColumn(self._max_tokens)
        for number in np.unique(planned.row_source).tolist():
            queries = np.flatnonzero(planned.row_source == number)
            source, store, name = self._sources[number], self._stores[number], self.names[number]
            _, positives, negatives = spans_of_rows(store, planned.rows[queries])
            negatives = self._filtered(store, positives, negatives, len(queries))
            relevant.add(store, number, sample_texts(positives, source.max_positives, self._seed, step, name), queries)
            others.add(store, number, sample_texts(negatives, source.max_negatives, self._seed, step, name), queries)
        relevant.finish()
        others.finish()
        if not len(relevant.texts) + len(others.texts):
            names = [f"{self.names[s]} row {r}" for s, r in zip(planned.row_source, planned.rows, strict=True)]
            raise ValueError(
                f"{', '.join(names[:5])} leave no document to judge: they have no positives, and max_negatives=0 takes "
                "none of the others. Raise max_negatives, or leave such rows out."
            )
        query, source_of, texts, scores = (
            np.concatenate([getattr(column, part) for column in (relevant, others)])
            for part in ("row_idx", "source", "texts", "scores")
        )
        labels = np.repeat([1.0, 0.0], [len(relevant.texts), len(others.texts)]).astype(np.float32)
        order = np.argsort(query, kind="stable")  # by query, its relevant documents first
        limits = np.full(len(order), self._max_tokens)
        has_scores = any(self._stores[number].scores is not None for number in members)
        return RerankingBatch(
            texts=pack_framed(self._stores, source_of[order], texts[order], limits, self._frame),
            query=torch.from_numpy(query[order]),
            labels=torch.from_numpy(labels[order]),
            num_queries=len(planned.rows),
            task=planned.task,
            source=planned.stream,
            scores=torch.from_numpy(scores[order]) if has_scores else None,
            source_names=self.names,
            row_source=torch.from_numpy(planned.row_source.astype(np.int64)),
            row_number=torch.from_numpy(planned.rows.astype(np.int64)),
        )

    def _filtered(self, store: TokenStore, positives: RowTexts, negatives: RowTexts, num_rows: int) -> RowTexts:
        if store.scores is None or self._false_negatives == FalseNegativeFilter():
            return negatives
        mean = _mean_by_row(store.scores[positives.texts], positives.row_idx, num_rows)
        return negatives.keep(self._false_negatives.admits(store.scores[negatives.texts], mean[negatives.row_idx]))


def _mean_by_row(
    scores: Float[np.ndarray, " texts"], row_idx: Int[np.ndarray, " texts"], num_rows: int
) -> Float[np.ndarray, " rows"]:
    """NaN for a row without texts."""
    with np.errstate(invalid="ignore"):
        sums = np.bincount(row_idx, weights=scores, minlength=num_rows) / np.bincount(row_idx, minlength=num_rows)
    return sums.astype(np.float32)
