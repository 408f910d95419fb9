"""The rows and the columns of the contrastive softmax.

One row is one (query, positive) pair. Columns are all ranks' queries and documents. Both are made once for each step;
the scores between them are made in blocks (``infonce.py``).
"""

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from qwen3emb_train.losses import ragged
from qwen3emb_train.losses.representations import Representations


def normalized(vectors: Representations) -> Representations:
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
        query_identity: the query's text hash.
        known_positives: text hashes of *all* positives of the query, some perhaps repeated.
    """

    queries: Float[Tensor, "pairs dim"]
    positives: Float[Tensor, "pairs dim"]
    positive_cosine: Float[Tensor, " pairs"]
    query_number: Int[Tensor, " pairs"]
    query_identity: Int[Tensor, " pairs"]
    known_positives: Int[Tensor, "pairs slots"]

    @staticmethod
    def of(rows: Representations, first_query: int) -> "Pairs":
        """The pairs of normalised ``rows``, whose query 0 is query ``first_query`` of all ranks' queries."""
        owner, num_queries = rows.positive_owner, len(rows.queries)
        queries = rows.queries[owner]
        return Pairs(
            queries=queries,
            positives=rows.positives,
            positive_cosine=(queries * rows.positives).sum(-1),
            query_number=owner + first_query,
            query_identity=rows.query_identity[owner],
            known_positives=rows.positive_identity[ragged.slots(owner, num_queries)][owner],
        )

    def select(self, chosen: Int[Tensor, " chosen"]) -> "Pairs":
        """The pairs of the given numbers."""
        return Pairs(*(getattr(self, f.name)[chosen] for f in fields(self)))

    def split(self, num_pairs: int) -> list["Pairs"]:
        """Blocks of at most ``num_pairs`` pairs. One split node joins their gradients; slices would each pad theirs."""
        blocks = zip(*(getattr(self, f.name).split(num_pairs) for f in fields(self)), strict=True)
        return [Pairs(*block) for block in blocks]


@dataclass(frozen=True)
class Columns:
    """What the pairs are held against: all ranks' queries and documents.

    Attributes:
        queries: unit vectors of all queries, in the order of their numbers.
        documents: unit vectors of all positives, then of all hard negatives where those serve every query.
        document_owner: the number of the query that each document belongs to.
        query_identity, document_identity: text hashes.
        positive_slots: for each query, where its positives lie in ``documents``, some perhaps repeated.
        num_positives: how many of the documents are positives.
    """

    queries: Float[Tensor, "queries dim"]
    documents: Float[Tensor, "documents dim"]
    document_owner: Int[Tensor, " documents"]
    query_identity: Int[Tensor, " queries"]
    document_identity: Int[Tensor, " documents"]
    positive_slots: Int[Tensor, "queries slots"]
    num_positives: int

    @staticmethod
    def of(columns: Representations, with_negatives: bool) -> "Columns":
        """The columns of normalised vectors of all ranks; owners are numbers among all queries."""
        documents, owner, identity = columns.positives, columns.positive_owner, columns.positive_identity
        if with_negatives:
            documents = torch.cat([documents, columns.negatives])
            owner = torch.cat([owner, columns.negative_owner])
            identity = torch.cat([identity, columns.negative_identity])
        return Columns(
            queries=columns.queries,
            documents=documents,
            document_owner=owner,
            query_identity=columns.query_identity,
            document_identity=identity,
            positive_slots=ragged.slots(columns.positive_owner, len(columns.queries)),
            num_positives=len(columns.positives),
        )
