"""How sure a score is: bootstrap intervals and paired tests over queries, pairs or texts.

A bootstrap resample draws as many units as there are, with replacement; what matters of it is how often it holds each
unit. So a resample is a row of *counts*, and every statistic here is computed from counts for many resamples at once:
a mean is a product with them, ranks are cumulative sums of them over units that were sorted once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64

_ELEMENTS_AT_ONCE = 2**21  # counts in memory
_EQUAL = 1e-12  # two sums of the same terms in another order


@runtime_checkable
class Statistic(Protocol):
    """A score over units.

    Attributes:
        values: of the units; their mean is the score.
        is_mean: whether a unit's value is its own, whatever the other units are. Ranks are not.
    """

    @property
    def is_mean(self) -> bool: ...

    @property
    def values(self) -> Float64[np.ndarray, " units"]: ...

    def resampled(self, counts: Float64[np.ndarray, "samples units"]) -> Float64[np.ndarray, " samples"]:
        """The score of each resample; ``counts`` says how often it holds each unit."""
        ...


@dataclass(frozen=True, eq=False)
class Mean:
    """The mean of values that units have by themselves."""

    values: Float64[np.ndarray, " units"]
    is_mean: bool = True

    def resampled(self, counts: Float64[np.ndarray, "samples units"]) -> Float64[np.ndarray, " samples"]:
        return counts @ self.values / len(self.values)


@dataclass(frozen=True, eq=False)
class RankCorrelation:
    """Spearman's coefficient: the correlation of ranks, equal values sharing their mean rank.

    A unit's value is the product of its two standardised ranks.
    """

    first: Float64[np.ndarray, " units"]
    second: Float64[np.ndarray, " units"]
    is_mean: bool = False

    @cached_property
    def values(self) -> Float64[np.ndarray, " units"]:
        counts = np.ones((1, len(self.first)))
        first, second = (_standardised(_ranks(values, counts), counts)[0] for values in (self.first, self.second))
        return first * second

    def resampled(self, counts: Float64[np.ndarray, "samples units"]) -> Float64[np.ndarray, " samples"]:
        first, second = (_standardised(_ranks(values, counts), counts) for values in (self.first, self.second))
        return (counts * first * second).sum(axis=1) / counts.sum(axis=1)


@dataclass(frozen=True, eq=False)
class AveragePrecision:
    """Precision at each positive unit's score, averaged over positive units; equal scores are one step.

    A unit's value is that precision over the share of positive units, and 0 for a negative one.
    """

    labels: Float64[np.ndarray, " units"]
    scores: Float64[np.ndarray, " units"]
    is_mean: bool = False

    @cached_property
    def values(self) -> Float64[np.ndarray, " units"]:
        counts = np.ones((1, len(self.labels)))
        found, precision, of_unit = self._steps(counts)
        return self.labels * precision[0, of_unit] / found[0].sum() * len(self.labels)

    def resampled(self, counts: Float64[np.ndarray, "samples units"]) -> Float64[np.ndarray, " samples"]:
        found, precision, _ = self._steps(counts)
        return (found * precision).sum(axis=1) / np.maximum(found.sum(axis=1), 1.0)

    def _steps(
        self, counts: Float64[np.ndarray, "samples units"]
    ) -> tuple[Float64[np.ndarray, "samples steps"], Float64[np.ndarray, "samples steps"], Int64[np.ndarray, " units"]]:
        """Positives found at each score from the highest down, the precision there, and each unit's step."""
        order, starts, of_unit = _groups(-self.scores)
        seen = np.add.reduceat(counts[:, order], starts, axis=1).cumsum(axis=1)
        found = np.add.reduceat((counts * self.labels)[:, order], starts, axis=1)
        return found, found.cumsum(axis=1) / np.maximum(seen, 1.0), of_unit


