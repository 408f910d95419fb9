"""The interface of every reranking loss: weighted sums over units, and the total weights that divide them.

A reranking loss has one or more *parts*. Each part is a weighted mean over units of the global batch (all ranks, all
chunks); a unit is a document, or a query with all its documents. A unit's weight follows from the targets alone, so a
step is:

1. ``totals = loss.total_weights(targets)`` of each rank's documents, summed over the ranks;
2. for every chunk: ``loss.share(logits, totals).sum().backward()``;
3. the engine **sums** the ranks' gradients (where it averages them, the share is multiplied by the number of ranks).

So the loss and its gradient do not depend on how documents are divided into chunks and ranks, and no forward pass is
repeated. Two rules: the sums of a chunk are never divided by anything of that chunk, even where it holds the rank's
only documents; and with ``needs_whole_queries`` no chunk ends within a query, for half a query would silently be a
different unit.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.losses.reranker_logits import RerankerLogits, Targets


@dataclass
class RerankingLoss(ABC):
    """Base class of the reranking losses, and their type in a configuration.

    A loss is a plain dataclass: its fields are its settings and its Hydra schema, and it holds no state.
    """

    @property
    def needs_vocabulary(self) -> bool:
        """Whether it uses ``log_total``. False: two rows of the output layer are enough."""
        return False

    @property
    def needs_whole_queries(self) -> bool:
        """Whether a query's documents must be in one chunk."""
        return False

    @property
    def needs_scores(self) -> bool:
        """Whether it uses a teacher's scores."""
        return False

    @property
    @abstractmethod
    def parts(self) -> tuple[str, ...]:
        """The names of its parts, for metrics; most losses have one."""

    @abstractmethod
    def total_weights(self, targets: Targets) -> Float[Tensor, " parts"]:
        """The total weight of these documents' units, by part; 0 where there is no unit to learn from."""

    @abstractmethod
    def __call__(self, logits: RerankerLogits) -> Float[Tensor, " parts"]:
        """The weighted sum over the units of these documents, by part; exactly 0, with graph, where there is none."""

    def share(self, logits: RerankerLogits, totals: Float[Tensor, " parts"]) -> Float[Tensor, " parts"]:
        """The contribution of these documents to the loss of the global batch, by part.

        Args:
            logits: of some documents.
            totals: ``total_weights`` of the whole global batch.
        """
        # Where a total is 0, all sums are 0: they are kept as they are, with their graph.
        return self(logits) / torch.where(totals > 0, totals, 1.0)
