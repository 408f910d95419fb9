"""Both sides of the contrastive softmax: local pairs and gathered texts.

A local pair is one (query, positive) of this rank. Gathered texts are all ranks' queries and documents. Both are made
once for each step; the scores between them are made in blocks (``infonce.py``).
"""

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from qwen3emb_train.losses import ragged
from qwen3emb_train.losses.embeddings import Embeddings


def normalized(vectors: Embeddings) -> Embeddings:
    """Every vector at length 1, so that a dot product is a cosine; in float32 at least."""

    def unit(rows: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows dim"]:
        return F.normalize(rows.to(torch.promote_types(rows.dtype, torch.float32)), dim=-1)

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
        positive_cosine: s(q_i, d_i+), which the margin is measured from.
        query_number: the query's number among all ranks' queries.
        query_hash: the query's text hash.
        known_positives: text hashes of *all* positives of the query, some perhaps repeated.
    """

    queries: Float[Tensor, "pairs dim"]
    positives: Float[Tensor, "pairs dim"]
    positive_cosine: Float[Tensor, " pairs"]
    query_number: Int[Tensor, " pairs"]
    query_hash: Int[Tensor, " pairs"]
    known_positives: Int[Tensor, "pairs slots"]

    @staticmethod
    def of(local: Embeddings, first_query: int) -> "Pairs":
        """The pairs of normalised ``local``, whose query 0 is query ``first_query`` of all ranks' queries."""
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
        """The pairs of the given numbers."""
        return Pairs(*(getattr(self, f.name)[chosen] for f in fields(self)))

    def split(self, num_pairs: int) -> list["Pairs"]:
        """Blocks of at most ``num_pairs`` pairs. One split node joins their gradients; slices would each pad theirs."""
        blocks = zip(*(getattr(self, f.name).split(num_pairs) for f in fields(self)), strict=True)
        return [Pairs(*block) for block in blocks]


@dataclass(frozen=True)
class GatheredTexts:
    """What the pairs are held against: all ranks' queries and documents.

    Attributes:
        queries: unit vectors of all queries, in the order of their numbers.
        documents: unit vectors of all positives, then of all hard negatives where those serve every query.
        document_query_idx: the number of the query that each document belongs to.
        query_hash, document_hash: text hashes.
        positive_slots: for each query, where its positives lie in ``documents``, some perhaps repeated.
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
        """From the normalised vectors of all ranks; query indices count all queries."""
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
