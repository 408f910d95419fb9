"""The vectors of a step by role: what every embedding loss takes."""

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Embeddings:
    """Vectors by role, not normalised: a loss that wants cosines normalises them itself.

    Keeping them raw makes Matryoshka a slice (``truncated``): truncation comes *before* the L2 norm, as in the
    released example (docs/sources.md).

    Attributes:
        queries: one vector for each query.
        positives: one for each positive; ``positive_query_idx`` (ascending) says whose.
        negatives: one for each hard negative; ``negative_query_idx`` (ascending) says whose. May be empty.
        query_hash, positive_hash, negative_hash: text hashes; equal hash = equal text.
        positive_scores, negative_scores: a teacher's or annotators' score of each (query, document) pair; NaN where a
            row brings none, None where no row does.
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
        """The first ``dim`` components of every vector (a Matryoshka prefix)."""
        if not 0 < dim <= self.dim:
            raise ValueError(f"Matryoshka dim {dim} is not within 1..{self.dim}, the encoder's dimension.")
        return replace(
            self,
            queries=self.queries[:, :dim],
            positives=self.positives[:, :dim],
            negatives=self.negatives[:, :dim],
        )

    def detach(self) -> "Embeddings":
        """The same vectors without graph."""
        return replace(
            self, queries=self.queries.detach(), positives=self.positives.detach(), negatives=self.negatives.detach()
        )

    def to(self, device: torch.device | str) -> "Embeddings":
        vectors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in vectors.items() if value is not None})
