"""Point-wise training of a reranker: each document on its own, "yes" or "no".

Eq. 2 of the Qwen3-Embedding report (arXiv 2506.05176) is next-token cross-entropy at the end of the prompt,

    L = -log p(l | prompt), l = "yes" for a relevant document, "no" for another

over the full vocabulary: probability of other tokens is penalised too. Between the two answers alone it is the binary
cross-entropy of logit(yes) - logit(no), the score used at inference. That needs two rows of the output layer instead of
all, and does not train the logits of other tokens.
"""

import math
from dataclasses import dataclass
from enum import Enum

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from qwen3emb_train.losses.reranker_logits import RerankerLogits, Targets
from qwen3emb_train.losses.reranking_loss import RerankingLoss


class Answers(str, Enum):
    """``full_vocabulary``: with every token, Eq. 2 of the report. ``two_way``: with the other answer."""

    full_vocabulary = "full_vocabulary"
    two_way = "two_way"


@dataclass
class PointWise(RerankingLoss):
    """The weighted mean over documents of -log P(the right answer).

    Attributes:
        answers: what yes and no compete with.
        positive_weight: what a relevant document counts beside another's 1. The balance that matters more is that of
            the data: about 8 others for each relevant one (QwenLM/Qwen3-Embedding issue 144).
        label_smoothing: the share of the target that is split evenly between the two answers, for data with wrong
            labels; 0 = off, below 1. No other token gets any of it.

    Raises:
        ValueError: a setting is out of its range.
    """

    answers: Answers = Answers.full_vocabulary
    positive_weight: float = 1.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.positive_weight < math.inf:
            raise ValueError(f"positive_weight={self.positive_weight} of PointWise must be positive; 1 is neutral.")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing={self.label_smoothing} of PointWise must be 0 (off) or more, below 1.")

    @property
    def needs_vocabulary(self) -> bool:
        return self.answers is Answers.full_vocabulary

    @property
    def parts(self) -> tuple[str, ...]:
        return ("point_wise",)

    def total_weights(self, targets: Targets) -> Float[Tensor, "1"]:
        return self._weights(targets).sum(0, keepdim=True)

    def __call__(self, logits: RerankerLogits) -> Float[Tensor, "1"]:
        target = logits.targets.labels * (1 - self.label_smoothing) + self.label_smoothing / 2
        yes, no = self._answer_losses(logits)
        return (self._weights(logits.targets) * (target * yes + (1 - target) * no)).sum(0, keepdim=True)

    def _weights(self, targets: Targets) -> Float[Tensor, " documents"]:
        return 1 + (self.positive_weight - 1) * targets.labels

    def _answer_losses(self, logits: RerankerLogits) -> tuple[Float[Tensor, " documents"], Float[Tensor, " documents"]]:
        """-log P(yes) and -log P(no)."""
        if self.answers is Answers.two_way:
            return -F.logsigmoid(logits.score), -F.logsigmoid(-logits.score)
        assert logits.log_total is not None, "full_vocabulary needs log_total"
        return logits.log_total - logits.yes, logits.log_total - logits.no
