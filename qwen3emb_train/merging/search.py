"""Searches merge weights by a score on held-out data.

The search calls a function for the scores of one point at a time. It tries every single model first, so the chosen
point is never below the best of them on the same data. Its quality must be measured on other data: the best of many
noisy scores is biased upwards.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

MergeWeights = tuple[float, ...]
Evaluate = Callable[[MergeWeights], Mapping[str, float]]
"""The models' weights, with the sum 1 -> a score by name of the set, higher is better."""


class SearchStrategy(str, Enum):
    """``golden``: two models. ``coordinate``: any number. ``self_positioning``: by gradient on a probe set."""

    golden = "golden"
    coordinate = "coordinate"
    self_positioning = "self_positioning"


@dataclass(frozen=True)
class TriedPoint:
    """Merge weights and their scores.

    Attributes:
        weights: one for each model, with the sum 1.
        scores: by set; the search maximises their mean.
    """

    weights: MergeWeights
    scores: dict[str, float]

    @property
    def mean(self) -> float:
        return math.fsum(self.scores.values()) / len(self.scores)


@dataclass
class Trials:
    """Points tried so far; each is scored once, and at most ``limit`` points are.

    Attributes:
        evaluate: returns the scores of a point.
        limit: the largest number of points.
        points: in the order in which they were tried.
    """

    evaluate: Evaluate
    limit: int
    points: list[TriedPoint] = field(default_factory=list)

    @property
    def is_exhausted(self) -> bool:
        return len(self.points) >= self.limit

    @property
    def best(self) -> TriedPoint:
        """The point with the highest mean score; of equals the first, so a single model is preferred to a merge."""
        return max(self.points, key=lambda point: point.mean)

    def score(self, weights: Sequence[float]) -> float:
        """The mean score of a point; minus infinity for a new one when the limit is reached."""
        total = math.fsum(weights)
        rounded = tuple(round(weight / total, 6) for weight in weights)
        known = next((point for point in self.points if point.weights == rounded), None)
        if known is None:
            if self.is_exhausted:
                return -math.inf
            known = TriedPoint(rounded, dict(self.evaluate(rounded)))
            self.points.append(known)
        return known.mean


def search_weights(
    num_models: int,
    evaluate: Evaluate,
    strategy: SearchStrategy,
    *,
    max_evaluations: int = 30,
    tolerance: float = 0.02,
    proposed: Sequence[MergeWeights] = (),
) -> list[TriedPoint]:
    """Tries the single models, equal weights, the ``proposed`` points, and then those of the strategy.

    Args:
        num_models: two or more.
        evaluate: called once for each point.
        strategy: golden section or coordinate search; self_positioning adds nothing to the proposed points.
        max_evaluations: largest number of points, single models included.
        tolerance: the search ends when it moves weights by less than this.
        proposed: further points (from ``self_positioning.py``).

    Returns:
        The points in the order in which they were tried.

    Raises:
        ValueError: max_evaluations is too low for the single models and equal weights; golden with other than two.
    """
    if max_evaluations < num_models + 1 + len(proposed):
        raise ValueError(
            f"max_evaluations is {max_evaluations}; the {num_models} single models, equal weights and what is proposed "
            f"need {num_models + 1 + len(proposed)} already."
        )
    if strategy is SearchStrategy.golden and num_models != 2:
        raise ValueError(f"strategy=golden is for two models, and there are {num_models}: use strategy=coordinate.")
    trials = Trials(evaluate, max_evaluations)
    singles = [tuple(float(i == chosen) for i in range(num_models)) for chosen in range(num_models)]
    for weights in [*singles, (1.0,) * num_models, *proposed]:
        trials.score(weights)
    match strategy:
        case SearchStrategy.golden:
            _golden_section(trials, tolerance)
        case SearchStrategy.coordinate:
            _coordinate_search(trials, tolerance)
    return trials.points


def _golden_section(trials: Trials, tolerance: float) -> None:
    """Tries quarters first, because a score over t may have several maxima; then the golden section around the best.

    Kiefer, *Sequential minimax search for a maximum*, 1953.
    """

    def score(t: float) -> float:
        return trials.score((1.0 - t, t))

    best = max((0.0, 0.25, 0.5, 0.75, 1.0), key=score)
    low, high = max(0.0, best - 0.25), min(1.0, best + 0.25)
    ratio = (math.sqrt(5.0) - 1.0) / 2.0
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    while high - low > tolerance and not trials.is_exhausted:
        if score(left) >= score(right):
            high, right = right, left
            left = high - ratio * (high - low)
        else:
            low, left = left, right
            right = low + ratio * (high - low)


def _coordinate_search(trials: Trials, tolerance: float) -> None:
    """Raises or lowers one weight of the best point, the others in proportion; halves the step without improvement."""
    current, step = trials.best.weights, 0.25
    while step >= tolerance and not trials.is_exhausted:
        start = current
        for model in range(len(current)):
            for change in (step, -step):
                moved = _with_weight(current, model, current[model] + change)
                if moved is not None and trials.score(moved) > trials.score(current):
                    current = trials.best.weights
                    break
        if current == start:
            step /= 2.0


def _with_weight(weights: MergeWeights, model: int, weight: float) -> MergeWeights | None:
    """The point where ``model`` has this weight and the others share the rest in proportion; None if nothing moves."""
    weight = min(1.0, max(0.0, weight))
    others = 1.0 - weights[model]
    if others == 0.0:  # the others have no proportion: they share evenly
        return tuple(weight if i == model else (1.0 - weight) / (len(weights) - 1) for i in range(len(weights)))
    moved = tuple(weight if i == model else old * (1.0 - weight) / others for i, old in enumerate(weights))
    return None if moved == weights else moved
