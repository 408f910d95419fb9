"""Plain-language verdicts on a step's figures: what a person would notice in the curves, said once when it begins."""

import math
from collections.abc import Mapping


class NonFiniteError(RuntimeError):
    """A loss or gradient that is NaN or infinite: no update was applied."""


def refuse_non_finite(step: int, source: str, loss: float, gradient_norm: float) -> None:
    """Raises before the optimizer sees the gradients.

    Raises:
        NonFiniteError: naming the step and the data source.
    """
    if math.isfinite(loss) and math.isfinite(gradient_norm):
        return
    raise NonFiniteError(
        f"step {step}, source {source or '-'}: loss {loss}, gradient norm {gradient_norm}. No update was applied and "
        "the last checkpoint is intact. Lower optimizer.lr, try precision=fp32, or look at this source's texts."
    )


def verdicts(metrics: Mapping[str, float]) -> list[str]:
    """Remarks on one step's metrics; empty when nothing is wrong."""
    remarks = []
    positive, hardest = metrics.get("positive_cosine", math.nan), metrics.get("hardest_negative_cosine", math.nan)
    if positive > 0.995 and hardest > 0.995:
        remarks.append("collapse: positives and negatives all have cosine > 0.995; lower the learning rate")
    if metrics.get("masked_share", 0.0) > 0.5:
        remarks.append(
            "more than half of the negatives are masked as false: many duplicate texts, or too small a "
            "false_negative_margin"
        )
    if metrics.get("effective_negatives", math.inf) < 1:
        remarks.append(
            "less than one negative a query is left: the loss has nothing to push away; use a larger batch_size"
        )
    return remarks
