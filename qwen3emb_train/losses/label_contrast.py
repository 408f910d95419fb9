"""Classification: a text should be closer to its labels than to wrong labels (arXiv 2601.04720).

In-batch documents are no negatives: with few labels, most of them *are* the query's label. So the negatives are the
explicit wrong labels of the same query, and nothing else.
"""

import warnings
from dataclasses import dataclass

from qwen3emb_train.losses.embedding_loss import EmbeddingLoss, LossOutput
from qwen3emb_train.losses.embeddings import Embeddings
from qwen3emb_train.losses.infonce import InfoNCE
from qwen3emb_train.losses.temperature import require_temperature


@dataclass
class LabelContrast(EmbeddingLoss):
    """The mean over queries of -log(exp(s(q, d+) / t) / (exp(s(q, d+) / t) + sum over its wrong labels)).

    Positives are right labels, hard negatives wrong ones. A query with several right labels is one softmax row for each
    of them, weighted equally, and they are not negatives of one another; a wrong label with the text of a right one is
    left out. A query without wrong labels contributes 0.

    Attributes:
        temperature: arXiv 2601.04720 states none; 0.02 as in ``InfoNCE``.

    Raises:
        ValueError: the temperature is not positive.
    """

    temperature: float = 0.02

    def __post_init__(self) -> None:
        require_temperature(self.temperature, of="LabelContrast", usual="0.02 is usual")

    @property
    def needs_gathered(self) -> bool:
        return False

    def __call__(self, local: Embeddings, gathered: Embeddings | None = None, first_query: int = 0) -> LossOutput:
        """The mean over this rank's queries. The metrics are those of ``InfoNCE``.

        Args:
            local: this rank's embeddings.
            gathered, first_query: not used.
        """
        if not len(local.negatives):
            warnings.warn(
                "Classification rows without any wrong label have loss 0. Give each row other labels as 'negatives', "
                "or train this task with the run's main loss (task_losses.tasks_with_main_loss).",
                stacklevel=2,
            )
        # Wrong labels are known to be wrong, whatever their score: no false-negative margin.
        contrast = InfoNCE(
            temperature=self.temperature,
            query_query=False,
            document_document=False,
            query_document=False,
            false_negative_margin=None,
        )
        return contrast(local)
