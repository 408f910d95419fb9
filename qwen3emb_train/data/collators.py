"""Planned rows to an ``EmbeddingBatch``: truncate but keep the closing token, each distinct text once."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int

from qwen3emb_train.data.batch_plan import Step
from qwen3emb_train.data.batches import EmbeddingBatch, PackedTokens
from qwen3emb_train.data.mixture import LengthConfig, SourceConfig
from qwen3emb_train.data.permutation import random_bits
from qwen3emb_train.data.token_store import TokenStore, flat_spans


class EmbeddingCollator:
    """Builds batches from the plan's steps.

    Which of a row's many positives or negatives are taken depends on (seed, step, source, row) only: not on the rank,
    not on what was read before.
    """

    def __init__(
        self,
        sources: Mapping[str, SourceConfig],
        stores: Mapping[str, TokenStore],
        lengths: LengthConfig,
        *,
        seed: int,
    ) -> None:
        self.names = tuple(sorted(sources))  # as BatchPlan.source_names
        self._sources, self._stores = [sources[name] for name in self.names], [stores[name] for name in self.names]
        self._lengths, self._seed = lengths, seed

    def __call__(self, step: int, planned: Step, members: tuple[int, ...]) -> EmbeddingBatch:
        """
        Args:
            members: sources of the whole step. A rank's slice may lack some, yet all ranks must agree whether the step
                has scores.
        """
        columns = [_Column(self._lengths.max_query_tokens)]
        columns += [_Column(self._lengths.max_document_tokens) for _ in range(2)]
        for number in np.unique(planned.row_source).tolist():
            queries = np.flatnonzero(planned.row_source == number)
            for column, part in zip(columns, self._texts_of_rows(step, number, planned.rows[queries]), strict=True):
                texts, owners = part
                column.add(self._stores[number], number, texts, queries[owners])
        for column in columns:
            column.finish()
        packed, text_index, identity = self._pack(columns)
        has_scores = any(self._stores[number].scores is not None for number in members)
        return EmbeddingBatch(
            texts=packed,
            query_rows=text_index[0],
            positive_rows=text_index[1],
            positive_owner=torch.from_numpy(columns[1].owners),
            negative_rows=text_index[2],
            negative_owner=torch.from_numpy(columns[2].owners),
            identity=identity,
            task=planned.task,
            source=planned.stream,
            positive_scores=torch.from_numpy(columns[1].scores) if has_scores else None,
            negative_scores=torch.from_numpy(columns[2].scores) if has_scores else None,
            source_names=self.names,
            row_source=torch.from_numpy(planned.row_source.astype(np.int64)),
            row_number=torch.from_numpy(planned.rows.astype(np.int64)),
        )

    def _texts_of_rows(
        self, step: int, number: int, rows: Int[np.ndarray, " rows"]
    ) -> list[tuple[Int[np.ndarray, " texts"], Int[np.ndarray, " texts"]]]:
        """Queries, positives, negatives: text indices in the store and the row each belongs to."""
        source = self._sources[number]
        queries, negatives, ends = self._stores[number].row_spans(rows)
        found = [(queries, np.arange(len(rows)))]
        for starts, stops, limit in (
            (queries + 1, negatives, source.max_positives),
            (negatives, ends, source.max_negatives),
        ):
            texts, owners = flat_spans(starts, stops - starts)
            if limit is not None and len(texts):
                # The texts of a row with the smallest random numbers; a text's index says its row.
                luck = random_bits(texts, self._seed, "draw", step, self.names[number])
                order = np.lexsort((luck, owners))
                place = np.arange(len(texts)) - np.searchsorted(owners, owners)  # in its row, owners ascend
                kept = np.sort(order[place < limit])
                texts, owners = texts[kept], owners[kept]
            found.append((texts, owners))
        return found

    def _pack(self, columns: list["_Column"]) -> tuple[PackedTokens, list[torch.Tensor], Int[torch.Tensor, " texts"]]:
        """Each distinct (text, limit) once, in order of first occurrence."""
        identities = np.concatenate([column.identities for column in columns])
        limits = np.concatenate([np.full(len(column.identities), column.limit) for column in columns])
        is_query_limit = (limits == columns[0].limit).astype(np.uint64)
        _, first, inverse = np.unique(
            (identities.astype(np.uint64) << np.uint64(1)) | is_query_limit, return_index=True, return_inverse=True
        )
        order = np.argsort(first)
        index = np.empty(len(order), dtype=np.int64)
        index[order] = np.arange(len(order))
        split = np.cumsum([len(column.identities) for column in columns])[:-1]
        text_index = [torch.from_numpy(part) for part in np.split(index[inverse], split)]
        kept = first[order]
        source = np.concatenate([column.source for column in columns])[kept]
        texts = np.concatenate([column.texts for column in columns])[kept]
        return self._tokens(source, texts, limits[kept]), text_index, torch.from_numpy(identities[kept])

    def _tokens(
        self, source: Int[np.ndarray, " texts"], texts: Int[np.ndarray, " texts"], limits: Int[np.ndarray, " texts"]
    ) -> PackedTokens:
        starts, lengths = np.empty_like(texts), np.empty_like(texts)
        for number in np.unique(source):
            own = source == number
            starts[own], lengths[own] = self._stores[number].text_spans(texts[own])
        lengths = np.minimum(lengths, limits - 1)
        ends = np.cumsum(lengths + 1)
        flat = np.empty(int(ends[-1]), dtype=np.int64)
        flat[ends - 1] = self._stores[0].closing_token_id  # the run's tokenizer: one for all stores
        for number in np.unique(source):
            own = source == number
            target, _ = flat_spans((ends - 1 - lengths)[own], lengths[own])
            read, _ = flat_spans(starts[own], lengths[own])
            flat[target] = self._stores[number].ids[read]
        bounds = np.concatenate(([0], ends))
        positions = np.arange(len(flat)) - np.repeat(bounds[:-1], lengths + 1)
        return PackedTokens(torch.from_numpy(flat), torch.from_numpy(bounds), torch.from_numpy(positions))


class _Column:
    """Texts of one role, gathered source by source and then put in the order of the batch's rows."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._parts: list[tuple[np.ndarray, ...]] = []
        self.source = self.texts = self.owners = self.identities = np.zeros(0, dtype=np.int64)
        self.scores: Float[np.ndarray, " texts"] = np.zeros(0, dtype=np.float32)

    def add(
        self, store: TokenStore, number: int, texts: Int[np.ndarray, " texts"], owners: Int[np.ndarray, " texts"]
    ) -> None:
        none = np.full(len(texts), np.nan, dtype=np.float32)
        scores = none if store.scores is None else store.scores[texts]
        self._parts.append((np.full(len(texts), number), texts, owners, store.identities[texts], scores))

    def finish(self) -> None:
        source, texts, owners, identities, scores = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        order = np.argsort(owners, kind="stable")
        self.source, self.texts, self.owners = source[order], texts[order], owners[order]
        self.identities, self.scores = identities[order], scores[order]
