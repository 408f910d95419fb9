"""A reranker's scores, stored beside each query's documents, as the target of the embedder's cosines.

Two forms, over the positives and hard negatives of one query:

- ``kl``: KL(softmax(score / teacher_temperature) || softmax(cosine / temperature)), the last stage of
  Qwen3-VL-Embedding (arXiv 2601.04720), which writes it as a cross-entropy: the same gradient, but 0 means agreement;
- ``margin_mse``: the mean over its (positive, negative) pairs of the squared difference between the margin of the
  cosines and ``cosine_per_score`` times the margin of the scores (Hofstaetter et al. 2020, arXiv 2010.02666).

In-batch documents have no score and are not used.
"""

import math
from dataclasses import dataclass
from enum import Enum

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qwen3emb_train.losses import ragged
from qwen3emb_train.losses.embedding_loss import EmbeddingLoss, LossOutput
from qwen3emb_train.losses.embeddings import Embeddings, normalized
from qwen3emb_train.losses.temperature import require_temperature


class DistillationForm(str, Enum):
    """``kl``: the distribution over a query's documents. ``margin_mse``: by how much a positive leads a negative."""

    kl = "kl"
    margin_mse = "margin_mse"


@dataclass
class Distillation(EmbeddingLoss):
    """The mean over queries of what separates the cosines from the teacher's stored scores.

    A document without a score (NaN) is left out. A query with nothing to compare (fewer than two scored documents, or
    for ``margin_mse`` no positive or no negative) contributes 0 to the mean, which is still over *all* queries.

    Attributes:
        form: what of the teacher's scores is matched.
        temperature: divides the cosines, for kl. Stated by no report; 0.05.
        teacher_temperature: divides the scores, for kl. 1 suits logits, which is what our reranker gives (the
            difference of yes and no); scores that are probabilities or cosines are nearly uniform at 1 and want about
            0.05.
        cosine_per_score: the margin in cosine that stands for a margin of 1 in scores, for margin_mse. 0.05 maps logits
            of -10..10 to the whole range of the cosine; scores that are cosines want 1.
        require_scores: whether a step without any score is an error. false: it contributes 0, for mixtures in which
            only some sources have scores.

    Raises:
        ValueError: a setting is not positive.
    """

    form: DistillationForm = DistillationForm.kl
    temperature: float = 0.05
    teacher_temperature: float = 1.0
    cosine_per_score: float = 0.05
    require_scores: bool = True

    def __post_init__(self) -> None:
        for key in ("temperature", "teacher_temperature"):
            require_temperature(getattr(self, key), key, of="Distillation", usual="0.05 suits cosines, 1 logits")
        if not 0 < self.cosine_per_score < math.inf:
            raise ValueError(f"cosine_per_score={self.cosine_per_score} of Distillation must be positive.")

    @property
    def needs_gathered(self) -> bool:
        return False

    def __call__(self, local: Embeddings, gathered: Embeddings | None = None, first_query: int = 0) -> LossOutput:
        """The mean over this rank's queries.

        Args:
            local: this rank's embeddings.
            gathered, first_query: not used.

        Returns:
            The metric is ``scored_share``: the share of queries that had something to compare.

        Raises:
            ValueError: the rows have no scores and ``require_scores`` is on.
        """
        positive_scores, negative_scores = local.positive_scores, local.negative_scores
        if positive_scores is None and negative_scores is None and self.require_scores:
            raise ValueError(
                "Distillation matches a teacher's scores, but no row of this step has any. Give the rows a 'scores' "
                "field (one number for each positive, then for each negative), or set require_scores=false where only "
                "some sources have scores, or distillation_weight=0."
            )
        with torch.autocast(local.queries.device.type, enabled=False):
            local = normalized(local)
            positives = _Scored.of(local.queries, local.positives, local.positive_query_idx, positive_scores)
            negatives = _Scored.of(local.queries, local.negatives, local.negative_query_idx, negative_scores)
            match = self._divergence if self.form is DistillationForm.kl else self._margin_error
            losses, compared = match(positives, negatives, len(local.queries))
            return LossOutput(losses.mean(), {"scored_share": compared.to(losses.dtype).mean()})

    def _divergence(self, positives: "_Scored", negatives: "_Scored", num_queries: int) -> tuple[Tensor, Tensor]:
        """KL of each query, and which queries have two documents or more."""
        query_idx = torch.cat([positives.query_idx, negatives.query_idx])
        cosines = torch.cat([positives.cosines, negatives.cosines])
        student = ragged.segment_log_softmax(cosines / self.temperature, query_idx, num_queries)
        scores = torch.cat([positives.scores, negatives.scores])
        teacher = ragged.segment_log_softmax(scores / self.teacher_temperature, query_idx, num_queries)
        losses = student.new_zeros(num_queries).index_add(0, query_idx, teacher.exp() * (teacher - student))
        return losses, ragged.count_items(query_idx, num_queries) > 1

    def _margin_error(self, positives: "_Scored", negatives: "_Scored", num_queries: int) -> tuple[Tensor, Tensor]:
        """Mean squared difference of each query's margins, and which queries have any."""
        left, right = ragged.join(positives.query_idx, negatives.query_idx, num_queries)
        student = positives.cosines[left] - negatives.cosines[right]
        teacher = positives.scores[left] - negatives.scores[right]
        query_idx = positives.query_idx[left]
        num_margins = ragged.count_items(query_idx, num_queries)
        errors = (student - self.cosine_per_score * teacher).square()
        losses = errors.new_zeros(num_queries).index_add(0, query_idx, errors) / num_margins.clamp(min=1)
        return losses, num_margins > 0


@dataclass(frozen=True)
class _Scored:
    """The documents of one role that have a score."""

    cosines: Float[Tensor, " documents"]
    scores: Float[Tensor, " documents"]
    query_idx: Int[Tensor, " documents"]

    @staticmethod
    def of(
        queries: Float[Tensor, "queries dim"],
        documents: Float[Tensor, "documents dim"],
        query_idx: Int[Tensor, " documents"],
        scores: Float[Tensor, " documents"] | None,
    ) -> "_Scored":
        cosines = (queries[query_idx] * documents).sum(-1)
        scores = torch.full_like(cosines, torch.nan) if scores is None else scores.to(cosines.dtype)
        known = ~scores.isnan()
        return _Scored(cosines[known], scores.detach()[known], query_idx[known])
