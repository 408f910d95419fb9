"""List-wise training of a reranker: the documents of a query against one another. Beyond the report.

The report (arXiv 2506.05176) trains point-wise. Asked about list-wise losses, a maintainer answered "not recommended",
because inference is point-wise (QwenLM/Qwen3-Embedding issue 165): only differences within a query count here, so
P(yes) may drift as a whole and thresholds on it lose their meaning. They can still be useful where only the order
within a query matters, best in addition to the point-wise loss (``RerankingSum``).
"""

from abc import abstractmethod
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from qwen3emb_train.losses import ragged
from qwen3emb_train.losses.reranker_logits import RerankerLogits, Targets
from qwen3emb_train.losses.reranking_loss import RerankingLoss
from qwen3emb_train.losses.temperature import require_temperature


@dataclass
class _ListWise(RerankingLoss):
    """The mean over queries that have both a relevant document and another one.

    Attributes:
        temperature: scores are divided by it.

    Raises:
        ValueError: the temperature is not positive.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        require_temperature(self.temperature, of=type(self).__name__, usual="1 is usual for logits")

    @property
    def needs_whole_queries(self) -> bool:
        return True

    def total_weights(self, targets: Targets) -> Float[Tensor, "1"]:
        query_idx, num_queries = targets.groups()
        return _has_both(targets.labels, query_idx, num_queries).sum(0, keepdim=True)

    def __call__(self, logits: RerankerLogits) -> Float[Tensor, "1"]:
        labels = logits.targets.labels
        query_idx, num_queries = logits.targets.groups()
        losses = self._losses(logits.score / self.temperature, labels, query_idx, num_queries)
        return (losses * _has_both(labels, query_idx, num_queries)).sum(0, keepdim=True)

    @abstractmethod
    def _losses(
        self,
        scores: Float[Tensor, " documents"],
        labels: Float[Tensor, " documents"],
        query_idx: Int[Tensor, " documents"],
        num_queries: int,
    ) -> Float[Tensor, " queries"]:
        """The loss of each query; any finite value for a query that lacks relevant or other documents."""


@dataclass
class RankNet(_ListWise):
    """RankNet (Burges et al. 2005), beyond the report, whose authors advise against list-wise losses.

    Each query contributes the mean over its (relevant, other) pairs of softplus(-(s+ - s-) / temperature).

    Attributes:
        temperature: scores are divided by it; 1.
    """

    @property
    def parts(self) -> tuple[str, ...]:
        return ("rank_net",)

    def _losses(
        self,
        scores: Float[Tensor, " documents"],
        labels: Float[Tensor, " documents"],
        query_idx: Int[Tensor, " documents"],
        num_queries: int,
    ) -> Float[Tensor, " queries"]:
        relevant, other = (labels > 0).nonzero()[:, 0], (labels == 0).nonzero()[:, 0]
        left, right = ragged.join(query_idx[relevant], query_idx[other], num_queries)
        pair_query_idx = query_idx[relevant][left]
        num_pairs = ragged.count_items(pair_query_idx, num_queries).clamp(min=1)
        losses = -F.logsigmoid(scores[relevant[left]] - scores[other[right]])
        return scores.new_zeros(num_queries).index_add(0, pair_query_idx, losses) / num_pairs


@dataclass
class ListNet(_ListWise):
    """Softmax over a query's documents (ListNet, Cao et al. 2007), beyond the report likewise.

    Each query contributes the cross-entropy of softmax(s / temperature) against the uniform distribution over its
    relevant documents. With one relevant document that is the contrastive loss of its group.

    Attributes:
        temperature: scores are divided by it; 1.
    """

    @property
    def parts(self) -> tuple[str, ...]:
        return ("list_net",)

    def _losses(
        self,
        scores: Float[Tensor, " documents"],
        labels: Float[Tensor, " documents"],
        query_idx: Int[Tensor, " documents"],
        num_queries: int,
    ) -> Float[Tensor, " queries"]:
        num_relevant = labels.new_zeros(num_queries).index_add(0, query_idx, labels).clamp(min=1)
        losses = -ragged.segment_log_softmax(scores, query_idx, num_queries)
        return scores.new_zeros(num_queries).index_add(0, query_idx, labels * losses) / num_relevant


def _has_both(
    labels: Float[Tensor, " documents"], query_idx: Int[Tensor, " documents"], num_queries: int
) -> Float[Tensor, " queries"]:
    """1 for a query with both a relevant document and another one, else 0."""
    relevant = labels.new_zeros(num_queries).index_add(0, query_idx, labels)
    return ((relevant > 0) & (relevant < ragged.count_items(query_idx, num_queries))).to(labels.dtype)
