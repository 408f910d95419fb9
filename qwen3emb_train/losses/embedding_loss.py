"""What every embedding loss is: a dataclass of settings that is called on vectors by role."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.losses.representations import Representations


@dataclass(frozen=True)
class LossOutput:
    """What a loss gives back.

    Attributes:
        loss: the scalar to differentiate, a mean over this rank's queries.
        metrics: what to log about it, 0-dim tensors without graph.
    """

    loss: Float[Tensor, ""]
    metrics: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class EmbeddingLoss(ABC):
    """Base of the embedding losses, and the type of their slot in a configuration.

    A loss is a plain dataclass: its fields are its settings and its Hydra schema, and it holds no state. It knows
    neither model nor process group; whoever calls it brings the other ranks' vectors as ``columns``.
    """

    @abstractmethod
    def __call__(
        self, rows: Representations, columns: Representations | None = None, first_query: int = 0
    ) -> LossOutput:
        """The loss of this rank's queries, a mean over them: data parallelism averages over ranks.

        Args:
            rows: this rank's vectors; owners count this rank's queries from 0.
            columns: all ranks' vectors in rank order, with gradient; owners count all queries. None: ``rows`` is all.
            first_query: the number of this rank's first query among all queries.
        """