def _groups(
    values: Float64[np.ndarray, " units"],
) -> tuple[Int64[np.ndarray, " units"], Int64[np.ndarray, " groups"], Int64[np.ndarray, " units"]]:
    """Ascending order of the units, where each group of equal values starts in it, and each unit's group."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=-np.inf))
    of_unit = np.empty(len(values), dtype=np.int64)
    of_unit[order] = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(values)))
    return order, starts, of_unit


def _ranks(
    values: Float64[np.ndarray, " units"], counts: Float64[np.ndarray, "samples units"]
) -> Float64[np.ndarray, "samples units"]:
    """Each unit's rank in each resample, from 1; equal values share the mean of their ranks."""
    order, starts, of_unit = _groups(values)
    sizes = np.add.reduceat(counts[:, order], starts, axis=1)
    return (sizes.cumsum(axis=1) - sizes + (sizes + 1.0) / 2.0)[:, of_unit]


def _standardised(
    values: Float64[np.ndarray, "samples units"], counts: Float64[np.ndarray, "samples units"]
) -> Float64[np.ndarray, "samples units"]:
    total = counts.sum(axis=1, keepdims=True)
    centred = values - (counts * values).sum(axis=1, keepdims=True) / total
    deviation = np.sqrt((counts * centred**2).sum(axis=1, keepdims=True) / total)
    # All values equal: no correlation is defined, and 0 is what such vectors are worth.
    return np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)


def resample(
    statistics: Sequence[Statistic], num_samples: int, seed: Sequence[int]
) -> Float64[np.ndarray, "statistics samples"]:
    """Every statistic's score on the same resamples, so that the differences of two rows are paired.

    Args:
        statistics: over the same units.
        seed: of the draws.
    """
    num_units = len(statistics[0].values)
    scores = [
        np.stack([statistic.resampled(counts) for statistic in statistics])
        for counts in _draws(num_units, num_samples, seed)
    ]
    return np.concatenate(scores, axis=1)


def _draws(num_units: int, num_samples: int, seed: Sequence[int]) -> Iterator[Float64[np.ndarray, "samples units"]]:
    randomness = np.random.default_rng(list(seed))
    step = max(1, _ELEMENTS_AT_ONCE // num_units)
    for first in range(0, num_samples, step):
        num_rows = min(step, num_samples - first)
        drawn = randomness.integers(num_units, size=(num_rows, num_units))
        places = drawn + num_units * np.arange(num_rows)[:, None]
        counts = np.bincount(places.ravel(), minlength=num_rows * num_units)
        yield counts.reshape(num_rows, num_units).astype(np.float64)


def flip_signs(
    differences: Float64[np.ndarray, " units"], num_samples: int, seed: Sequence[int]
) -> Float64[np.ndarray, " samples"]:
    """Mean differences as chance gives them where both systems are alike: every unit's sign is drawn."""
    randomness = np.random.default_rng(list(seed))
    step = max(1, _ELEMENTS_AT_ONCE // len(differences))
    means = []
    for first in range(0, num_samples, step):
        positive = randomness.integers(2, size=(min(step, num_samples - first), len(differences)), dtype=np.int8)
        means.append((2.0 * positive - 1.0) @ differences / len(differences))
    return np.concatenate(means)


def percentile_interval(scores: Float64[np.ndarray, " samples"], confidence: float) -> tuple[float, float]:
    """The middle ``confidence`` of the resampled scores."""
    low, high = np.quantile(scores, [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0])
    return float(low), float(high)


def randomization_p_value(difference: float, by_chance: Float64[np.ndarray, " samples"]) -> float:
    """Two-sided: how often chance gives a difference at least as large. The observed one counts as one more draw."""
    as_large = int((np.abs(by_chance) >= abs(difference) - _EQUAL).sum())
    return (1 + as_large) / (1 + len(by_chance))


def bootstrap_p_value(differences: Float64[np.ndarray, " samples"]) -> float:
    """Two-sided, from paired resamples: twice the smaller share of them on either side of zero, at most 1."""
    above, below = int((differences >= -_EQUAL).sum()), int((differences <= _EQUAL).sum())
    return min(1.0, 2.0 * (1 + min(above, below)) / (1 + len(differences)))
