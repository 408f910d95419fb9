"""The interface of every embedding loss: a dataclass of settings that is called on embeddings by role.

**Exact over ranks.** The caller averages gradients over the ranks (DDP, ZeRO and FSDP all do), and the backward pass of
the gather that made ``gathered`` sums, for each rank's embeddings, the gradients of all ranks. Given these two, and
equally many queries on every rank, a loss has the value and the gradient of the global batch if it is one of

- a **mean over this rank's queries**, where each term compares one local query (and its documents) with any gathered
  embeddings;
- a **function of the gathered embeddings alone**, computed in full on every rank: the mean of equal numbers is that
  number, and the gather's backward sums one equal gradient from each rank, whose mean is that gradient.

A sum of such losses is exact too. Nothing in this package multiplies or divides by the number of ranks. A mean over
*some* local queries (those that have a score, say) would be wrong: ranks have different numbers of them.

**Matryoshka** (arXiv 2205.13147): a loss is computed on the full vector and on truncated prefixes (arXiv 2601.04720,
5.1.1). The prefix is cut *before* the L2 norm, which is how the released models are used.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.losses.embeddings import Embeddings


@dataclass(frozen=True)
class LossOutput:
    """What a loss returns.

    Attributes:
        loss: the scalar to differentiate: the mean over this rank's queries, or the value for all gathered embeddings.
        metrics: values to log, detached 0-dim tensors.
    """

    loss: Float[Tensor, ""]
    metrics: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class EmbeddingLoss(ABC):
    """Base class of the embedding losses, and their type in a configuration.

    A loss is a plain dataclass: its fields are its settings and its Hydra schema, and it holds no state. It uses
    neither model nor process group; the caller passes all ranks' embeddings as ``gathered``.
    """

    @property
    def needs_gathered(self) -> bool:
        """Whether it uses other ranks' embeddings. False: call it with ``local`` alone, on any number of ranks."""
        return True

    @property
    def needs_gathered_negatives(self) -> bool:
        """Whether it uses other ranks' hard negatives. False: those of ``gathered`` may be empty."""
        return False

    def facts(self) -> dict[str, float]:
        """Settings that diagnostics are read by: ``temperature`` and ``false_negative_margin``, where it has them."""
        named = {name: getattr(self, name, None) for name in ("temperature", "false_negative_margin")}
        return {name: value for name, value in named.items() if value is not None}

    @abstractmethod
    def __call__(self, local: Embeddings, gathered: Embeddings | None = None, first_query: int = 0) -> LossOutput:
        """The loss of this rank's queries; see the module for what makes it exact over ranks.

        Args:
            local: this rank's embeddings; query indices count this rank's queries from 0.
            gathered: all ranks' embeddings in rank order, with gradient; query indices count all queries. None:
                ``local`` is the global batch.
            first_query: index of this rank's first query among all queries.
        """

    def on_prefixes(
        self, local: Embeddings, gathered: Embeddings | None, dims: Sequence[int], first_query: int = 0
    ) -> list[LossOutput]:
        """The loss on each prefix of the embeddings; one by one, unless a loss has a faster way.

        Args:
            local, gathered, first_query: as for a call.
            dims: prefix lengths.
        """
        return [
            self(local.truncated(dim), None if gathered is None else gathered.truncated(dim), first_query)
            for dim in dims
        ]


def matryoshka(
    loss: EmbeddingLoss,
    local: Embeddings,
    gathered: Embeddings | None,
    dims: Sequence[int],
    weights: Sequence[float] | None = None,
    first_query: int = 0,
) -> LossOutput:
    """The weighted mean of ``loss`` over the prefixes ``dims``.

    Args:
        loss: any embedding loss.
        local, gathered, first_query: arguments of the loss.
        dims: prefix lengths, exactly these: the full dimension is used only if listed. Empty: only the full one.
        weights: one for each of ``dims``, at any scale; None: all equal. The report gives none.

    Returns:
        The mean, the metrics of the largest prefix, and each prefix's loss as ``loss_dim_{dim}``.

    Raises:
        ValueError: as ``check_dims``.
    """
    if not dims:
        dims = [local.dim]
    if weights is None:
        weights = [1.0] * len(dims)
    check_dims(dims, weights, local.dim)
    outputs = dict(zip(dims, loss.on_prefixes(local, gathered, dims, first_query), strict=True))
    weighted = torch.stack(
        [outputs[dim].loss * (weight / sum(weights)) for dim, weight in zip(dims, weights, strict=True)]
    )
    by_dim = {f"loss_dim_{dim}": output.loss.detach() for dim, output in outputs.items()}
    return LossOutput(weighted.sum(), outputs[max(dims)].metrics | by_dim)


def check_dims(dims: Sequence[int], weights: Sequence[float], full_dim: int) -> None:
    """Checks prefixes and weights.

    Args:
        dims: prefix lengths.
        weights: one for each of them.
        full_dim: the encoder's dimension.

    Raises:
        ValueError: dims repeat or are outside 1..full_dim; weights do not match them or are not positive.
    """
    if len(set(dims)) < len(dims):
        raise ValueError(f"Matryoshka dims {list(dims)} repeat. List each once; weights make one count more.")
    outside = [dim for dim in dims if not 1 <= dim <= full_dim]
    if outside:
        raise ValueError(f"Matryoshka dims {outside} are not within 1..{full_dim}, the encoder's dimension.")
    if len(weights) != len(dims):
        raise ValueError(f"{len(weights)} Matryoshka weights for {len(dims)} dims. Give one weight for each dim.")
    if not all(weight > 0 for weight in weights):
        raise ValueError(f"Matryoshka weights {list(weights)} must be positive. Leave out the dim instead.")
