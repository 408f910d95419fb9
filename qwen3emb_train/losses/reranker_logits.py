"""What a reranker says about documents, beside what it should say.

A rank's documents are prompts of their own, so a step may judge them in chunks: ``Targets`` are known for all of them
before any forward pass, ``RerankerLogits`` of a chunk come one after the other.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Targets:
    """What is known of documents without a model.

    Attributes:
        labels: 1 for a relevant document, 0 for another.
        query: which of the rank's queries a document belongs to; ascending, so a query's documents are neighbours.
        scores: a teacher's, as logits (0 = undecided), NaN where it gave none; None where no document has one.
    """

    labels: Float[Tensor, " documents"]
    query: Int[Tensor, " documents"]
    scores: Float[Tensor, " documents"] | None = None

    def select(self, documents: slice | Int[Tensor, " chosen"]) -> "Targets":
        """Those of some documents; the queries keep their numbers."""
        scores = None if self.scores is None else self.scores[documents]
        return Targets(self.labels[documents], self.query[documents], scores)

    def groups(self) -> tuple[Int[Tensor, " documents"], int]:
        """The documents' queries counted from 0 without gaps (owners, as in ``ragged``), and how many there are."""
        queries, owner = torch.unique_consecutive(self.query, return_inverse=True)
        return owner, len(queries)


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
