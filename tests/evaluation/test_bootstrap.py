"""Resampled scores are the score of the resampled units; intervals and p-values mean what they say."""

import numpy as np
import pytest

from qwen3emb_train.evaluation import bootstrap
from qwen3emb_train.evaluation.bootstrap import (
    AveragePrecision,
    Mean,
    RankCorrelation,
    Statistic,
    bootstrap_p_value,
    flip_signs,
    percentile_interval,
    randomization_p_value,
    resample,
)


def _statistics(num_units: int) -> dict[str, Statistic]:
    """Values on a coarse grid: many are equal."""
    randomness = np.random.default_rng(3)
    first, second = randomness.integers(0, 9, (2, num_units)) / 3.0
    return {
        "mean": Mean(first),
        "spearman": RankCorrelation(first, first + second),
        "precision": AveragePrecision((randomness.random(num_units) < 0.4).astype(float), second),
    }


def _plain(statistic: Statistic, units: np.ndarray) -> float:
    """Other libraries' figure for the units that were drawn."""
    from scipy.stats import spearmanr
    from sklearn.metrics import average_precision_score

    if isinstance(statistic, RankCorrelation):
        return float(spearmanr(statistic.first[units], statistic.second[units])[0])
    if isinstance(statistic, AveragePrecision):
        return float(average_precision_score(statistic.labels[units], statistic.scores[units]))
    return float(statistic.values[units].mean())


@pytest.mark.parametrize("name", ["mean", "spearman", "precision"])
def test_a_resampled_score_is_the_score_of_the_drawn_units(name: str) -> None:
    statistic = _statistics(25)[name]
    randomness = np.random.default_rng(0)
    drawn = randomness.integers(25, size=(40, 25))
    counts = np.stack([np.bincount(units, minlength=25) for units in drawn]).astype(float)
    assert statistic.resampled(counts) == pytest.approx([_plain(statistic, units) for units in drawn], abs=1e-12)


@pytest.mark.parametrize("name", ["mean", "spearman", "precision"])
def test_the_mean_of_the_units_values_is_the_score(name: str) -> None:
    statistic = _statistics(60)[name]
    assert statistic.values.mean() == pytest.approx(_plain(statistic, np.arange(60)), abs=1e-12)
    assert statistic.resampled(np.ones((1, 60))) == pytest.approx(statistic.values.mean(), abs=1e-12)


def test_equal_vectors_correlate_with_nothing() -> None:
    statistic = RankCorrelation(np.arange(5.0), np.ones(5))
    assert statistic.values.mean() == 0.0
    assert resample([statistic], 10, [0]).tolist() == [[0.0] * 10]


def test_resamples_are_as_large_as_the_units_and_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn piece by piece, whatever a piece is: the score of a constant is that constant."""
    statistics = list(_statistics(30).values())
    whole = resample(statistics, 50, [7])
    assert resample([Mean(np.full(30, 2.5))], 50, [7]) == pytest.approx(2.5)
    assert np.array_equal(whole, resample(statistics, 50, [7]))
    assert not np.array_equal(whole, resample(statistics, 50, [8]))
    assert resample(statistics[1:], 50, [7]) == pytest.approx(whole[1:])  # others beside it change nothing
    monkeypatch.setattr(bootstrap, "_ELEMENTS_AT_ONCE", 100)
    assert resample(statistics, 50, [7]) == pytest.approx(whole, abs=1e-12)


def test_the_interval_of_a_mean_is_near_the_textbooks_and_covers_the_truth() -> None:
    randomness = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        values = randomness.normal(0.3, 1.0, 200)
        low, high = percentile_interval(resample([Mean(values)], 1000, [trial])[0], 0.95)
        assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(200), rel=0.12)
        covered += low <= 0.3 <= high
    assert 88 <= covered <= 100


def test_sign_flips_find_a_difference_and_none_where_there_is_none() -> None:
    randomness = np.random.default_rng(0)
    noise = randomness.normal(0.0, 1.0, 300)
    for shift, expected in ((0.0, (0.05, 1.0)), (0.5, (0.0, 0.001))):
        differences = noise - noise.mean() + shift + (0.02 if shift == 0.0 else 0.0)
        p_value = randomization_p_value(float(differences.mean()), flip_signs(differences, 2000, [1]))
        assert expected[0] <= p_value <= expected[1]


def test_the_p_value_of_few_units_is_the_exact_one() -> None:
    """Of four units with one sign, 2 of 16 sign patterns are as far out: 1/8."""
    differences = np.array([0.1, 0.2, 0.3, 0.4])
    assert randomization_p_value(0.25, flip_signs(differences, 20_000, [0])) == pytest.approx(0.125, abs=0.01)
    assert randomization_p_value(-0.25, flip_signs(-differences, 20_000, [0])) == pytest.approx(0.125, abs=0.01)
    assert randomization_p_value(0.0, flip_signs(np.zeros(4), 100, [0])) == 1.0


def test_the_bootstraps_p_value_is_two_sided_and_never_zero() -> None:
    assert bootstrap_p_value(np.ones(999)) == pytest.approx(2 / 1000)
    assert bootstrap_p_value(-np.ones(999)) == pytest.approx(2 / 1000)
    assert bootstrap_p_value(np.array([-1.0] * 99 + [1.0] * 900)) == pytest.approx(0.2)
    assert bootstrap_p_value(np.zeros(10)) == 1.0
