"""What every embedding loss is: a dataclass of settings that is called on vectors by role.

**Exact over ranks.** The caller averages every rank's gradient over the ranks (DDP, ZeRO and FSDP all do), and the
gather that made ``gathered`` sums, in its backward pass, what all ranks want of a rank's vectors. With these two, and
equally many queries on every rank, a loss has the value and the gradient of the undivided batch if it is one of

- a **mean over this rank's queries**, where each term holds one local query (and its documents) against any gathered;
- a **function of the gathered alone**, which every rank computes in full: the mean of equal numbers is the number, and
  the gather's sum brings each vector the gradient once from every rank, of which the mean is once.

A sum of such losses is exact too. Nothing in this room multiplies or divides by the number of ranks. A mean over *some*
local queries (those that have a score, say) would be wrong: ranks have different numbers of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.losses.embeddings import Embeddings


@dataclass(frozen=True)
class LossOutput:
    """What a loss gives back.

    Attributes:
        loss: the scalar to differentiate: the mean over this rank's queries, or the value for all gathered.
        metrics: what to log about it, 0-dim tensors without graph.
    """

    loss: Float[Tensor, ""]
    metrics: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class EmbeddingLoss(ABC):
    """Base of the embedding losses, and the type of their slot in a configuration.

    A loss is a plain dataclass: its fields are its settings and its Hydra schema, and it holds no state. It knows
    neither model nor process group; whoever calls it brings the other ranks' vectors as ``gathered``.
    """

    @property
    def needs_gathered(self) -> bool:
        """Whether it looks at other ranks' vectors. False: call it with ``local`` alone, on any number of ranks."""
        return True

    @property
    def needs_gathered_negatives(self) -> bool:
        """Whether it looks at other ranks' hard negatives. False: those of ``gathered`` may be empty."""
        return False

    @abstractmethod
    def __call__(self, local: Embeddings, gathered: Embeddings | None = None, first_query: int = 0) -> LossOutput:
        """The loss of this rank's queries; see the module for what makes it exact over ranks.

        Args:
            local: this rank's vectors; query indices count this rank's queries from 0.
            gathered: all ranks' vectors in rank order, with gradient; query indices count all queries. None: ``local``
                is all.
            first_query: the number of this rank's first query among all queries.
        """

    def on_prefixes(
        self, local: Embeddings, gathered: Embeddings | None, dims: Sequence[int], first_query: int = 0
    ) -> list[LossOutput]:
        """The loss on each prefix of the vectors (``dims``: lengths); one by one, unless a loss knows better."""
        return [
            self(local.truncated(dim), None if gathered is None else gathered.truncated(dim), first_query)
            for dim in dims
        ]
