"""The search finds a planted optimum, never ends below a single model, and asks for every point once."""

import math
import random

import pytest

from qwen3emb_train.merging.search import SearchStrategy, TriedPoint, search_weights


def _best(points: list[TriedPoint]) -> TriedPoint:
    return max(points, key=lambda point: point.mean)


def _hill(peak: tuple[float, ...]):  # type: ignore[no-untyped-def]
    def scores(weights: tuple[float, ...]) -> dict[str, float]:
        distance = math.dist(weights, peak)
        return {"a": 0.8 - distance**2, "b": 0.6 - 0.5 * distance**2}

    return scores


@pytest.mark.parametrize("t", [0.0, 0.07, 0.37, 0.5, 0.81, 1.0])
@pytest.mark.parametrize("strategy", [SearchStrategy.golden, SearchStrategy.coordinate])
def test_a_planted_t_is_found(t: float, strategy: SearchStrategy) -> None:
    points = search_weights(2, _hill((1 - t, t)), strategy, max_evaluations=60)
    assert _best(points).weights[1] == pytest.approx(t, abs=0.02)


@pytest.mark.parametrize("peak", [(0.2, 0.5, 0.3), (0.7, 0.0, 0.3), (0.0, 1.0, 0.0), (0.1, 0.2, 0.3, 0.4)])
def test_planted_shares_of_many_are_found(peak: tuple[float, ...]) -> None:
    points = search_weights(len(peak), _hill(peak), SearchStrategy.coordinate, max_evaluations=200, tolerance=0.01)
    assert math.dist(_best(points).weights, peak) < 0.05


def test_a_score_with_two_hills_is_not_searched_on_the_wrong_one() -> None:
    def scores(weights: tuple[float, ...]) -> dict[str, float]:
        t = weights[1]
        return {"a": max(0.5 - abs(t - 0.5), 0.9 - 3 * abs(t - 0.95))}

    points = search_weights(2, scores, SearchStrategy.golden, max_evaluations=40)
    assert _best(points).weights[1] == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize(
    ("num_models", "strategy"),
    [(2, SearchStrategy.golden), *((n, s) for n in (2, 3, 5) for s in list(SearchStrategy)[1:])],
)
@pytest.mark.parametrize("seed", range(5))
def test_the_best_is_never_below_a_single_model(num_models: int, strategy: SearchStrategy, seed: int) -> None:
    """By construction, whatever the scores are: here noise."""
    generator = random.Random(seed)
    asked = []

    def scores(weights: tuple[float, ...]) -> dict[str, float]:
        asked.append(weights)
        return {"a": generator.random(), "b": generator.random()}

    points = search_weights(num_models, scores, strategy, max_evaluations=12)
    singles = [tuple(float(i == j) for i in range(num_models)) for j in range(num_models)]
    assert [point.weights for point in points[:num_models]] == singles
    assert _best(points).mean >= max(point.mean for point in points[:num_models])
    assert len(asked) == len(set(asked)) == len(points) <= 12
    assert all(math.fsum(weights) == pytest.approx(1.0, abs=1e-5) and min(weights) >= 0.0 for weights in asked)


def test_equal_scores_choose_the_single_model() -> None:
    points = search_weights(3, lambda weights: {"a": 0.5}, SearchStrategy.coordinate)
    assert _best(points).weights == (1.0, 0.0, 0.0)


def test_the_same_scores_give_the_same_points() -> None:
    searches = [search_weights(3, _hill((0.2, 0.5, 0.3)), SearchStrategy.coordinate) for _ in range(2)]
    assert searches[0] == searches[1]


def test_what_is_proposed_is_tried() -> None:
    points = search_weights(2, _hill((0.3, 0.7)), SearchStrategy.self_positioning, proposed=[(0.3, 0.7)])
    assert [point.weights for point in points] == [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (0.3, 0.7)]


@pytest.mark.parametrize(
    ("num_models", "settings", "message"),
    [(3, {"strategy": SearchStrategy.golden}, "is for two models"), (3, {"max_evaluations": 3}, "need 4 already")],
)
def test_what_cannot_work_is_refused(num_models: int, settings: dict[str, object], message: str) -> None:
    given = {"strategy": SearchStrategy.coordinate} | settings
    with pytest.raises(ValueError, match=message):
        search_weights(num_models, _hill((1.0, 0.0, 0.0)), **given)  # type: ignore[arg-type]
