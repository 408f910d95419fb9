"""Rows of the result table: scores, intervals, comparisons with a baseline, means over sets."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from qwen3emb_train.evaluation.bootstrap import (
    bootstrap_p_value,
    percentile_interval,
    resample,
    sign_flip_p_value,
)
from qwen3emb_train.evaluation.config import MEAN, TaskKind
from qwen3emb_train.evaluation.stored_vectors import StoredAs
from qwen3emb_train.evaluation.tasks.task import TaskScores


@dataclass(frozen=True)
class Comparison:
    """A row compared with the baseline's of the same dimension and storage, or else its longest float32 vectors.

    Attributes:
        baseline: name of the model.
        difference: of the main metrics; positive: better than the baseline.
        interval: of the difference, by paired resamples; None without resamples.
        p_value: two-sided, of no difference: by sign flips of the per-query differences, or by the paired resamples
            where the metric is no mean of independent values (Spearman, average precision). None without resamples.
    """

    baseline: str
    difference: float
    interval: tuple[float, float] | None
    p_value: float | None


@dataclass(frozen=True)
class ResultRow:
    """A row of the table.

    Attributes:
        model, set: names; set "mean": over all sets.
        dim: components of the vectors; None for the lexical baseline.
        scores: by metric name ("ndcg@10", "cosine_spearman"), 0 .. 1 (correlations from -1).
        num_queries: queries, pairs or texts that were scored.
        num_documents: of a retrieval set; None in other tasks.
        metric: the main one; "mean" in a row over sets of different ones.
        task: of the set; "mean" in a row over all.
        quantization: how documents were stored.
        interval: of the main metric; None without resamples.
        against: the comparison with the baseline; None without one.
        pairs_per_second: of the reranker, on this set; None without one. Documents that several first stages found are
            scored once, so rows of one reranker on one set share it.
    """

    model: str
    set: str
    dim: int | None
    scores: dict[str, float]
    num_queries: int
    num_documents: int | None
    metric: str
    task: str = TaskKind.retrieval.value
    quantization: str = StoredAs.float32.value
    interval: tuple[float, float] | None = None
    against: Comparison | None = None
    pairs_per_second: float | None = None

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "ResultRow":
        """A row of results.json."""
        against = row["against"]
        if against is not None:
            against = Comparison(**(against | {"interval": _pair(against["interval"])}))
        return cls(**{**row, "interval": _pair(row["interval"]), "against": against})


def _pair(bounds: Sequence[float] | None) -> tuple[float, float] | None:
    return None if bounds is None else (bounds[0], bounds[1])


@dataclass(frozen=True, eq=False)
class Measurement:
    """Scores of a system on a set. Attributes as in ``ResultRow``."""

    model: str
    set: str
    dim: int | None
    quantization: StoredAs
    task: TaskKind
    scores: TaskScores
    num_queries: int
    num_documents: int | None = None
    pairs_per_second: float | None = None

    @property
    def score(self) -> float:
        return self.scores.scores[self.scores.metric]

    @property
    def system(self) -> tuple[str, int | None, StoredAs]:
        return self.model, self.dim, self.quantization


@dataclass(frozen=True)
class Uncertainty:
    """Settings of intervals and p-values; attributes as in ``EvaluateConfig``."""

    baseline: str | None
    confidence: float
    num_samples: int
    seed: int


@dataclass(frozen=True, eq=False)
class _Sampled:
    """Scores of a system on one or more sets, together.

    Attributes:
        parts: the measurements.
        samples: the mean of their resampled scores; no entries without resamples.
    """

    parts: list[Measurement]
    samples: Float64[np.ndarray, " samples"]

    @property
    def score(self) -> float:
        return float(np.mean([part.score for part in self.parts]))


def make_rows(measurements: Sequence[Measurement], uncertainty: Uncertainty) -> list[ResultRow]:
    """A row for every measurement, and with several sets the mean of every system that has all of them.

    The mean is over main metrics with equal weights of the sets; queries are resampled within each set.
    """
    resampled = _samples(measurements, uncertainty)
    sampled = [_Sampled([one], samples) for one, samples in zip(measurements, resampled, strict=True)]
    rows = [_row(one, sampled, uncertainty) for one in sampled]
    sets = {one.set for one in measurements}
    if len(sets) > 1:
        means = []
        for system in dict.fromkeys(one.system for one in measurements):
            on_sets = [one for one in sampled if one.parts[0].system == system]
            if len(on_sets) == len(sets):
                samples: Float64[np.ndarray, " samples"] = np.mean([one.samples for one in on_sets], axis=0)
                means.append(_Sampled([part for one in on_sets for part in one.parts], samples))
        rows += [_row(one, means, uncertainty) for one in means]
    return rows


def _samples(measurements: Sequence[Measurement], uncertainty: Uncertainty) -> list[Float64[np.ndarray, " samples"]]:
    """Resampled scores of each measurement; those on one set share their resamples."""
    found: dict[int, Float64[np.ndarray, " samples"]] = {}
    for set_name in dict.fromkeys(one.set for one in measurements):
        places = [place for place, one in enumerate(measurements) if one.set == set_name]
        statistics = [measurements[place].scores.statistic for place in places]
        if uncertainty.num_samples:
            scores = resample(statistics, uncertainty.num_samples, _seed(uncertainty, set_name))
        else:
            scores = np.zeros((len(places), 0))
        found |= dict(zip(places, scores, strict=True))
    return [found[place] for place in range(len(measurements))]


def _seed(uncertainty: Uncertainty, set_name: str) -> list[int]:
    """Draws of a set do not depend on the other sets."""
    return [uncertainty.seed, zlib.crc32(set_name.encode())]


def _row(one: _Sampled, others: Sequence[_Sampled], uncertainty: Uncertainty) -> ResultRow:
    first = one.parts[0]
    interval = percentile_interval(one.samples, uncertainty.confidence) if len(one.samples) else None
    against = _compare(one, others, uncertainty)
    if len(one.parts) == 1:
        return ResultRow(
            first.model, first.set, first.dim, first.scores.scores, first.num_queries, first.num_documents,
            first.scores.metric, first.task.value, first.quantization.value, interval, against, first.pairs_per_second,
        )  # fmt: skip
    shared = [name for name in first.scores.scores if all(name in part.scores.scores for part in one.parts)]
    if len({part.scores.metric for part in one.parts}) == 1:
        metric = first.scores.metric
        scores = {name: float(np.mean([part.scores.scores[name] for part in one.parts])) for name in shared}
    else:
        metric, scores = MEAN, {MEAN: one.score}
    tasks = {part.task.value for part in one.parts}
    return ResultRow(
        first.model, MEAN, first.dim, scores, sum(part.num_queries for part in one.parts), None, metric,
        tasks.pop() if len(tasks) == 1 else MEAN, first.quantization.value, interval, against,
    )  # fmt: skip


def _compare(one: _Sampled, others: Sequence[_Sampled], uncertainty: Uncertainty) -> Comparison | None:
    first = one.parts[0]
    if uncertainty.baseline in (None, first.model):
        return None
    names = [part.set for part in one.parts]
    candidates = [
        other for other in others
        if other.parts[0].model == uncertainty.baseline and [part.set for part in other.parts] == names
    ]  # fmt: skip
    if not candidates:
        return None
    baseline = max(candidates, key=lambda other: _likeness(other.parts[0], first))
    difference = one.score - baseline.score
    if not uncertainty.num_samples:
        return Comparison(baseline.parts[0].model, difference, None, None)
    samples = one.samples - baseline.samples
    interval = percentile_interval(samples, uncertainty.confidence)
    pairs = list(zip(one.parts, baseline.parts, strict=True))
    if not all(part.scores.statistic.is_mean for pair in pairs for part in pair):
        return Comparison(baseline.parts[0].model, difference, interval, bootstrap_p_value(samples))
    differences = [mine.scores.statistic.per_query - its.scores.statistic.per_query for mine, its in pairs]
    seed = [*_seed(uncertainty, names[0] if len(names) == 1 else MEAN), 1]
    p_value = sign_flip_p_value(differences, uncertainty.num_samples, seed)
    return Comparison(baseline.parts[0].model, difference, interval, p_value)


def _likeness(candidate: Measurement, to: Measurement) -> tuple[bool, bool, int]:
    same = candidate.dim == to.dim and candidate.quantization is to.quantization
    return same, candidate.quantization is StoredAs.float32, candidate.dim or 0
