"""Diagnostics of a reranker's answers: range of P(yes), separation of relevant documents from others, calibration.

``answer_health`` works on the scores a step has computed anyway. Everything it returns is a sum, so the sums of ranks
and of batches may be added (``vectors.sum_over_ranks``); ``answer_metrics`` turns them into metrics.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qwen3emb_train.losses import ragged
from qwen3emb_train.losses.reranker_logits import Targets
from qwen3emb_train.training.health.vectors import ScalarMetrics

NUM_PROBABILITY_BINS = 20
PROBABILITY_EDGES = [i / NUM_PROBABILITY_BINS for i in range(NUM_PROBABILITY_BINS + 1)]
NUM_CALIBRATION_BINS = 15
# Score bins are equally wide in asinh(score / 0.01) up to +-1000: fine around 0, where a tiny or young model's scores
# lie, and never wider than 0.6 % of the score. What lies beyond counts in the outermost.
NUM_SCORE_BINS = 4096
_FINEST, _LARGEST = 0.01, 1000.0


@dataclass(frozen=True)
class CalibrationBin:
    """The documents whose P(yes) lies in one bin: of a calibrated model, ``probability`` is ``relevant_share``.

    Attributes:
        lowest, highest: the bin.
        documents: how many there are.
        probability: their mean P(yes).
        relevant_share: how many of them are relevant.
    """

    lowest: float
    highest: float
    documents: int
    probability: float
    relevant_share: float


@torch.no_grad()
def answer_health(score: Float[Tensor, " documents"], targets: Targets) -> dict[str, Tensor]:
    """Sums over this rank's documents.

    Args:
        score: logit(yes) - logit(no) of all the rank's documents; queries must be whole.
        targets: of the same documents.

    Returns:
        Tensors whose sum over ranks and batches is meaningful, the same names and shapes on every rank.
    """
    score, labels = score.float(), targets.labels.float()
    probability = score.sigmoid()
    sums: dict[str, Tensor] = {}
    for name, weight in (("relevant", labels), ("other", 1 - labels)):
        sums |= {
            name: weight.sum(),
            f"{name}_probability": (weight * probability).sum(),
            f"{name}_scores": _counts(_score_bins(score), weight, NUM_SCORE_BINS),
            f"{name}_histogram": _counts(_bins(probability, NUM_PROBABILITY_BINS), weight, NUM_PROBABILITY_BINS),
        }
    bins = _bins(probability, NUM_CALIBRATION_BINS)
    sums |= {
        "bin_documents": _counts(bins, torch.ones_like(score), NUM_CALIBRATION_BINS),
        "bin_probability": _counts(bins, probability, NUM_CALIBRATION_BINS),
        "bin_relevant": _counts(bins, labels, NUM_CALIBRATION_BINS),
        "squared_error": (probability - labels).square().sum(),
        "yes": (score > 0).float().sum(),
    }
    return sums | _first_places(score, labels, targets)


def answer_metrics(sums: Mapping[str, Tensor]) -> ScalarMetrics:
    """Metrics from ``answer_health``'s sums; those without any document are left out.

    ``health/auc`` is the probability that a relevant document of any query scores above another of any query, ties
    counting half. Documents in one bin of scores count as ties, so it is off by at most ``health/auc_error``: half the
    share of (relevant, other) pairs that lie in one bin. ``health/auc_noise`` is its standard deviation, for these many
    documents, if the scores were random (Mann and Whitney 1947). ``health/calibration_error`` is the expected
    calibration error over ``NUM_CALIBRATION_BINS`` bins (Naeini et al. 2015), ``health/brier`` the mean of
    (P(yes) - label)^2. Histograms have ``NUM_PROBABILITY_BINS`` equal bins over [0, 1].
    """
    value = {name: tensor.double().cpu() for name, tensor in sums.items()}
    relevant, other = float(value["relevant"]), float(value["other"])
    documents = relevant + other
    if not documents:
        return {}
    gap = (value["bin_probability"] - value["bin_relevant"]).abs().sum()
    metrics: ScalarMetrics = {
        "health/documents": documents,
        "health/relevant_share": relevant / documents,
        "health/yes_share": float(value["yes"]) / documents,
        "health/calibration_error": float(gap) / documents,
        "health/brier": float(value["squared_error"]) / documents,
    }
    for name, count in (("relevant", relevant), ("other", other)):
        if count:
            metrics[f"health/{name}_probability"] = float(value[f"{name}_probability"]) / count
            metrics[f"health/{name}_histogram"] = value[f"{name}_histogram"].tolist()
    if relevant and other:
        in_bin, others_below = value["other_scores"], value["other_scores"].cumsum(0) - value["other_scores"]
        pairs = relevant * other
        metrics["health/auc"] = float((value["relevant_scores"] * (others_below + in_bin / 2)).sum()) / pairs
        metrics["health/auc_error"] = float((value["relevant_scores"] * in_bin).sum()) / 2 / pairs
        metrics["health/auc_noise"] = math.sqrt((documents + 1) / (12 * pairs))
    if value["mixed_queries"]:
        metrics["health/best_is_relevant"] = float(value["first_places"] / value["mixed_queries"])
    return metrics


def calibration_table(sums: Mapping[str, Tensor]) -> list[CalibrationBin]:
    """The bins of P(yes) that hold a document, lowest first."""
    rows = zip(*(sums[f"bin_{name}"].tolist() for name in ("documents", "probability", "relevant")), strict=True)
    width = 1 / NUM_CALIBRATION_BINS
    return [
        CalibrationBin(i * width, (i + 1) * width, round(documents), probability / documents, relevant / documents)
        for i, (documents, probability, relevant) in enumerate(rows)
        if documents
    ]


def _first_places(score: Tensor, labels: Tensor, targets: Targets) -> dict[str, Tensor]:
    """Queries with both classes, and those of them in which a relevant document scores above all others."""
    owner, num_queries = targets.groups()
    lowest = score.new_full((num_queries,), -torch.inf)
    best_relevant = ragged.segment_max(score[labels > 0], owner[labels > 0], lowest)
    best_other = ragged.segment_max(score[labels == 0], owner[labels == 0], lowest)
    is_mixed = (best_relevant > -torch.inf) & (best_other > -torch.inf)
    return {
        "mixed_queries": is_mixed.float().sum(),
        "first_places": (is_mixed & (best_relevant > best_other)).float().sum(),
    }


def _score_bins(score: Float[Tensor, " documents"]) -> Int[Tensor, " documents"]:
    return _bins(torch.asinh(score / _FINEST) / (2 * math.asinh(_LARGEST / _FINEST)) + 0.5, NUM_SCORE_BINS)


def _bins(share: Float[Tensor, " documents"], num_bins: int) -> Int[Tensor, " documents"]:
    """Equal bins over [0, 1]; what lies outside counts in the outermost."""
    return (share * num_bins).long().clamp(0, num_bins - 1)


def _counts(
    bins: Int[Tensor, " documents"], weight: Float[Tensor, " documents"], num_bins: int
) -> Float[Tensor, " bins"]:
    return weight.new_zeros(num_bins).index_add(0, bins, weight)
