"""Planned rows to an ``EmbeddingBatch``: truncated texts with their EOS token, each distinct text once."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Int

from qwen3emb_train.data.batch_plan import Step
from qwen3emb_train.data.batches import EmbeddingBatch, PackedTokens
from qwen3emb_train.data.mixture import LengthConfig, SourceConfig
from qwen3emb_train.data.sampling import Frame, TextColumn, pack_framed, sample_texts, spans_of_rows
from qwen3emb_train.data.token_store import TokenStore


class EmbeddingCollator:
    """Builds batches from the plan's steps.

    Which of a row's positives and negatives are sampled depends on (seed, step, source, row) only: not on the rank, nor
    on what was read before.
    """

    def __init__(
        self,
        sources: Mapping[str, SourceConfig],
        stores: Mapping[str, TokenStore],
        lengths: LengthConfig,
        *,
        eos_token_id: int,
        bos_ids: Sequence[int] = (),
        seed: int,
    ) -> None:
        """
        Args:
            sources, stores: by name.
            lengths: truncation lengths.
            eos_token_id: appended to every text.
            bos_ids: what stands before every text.
            seed: of the run.
        """
        self.names = tuple(sorted(sources))  # as BatchPlan.source_names
        self._sources, self._stores = [sources[name] for name in self.names], [stores[name] for name in self.names]
        self._lengths, self._seed = lengths, seed
        self._frame = Frame(tuple(bos_ids), (eos_token_id,))

    def __call__(self, step: int, planned: Step, members: tuple[int, ...]) -> EmbeddingBatch:
        """The batch of a step.

        Args:
            step: its index.
            planned: its rows, or one rank's slice of them.
            members: sources of the whole step. A rank's slice may lack some, yet all ranks must agree whether the step
                has scores.
        """
        columns = [TextColumn(self._lengths.max_query_tokens)]
        columns += [TextColumn(self._lengths.max_document_tokens) for _ in range(2)]
        for number in np.unique(planned.row_source).tolist():
            queries = np.flatnonzero(planned.row_source == number)
            source, store = self._sources[number], self._stores[number]
            found = spans_of_rows(store, planned.rows[queries])
            limits = (None, source.max_positives, source.max_negatives)
            for column, texts, limit in zip(columns, found, limits, strict=True):
                column.add(store, number, sample_texts(texts, limit, self._seed, step, self.names[number]), queries)
        for column in columns:
            column.finish()
        packed, text_index, hashes = self._pack(columns)
        has_scores = any(self._stores[number].scores is not None for number in members)
        return EmbeddingBatch(
            texts=packed,
            query_idx=text_index[0],
            positive_idx=text_index[1],
            positive_query_idx=torch.from_numpy(columns[1].row_idx),
            negative_idx=text_index[2],
            negative_query_idx=torch.from_numpy(columns[2].row_idx),
            text_hash=hashes,
            task=planned.task,
            source=planned.stream,
            positive_scores=torch.from_numpy(columns[1].scores) if has_scores else None,
            negative_scores=torch.from_numpy(columns[2].scores) if has_scores else None,
            source_names=self.names,
            row_source=torch.from_numpy(planned.row_source.astype(np.int64)),
            row_number=torch.from_numpy(planned.rows.astype(np.int64)),
        )

    def _pack(self, columns: list[TextColumn]) -> tuple[PackedTokens, list[torch.Tensor], Int[torch.Tensor, " texts"]]:
        """Each distinct (text, limit) once, in order of first occurrence."""
        hashes = np.concatenate([column.text_hashes for column in columns])
        limits = np.concatenate([np.full(len(column.text_hashes), column.limit) for column in columns])
        is_query_limit = (limits == columns[0].limit).astype(np.uint64)
        _, first, inverse = np.unique(
            (hashes.astype(np.uint64) << np.uint64(1)) | is_query_limit, return_index=True, return_inverse=True
        )
        order = np.argsort(first)
        index = np.empty(len(order), dtype=np.int64)
        index[order] = np.arange(len(order))
        split = np.cumsum([len(column.text_hashes) for column in columns])[:-1]
        text_index = [torch.from_numpy(part) for part in np.split(index[inverse], split)]
        kept = first[order]
        source = np.concatenate([column.source for column in columns])[kept]
        texts = np.concatenate([column.texts for column in columns])[kept]
        packed = pack_framed(self._stores, source, texts, limits[kept], self._frame)
        return packed, text_index, torch.from_numpy(hashes[kept])
