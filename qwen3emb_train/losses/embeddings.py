"""The embeddings of a step by role: the input of every embedding loss."""

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor


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
