"""What every reranking loss is: weighted sums over units, and the total weights that divide them.

A reranking loss has one or more *parts*. Each part is a weighted mean over units of the global batch (all ranks, all
chunks); a unit is a document, or a query with all its documents. What a unit weighs follows from the targets alone, so
a step goes like this:

1. ``totals = loss.total_weights(targets)`` of each rank's documents, added up over the ranks;
2. for every chunk: ``loss.share(logits, totals).sum().backward()``;
3. the engine **adds** the ranks' gradients (where it averages them, the share is multiplied by the number of ranks).

Sums of sums are sums: the loss and its gradient do not depend on how documents lie in chunks and on ranks, and no
forward pass is repeated. Two things must not be done. The sums of a chunk are not divided by anything of that chunk,
not even where it holds the rank's only documents. And with ``needs_whole_queries`` no chunk ends within a query: half
a query is a different unit, silently.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.losses.reranker_logits import RerankerLogits, Targets


@dataclass
class RerankingLoss(ABC):
    """Base of the reranking losses, and the type of their slot in a configuration.

    A loss is a plain dataclass: its fields are its settings and its Hydra schema, and it holds no state.
    """

    @property
    def needs_vocabulary(self) -> bool:
        """Whether it looks at ``log_total``. False: two rows of the output layer are enough."""
        return False

    @property
    def needs_whole_queries(self) -> bool:
        """Whether a query's documents must lie in one chunk."""
        return False

    @property
    def needs_scores(self) -> bool:
        """Whether it looks at a teacher's scores."""
        return False

    @property
    @abstractmethod
    def parts(self) -> tuple[str, ...]:
        """The names of its parts, for the log; most losses have one."""

    @abstractmethod
    def total_weights(self, targets: Targets) -> Float[Tensor, " parts"]:
        """What the units of these documents weigh together; 0 where there is no unit to learn from."""

    @abstractmethod
    def __call__(self, logits: RerankerLogits) -> Float[Tensor, " parts"]:
        """The weighted sum over the units of these documents, by part; exactly 0, with graph, where there is none."""

    def share(self, logits: RerankerLogits, totals: Float[Tensor, " parts"]) -> Float[Tensor, " parts"]:
        """What these documents add to the loss of the global batch, by part.

        Args:
            logits: of some documents.
            totals: ``total_weights`` of the whole global batch.
        """
        # A total of 0 has sums of 0 everywhere: they are left as they are, with their graph.
        return self(logits) / torch.where(totals > 0, totals, 1.0)
