"""Several reranking losses at once, each a mean over its own units."""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.losses.list_wise import ListNet, RankNet
from qwen3emb_train.losses.point_wise import PointWise
from qwen3emb_train.losses.reranker_distillation import RerankerDistillation
from qwen3emb_train.losses.reranker_logits import RerankerLogits, Targets
from qwen3emb_train.losses.reranking_loss import RerankingLoss


@dataclass
class RerankingSum(RerankingLoss):
    """The sum of weight * loss over the losses whose weight is not 0; the others require nothing of the data.

    Each loss stays a part of its own: documents and queries are different units, so each is divided by its own total.

    Attributes:
        point_wise: the report's loss.
        point_wise_weight: factor of the report's loss.
        reranker_distillation: matches stored teacher scores.
        reranker_distillation_weight: factor of distillation; 0 = off.
        rank_net: pairs of a relevant and another document.
        rank_net_weight: factor of RankNet; 0 = off. Not recommended by the report's authors.
        list_net: softmax over a query's documents.
        list_net_weight: factor of ListNet; 0 = off. Not recommended by the report's authors.

    Raises:
        ValueError: a weight is negative or not finite, or all are 0.
    """

    point_wise: PointWise = field(default_factory=PointWise)
    point_wise_weight: float = 1.0
    reranker_distillation: RerankerDistillation = field(default_factory=RerankerDistillation)
    reranker_distillation_weight: float = 0.0
    rank_net: RankNet = field(default_factory=RankNet)
    rank_net_weight: float = 0.0
    list_net: ListNet = field(default_factory=ListNet)
    list_net_weight: float = 0.0

    def __post_init__(self) -> None:
        weights = {f"{name}_weight": getattr(self, f"{name}_weight") for name in _NAMES}
        for key, weight in weights.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"{key}={weight} of RerankingSum must be 0 (off) or more.")
        if not any(weights.values()):
            raise ValueError(f"All weights of RerankingSum are 0; give one of {', '.join(weights)}.")

    @property
    def needs_vocabulary(self) -> bool:
        return any(loss.needs_vocabulary for _, loss in self._terms())

    @property
    def needs_whole_queries(self) -> bool:
        return any(loss.needs_whole_queries for _, loss in self._terms())

    @property
    def needs_scores(self) -> bool:
        return any(loss.needs_scores for _, loss in self._terms())

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(part for _, loss in self._terms() for part in loss.parts)

    def total_weights(self, targets: Targets) -> Float[Tensor, " parts"]:
        return torch.cat([loss.total_weights(targets) for _, loss in self._terms()])

    def __call__(self, logits: RerankerLogits) -> Float[Tensor, " parts"]:
        return torch.cat([weight * loss(logits) for weight, loss in self._terms()])

    def _terms(self) -> list[tuple[float, RerankingLoss]]:
        terms = [(getattr(self, f"{name}_weight"), getattr(self, name)) for name in _NAMES]
        return [(weight, loss) for weight, loss in terms if weight]


_NAMES = ("point_wise", "reranker_distillation", "rank_net", "list_net")
