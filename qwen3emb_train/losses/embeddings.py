"""The embeddings of a step: by role, as every embedding loss takes them, and as both sides of the contrastive softmax.

A local pair is one (query, positive) of this rank. Gathered texts are all ranks' queries and documents. Both are made
once per step; the scores between them are computed in tiles (``tiles.py``).
"""

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from qwen3emb_train.losses import ragged


@dataclass(frozen=True)
class Embeddings:
    """Embeddings by role, not normalised: a loss that uses cosines normalises them itself.

    Unnormalised, a Matryoshka prefix is a slice (``truncated``): truncation comes *before* the L2 norm, as in the
    released models' usage code (Qwen/Qwen3-Embedding).

    Attributes:
        queries: one vector for each query.
        positives: one for each positive; ``positive_query_idx`` (ascending) is its query.
        negatives: one for each hard negative; ``negative_query_idx`` (ascending) is its query. May be empty.
        query_hash, positive_hash, negative_hash: text hashes; equal hash = equal text.
        positive_scores, negative_scores: a teacher's or annotators' score of each (query, document) pair; NaN where a
            row has none, None where no row has any.
    """

    queries: Float[Tensor, "queries dim"]
    positives: Float[Tensor, "positives dim"]
    negatives: Float[Tensor, "negatives dim"]
    positive_query_idx: Int[Tensor, " positives"]
    negative_query_idx: Int[Tensor, " negatives"]
    query_hash: Int[Tensor, " queries"]
    positive_hash: Int[Tensor, " positives"]
    negative_hash: Int[Tensor, " negatives"]
    positive_scores: Float[Tensor, " positives"] | None = None
    negative_scores: Float[Tensor, " negatives"] | None = None

    @property
    def dim(self) -> int:
        return self.queries.shape[1]

    def truncated(self, dim: int) -> "Embeddings":
        """The first ``dim`` components of every vector (a Matryoshka prefix).

        Raises:
            ValueError: ``dim`` is outside 1..``self.dim``.
        """
        if not 0 < dim <= self.dim:
            raise ValueError(f"Matryoshka dim {dim} is not within 1..{self.dim}, the encoder's dimension.")
        return replace(
            self,
            queries=self.queries[:, :dim],
            positives=self.positives[:, :dim],
            negatives=self.negatives[:, :dim],
        )

    def detach(self) -> "Embeddings":
        """The same embeddings without graph."""
        return replace(
            self, queries=self.queries.detach(), positives=self.positives.detach(), negatives=self.negatives.detach()
        )

    def to(self, device: torch.device | str) -> "Embeddings":
        vectors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in vectors.items() if value is not None})


def normalized(vectors: Embeddings) -> Embeddings:
    """Every vector scaled to length 1, so that a dot product is a cosine; in float32 at least."""

    def unit(texts: Float[Tensor, "texts dim"]) -> Float[Tensor, "texts dim"]:
        return F.normalize(texts.to(torch.promote_types(texts.dtype, torch.float32)), dim=-1)

    return replace(
        vectors,
        queries=unit(vectors.queries),
        positives=unit(vectors.positives),
        negatives=unit(vectors.negatives),
    )


@dataclass(frozen=True)
class Pairs:
    """One softmax row for each (query, positive) of this rank.

    Attributes:
        queries, positives: unit vectors of the two texts.
        positive_cosine: s(q_i, d_i+), from which the margin is measured.
        query_number: the query's index among all ranks' queries.
        query_hash: the query's text hash.
        known_positives: text hashes of *all* positives of the query; some may be repeated.
    """

    queries: Float[Tensor, "pairs dim"]
    positives: Float[Tensor, "pairs dim"]
    positive_cosine: Float[Tensor, " pairs"]
    query_number: Int[Tensor, " pairs"]
    query_hash: Int[Tensor, " pairs"]
    known_positives: Int[Tensor, "pairs slots"]

    @staticmethod
    def of(local: Embeddings, first_query: int) -> "Pairs":
        """The pairs of normalised ``local``, whose query 0 is query ``first_query`` among all ranks' queries."""
        query_idx, num_queries = local.positive_query_idx, len(local.queries)
        queries = local.queries[query_idx]
        return Pairs(
            queries=queries,
            positives=local.positives,
            positive_cosine=(queries * local.positives).sum(-1),
            query_number=query_idx + first_query,
            query_hash=local.query_hash[query_idx],
            known_positives=local.positive_hash[ragged.slots(query_idx, num_queries)][query_idx],
        )

    def select(self, chosen: Int[Tensor, " chosen"]) -> "Pairs":
        """The pairs at the given indices."""
        return Pairs(*(getattr(self, f.name)[chosen] for f in fields(self)))

    def split(self, num_pairs: int) -> list["Pairs"]:
        """Blocks of at most ``num_pairs`` pairs. Split, not sliced: each slice's gradient would be zero-padded."""
        blocks = zip(*(getattr(self, f.name).split(num_pairs) for f in fields(self)), strict=True)
        return [Pairs(*block) for block in blocks]


@dataclass(frozen=True)
class GatheredTexts:
    """What the pairs are compared with: all ranks' queries and documents.

    Attributes:
        queries: unit vectors of all queries.
        documents: unit vectors of all positives, then of all hard negatives where they count for every query.
        document_query_idx: the index of the query that each document belongs to.
        query_hash, document_hash: text hashes.
        positive_slots: for each query, the indices of its positives in ``documents``; some may be repeated.
        num_positives: how many of the documents are positives.
    """

    queries: Float[Tensor, "queries dim"]
    documents: Float[Tensor, "documents dim"]
    document_query_idx: Int[Tensor, " documents"]
    query_hash: Int[Tensor, " queries"]
    document_hash: Int[Tensor, " documents"]
    positive_slots: Int[Tensor, "queries slots"]
    num_positives: int

    @staticmethod
    def of(gathered: Embeddings, with_negatives: bool) -> "GatheredTexts":
        """From the normalised embeddings of all ranks; query indices count all queries."""
        documents, query_idx, hashes = gathered.positives, gathered.positive_query_idx, gathered.positive_hash
        if with_negatives:
            documents = torch.cat([documents, gathered.negatives])
            query_idx = torch.cat([query_idx, gathered.negative_query_idx])
            hashes = torch.cat([hashes, gathered.negative_hash])
        return GatheredTexts(
            queries=gathered.queries,
            documents=documents,
            document_query_idx=query_idx,
            query_hash=gathered.query_hash,
            document_hash=hashes,
            positive_slots=ragged.slots(gathered.positive_query_idx, len(gathered.queries)),
            num_positives=len(gathered.positives),
        )
