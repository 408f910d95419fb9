"""Rows of a token store to an ``EmbeddingBatch``: truncate but keep the closing token, each distinct text once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from qwen3emb_train.data.batches import EmbeddingBatch, PackedTokens
from qwen3emb_train.data.mixture import SourceConfig, Step
from qwen3emb_train.data.token_store import TokenStore


@dataclass
class LengthConfig:
    """Longest texts in tokens, instruction and closing token included.

    Attributes:
        max_query_tokens: queries (with their instruction).
        max_document_tokens: positives and hard negatives.
    """

    max_query_tokens: int = 512
    max_document_tokens: int = 512

    def __post_init__(self) -> None:
        for name in ("max_query_tokens", "max_document_tokens"):
            if getattr(self, name) < 2:
                raise ValueError(f"lengths.{name} is {getattr(self, name)}; a text and its closing token need 2.")


class EmbeddingCollator:
    """Builds batches from the plan's steps.

    Which of a row's many positives or negatives are taken depends on (seed, step, row) only: not on the rank, not on
    what was read before.
    """

    def __init__(
        self,
        stores: Sequence[TokenStore],
        names: Sequence[str],
        sources: Sequence[SourceConfig],
        lengths: LengthConfig,
        *,
        seed: int,
    ) -> None:
        self.stores, self.names, self.sources = list(stores), list(names), list(sources)
        self.lengths, self.seed = lengths, seed

    def __call__(self, step: int, planned: Step) -> EmbeddingBatch:
        store, source = self.stores[planned.source], self.sources[planned.source]
        queries: list[tuple[int, int]] = []  # (text in the store, its length limit)
        positives: list[tuple[int, int]] = []
        negatives: list[tuple[int, int]] = []
        positive_owner: list[int] = []
        negative_owner: list[int] = []
        document_limit = self.lengths.max_document_tokens
        for owner, row in enumerate(planned.rows.tolist()):
            query, row_positives, row_negatives = store.row_texts(row)
            queries.append((query, self.lengths.max_query_tokens))
            for texts, limit, rows, owners in (
                (row_positives, source.max_positives, positives, positive_owner),
                (row_negatives, source.max_negatives, negatives, negative_owner),
            ):
                chosen = self._draw(texts, limit, (step, planned.source, row))
                rows.extend((text, document_limit) for text in chosen)
                owners.extend([owner] * len(chosen))

        unique: dict[tuple[int, int], int] = {}  # (identity, limit) -> text index in the batch
        kept: list[tuple[int, int]] = []
        columns = []
        for column in (queries, positives, negatives):
            indices = []
            for text, limit in column:
                key = (int(store.identities[text]), limit)
                if key not in unique:
                    unique[key] = len(kept)
                    kept.append((text, limit))
                indices.append(unique[key])
            columns.append(torch.tensor(indices, dtype=torch.long))
        return EmbeddingBatch(
            texts=_pack(store, kept),
            query_rows=columns[0],
            positive_rows=columns[1],
            positive_owner=torch.tensor(positive_owner, dtype=torch.long),
            negative_rows=columns[2],
            negative_owner=torch.tensor(negative_owner, dtype=torch.long),
            identity=torch.tensor([int(store.identities[text]) for text, _ in kept], dtype=torch.long),
            task=source.task,
            source=self.names[planned.source],
        )

    def _draw(self, texts: range, limit: int | None, place: tuple[int, int, int]) -> Sequence[int]:
        if limit is None or len(texts) <= limit:
            return texts
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, 2, *place])))
        return sorted((texts.start + generator.choice(len(texts), size=limit, replace=False)).tolist())


def _pack(store: TokenStore, texts: Sequence[tuple[int, int]]) -> PackedTokens:
    parts: list[np.ndarray] = []
    closing = np.array([store.closing_token_id], dtype=np.int32)
    lengths = []
    for text, limit in texts:
        ids = store.text_ids(text)[: limit - 1]
        parts += [ids, closing]
        lengths.append(len(ids) + 1)
    flat = torch.from_numpy(np.concatenate(parts).astype(np.int64))
    counts = torch.tensor(lengths, dtype=torch.long)
    return PackedTokens.gather(flat, counts.cumsum(0) - counts, counts)
