"""A reranker's logits and their targets.

Each document is a prompt of its own, so a step may score a rank's documents in chunks: the ``Targets`` of all of them
are known before any forward pass, the ``RerankerLogits`` are computed chunk by chunk.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Targets:
    """The targets of documents.

    Attributes:
        labels: 1 for a relevant document, 0 for another.
        query: which of the rank's queries a document belongs to; ascending, so a query's documents are adjacent.
        scores: a teacher's, as logits (0 = undecided), NaN where it gave none; None where no document has one.
    """

    labels: Float[Tensor, " documents"]
    query: Int[Tensor, " documents"]
    scores: Float[Tensor, " documents"] | None = None

    def select(self, documents: slice | Int[Tensor, " chosen"]) -> "Targets":
        """Those of some documents; query indices are unchanged."""
        scores = None if self.scores is None else self.scores[documents]
        return Targets(self.labels[documents], self.query[documents], scores)

    def groups(self) -> tuple[Int[Tensor, " documents"], int]:
        """The documents' queries counted from 0 without gaps (segments, as in ``ragged``), and how many there are."""
        queries, query_idx = torch.unique_consecutive(self.query, return_inverse=True)
        return query_idx, len(queries)


@dataclass(frozen=True, eq=False)
class RerankerLogits:
    """The logits at the last position of each document's prompt, float32 or wider, with graph.

    Attributes:
        targets: of the same documents.
        yes, no: the logits of the two answers.
        log_total: log of the sum of exp(logit) over the whole vocabulary, for losses with ``needs_vocabulary``.
    """

    targets: Targets
    yes: Float[Tensor, " documents"]
    no: Float[Tensor, " documents"]
    log_total: Float[Tensor, " documents"] | None = None

    @property
    def score(self) -> Float[Tensor, " documents"]:
        """The reranker's score as a logit: its sigmoid is P(yes) among the two answers, as at inference."""
        return self.yes - self.no
