"""CoSENT: cosines should be ordered as the scores are (Su Jianlin 2022, kexue.fm/archives/8847).

Qwen3-VL-Embedding (arXiv 2601.04720) trains similarity data with it. For text pairs i, j of all ranks

    L = log(1 + sum over gold_i > gold_j of exp((cos_j - cos_i) / temperature))

The sum has quadratically many terms. Sorted by score, the terms of one i form a prefix, so

    L = logsumexp(0, P_i - cos_i / temperature for every i), P_i = logsumexp(cos_j / temperature over gold_j < gold_i)

and one cumulative log-sum-exp gives all P_i: exact, ties included, in O(n log n) time and O(n) memory.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.losses.embedding_loss import EmbeddingLoss, LossOutput
from qwen3emb_train.losses.embeddings import Embeddings, normalized
from qwen3emb_train.losses.temperature import require_temperature


@dataclass
class CoSENT(EmbeddingLoss):
    """The CoSENT loss over all (query, positive) and (query, hard negative) pairs that have a score; see the module.

    It is a function of the gathered embeddings, so the pairs of one rank are compared with those of all ranks.

    Attributes:
        temperature: 0.05 is the original one (a factor of 20); arXiv 2601.04720 states none.

    Raises:
        ValueError: the temperature is not positive.
    """

    temperature: float = 0.05

    def __post_init__(self) -> None:
        require_temperature(self.temperature, of="CoSENT", usual="0.05 is usual")

    @property
    def needs_gathered_negatives(self) -> bool:
        return True

    def __call__(self, local: Embeddings, gathered: Embeddings | None = None, first_query: int = 0) -> LossOutput:
        """The loss of all gathered pairs, the same on every rank.

        Args:
            local, gathered, first_query: as in ``EmbeddingLoss``.

        Returns:
            The metrics, over all scored pairs of all ranks: ``scored_pairs``, their number; ``mean_cosine``; and
            ``spearman``, the rank correlation of cosines and scores (0 where either is constant).

        Raises:
            ValueError: no pair has a score.
        """
        with torch.autocast(local.queries.device.type, enabled=False):
            cosines, scores = scored_pairs(normalized(local if gathered is None else gathered))
            if not len(scores):
                raise ValueError(
                    "CoSENT orders pairs by their scores, but no row of this step has any. Give similarity data a "
                    "'scores' field (one number for each positive, then for each negative), or train this task with "
                    "the run's main loss (task_losses.tasks_with_main_loss)."
                )
            found = cosines.detach()
            return LossOutput(
                loss=order_loss(cosines / self.temperature, scores),
                metrics={
                    "mean_cosine": found.mean(),
                    "spearman": spearman(found, scores),
                    "scored_pairs": found.new_tensor(len(found)),
                },
            )


def scored_pairs(vectors: Embeddings) -> tuple[Float[Tensor, " pairs"], Float[Tensor, " pairs"]]:
    """Cosines and scores of the pairs of unit vectors that have a score."""
    cosines, scores = [], []
    for documents, query_idx, score in (
        (vectors.positives, vectors.positive_query_idx, vectors.positive_scores),
        (vectors.negatives, vectors.negative_query_idx, vectors.negative_scores),
    ):
        if score is not None:
            cosines.append((vectors.queries[query_idx] * documents).sum(-1))
            scores.append(score)
    if not scores:
        return vectors.queries.new_zeros(0), vectors.queries.new_zeros(0)
    joined, known = torch.cat(scores), ~torch.cat(scores).isnan()
    return torch.cat(cosines)[known], joined[known]


def order_loss(logits: Float[Tensor, " pairs"], scores: Float[Tensor, " pairs"]) -> Float[Tensor, ""]:
    """log(1 + the sum of exp(logit_j - logit_i) over all i, j with score_i > score_j)."""
    order = scores.argsort()
    scores, logits = scores[order], logits[order]
    num_below = torch.searchsorted(scores, scores)  # how many pairs score strictly lower
    above = num_below > 0
    prefixes = logits.logcumsumexp(0)[num_below[above] - 1]
    return torch.cat([logits.new_zeros(1), prefixes - logits[above]]).logsumexp(0)


def spearman(left: Float[Tensor, " items"], right: Float[Tensor, " items"]) -> Float[Tensor, ""]:
    """Spearman's rank correlation; tied items get their mean rank. 0 where either side is constant."""
    ranks = torch.stack([_mean_ranks(left), _mean_ranks(right)])
    centred = ranks - ranks.mean(1, keepdim=True)
    spread = centred.norm(dim=1).prod()
    return torch.where(spread > 0, centred.prod(0).sum() / spread, 0.0).to(left.dtype)


def _mean_ranks(values: Float[Tensor, " items"]) -> Float[Tensor, " items"]:
    ordered = values.sort().values
    first, last = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    return (first + last).double() / 2
