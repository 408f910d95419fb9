"""YesNoReranker: a causal language model scored by its next-token logits of yes and no after a prompt.

The model returns only what a loss uses: for each prompt the logits of the two answers and, for the cross-entropy over
the full vocabulary (arXiv 2506.05176, Eq. 2), the log-sum-exp of all logits. So no more logits than one chunk's are in
memory at once, and inference computes two rows of the head.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qwen3emb_train.models.dropout import TextKeys
from qwen3emb_train.models.precision import full_float32_products
from qwen3emb_train.models.text_model import TextModel

# Settings of transformers models that change logits after the head, and the value that changes nothing.
_LOGIT_CHANGES = {"final_logit_softcapping": None, "logits_scaling": 1.0, "logit_scale": 1.0}


class AnswerLogits(NamedTuple):
    """The columns of the reranker's output.

    Attributes:
        yes, no: logits of the two answers.
        log_total: log of the sum over the vocabulary of exp(logit); None where only two rows were computed.
    """

    yes: Float[Tensor, " texts"]
    no: Float[Tensor, " texts"]
    log_total: Float[Tensor, " texts"] | None

    @property
    def score(self) -> Float[Tensor, " texts"]:
        """``yes - no``: its sigmoid is the probability of yes among the two (arXiv 2601.04720, Eq. 5)."""
        return self.yes - self.no

    @staticmethod
    def of(columns: Float[Tensor, "texts columns"]) -> "AnswerLogits":
        """The columns that ``YesNoReranker`` returns, by name."""
        return AnswerLogits(columns[:, 0], columns[:, 1], columns[:, 2] if columns.shape[1] > 2 else None)


class YesNoReranker(TextModel):
    """Prompts to the logits of the two answers, at the last token.

    Build it with ``models.loading.load_reranker``.

    Attributes:
        lm_head: the language-model head; its weight may be the embedding's.
        answer_ids: token ids of yes and no.
        over_vocabulary: whether ``log_total`` is computed as well.
    """

    stored_prefix = "model."

    def __init__(
        self,
        backbone: Any,
        lm_head: nn.Linear,
        answer_ids: tuple[int, int],
        *,
        over_vocabulary: bool = False,
        text_keys: TextKeys | None = None,
    ) -> None:
        """
        Args:
            backbone: the transformers model without its head.
            lm_head: its head.
            answer_ids: token ids of yes and no.
            over_vocabulary: whether to compute ``log_total``.
            text_keys: see ``TextModel``.

        Raises:
            ValueError: the model changes logits after the head.
        """
        super().__init__(backbone, text_keys)
        self.lm_head = lm_head
        self.answer_ids = answer_ids
        self.over_vocabulary = over_vocabulary
        for name, neutral in _LOGIT_CHANGES.items():
            if getattr(self.config, name, neutral) not in (neutral, None):
                raise ValueError(
                    f"The model's {name}={getattr(self.config, name)} changes logits after the head, which is not "
                    "supported for rerankers. Use a model without it (Qwen3, Llama, Mistral)."
                )

    def head(self, states: Float[Tensor, "texts hidden"]) -> Float[Tensor, "texts columns"]:
        """Columns as in ``AnswerLogits``: two, or three with ``over_vocabulary``.

        The head runs in full float32 under autocast too, whatever the environment says of TF32: its products are few,
        and a score is the difference of two of them.
        """
        with torch.autocast(states.device.type, enabled=False):
            if not self.over_vocabulary:
                return _head(states, self.lm_head.weight[list(self.answer_ids)].to(states.dtype))
            logits = _head(states, self.lm_head.weight.to(states.dtype))
            return torch.cat([logits[:, list(self.answer_ids)], logits.logsumexp(1, keepdim=True)], 1)


class _Head(torch.autograd.Function):
    """``states @ weight.T``, full float32 in the forward and in the backward pass; the rest of a pass may use TF32."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(states, weight)
        with full_float32_products():
            return states @ weight.T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        states, weight = ctx.saved_tensors
        of_states, of_weight = ctx.needs_input_grad
        with full_float32_products():
            return gradients[0] @ weight if of_states else None, gradients[0].T @ states if of_weight else None


def _head(states: Tensor, weight: Tensor) -> Tensor:
    logits: Tensor = _Head.apply(states, weight)
    return logits
