"""Resampled scores are the score of the drawn queries; intervals and p-values mean what they say."""

import numpy as np
import pytest

from qwen3emb_train.evaluation import bootstrap
from qwen3emb_train.evaluation.bootstrap import (
    AveragePrecision,
    Mean,
    RankCorrelation,
    Statistic,
    bootstrap_p_value,
    percentile_interval,
    resample,
    sign_flip_p_value,
)


def _statistics(num_queries: int) -> dict[str, Statistic]:
    """Values on a coarse grid: many are equal."""
    randomness = np.random.default_rng(3)
    first, second = randomness.integers(0, 9, (2, num_queries)) / 3.0
    return {
        "mean": Mean(first),
        "spearman": RankCorrelation(first, first + second),
        "precision": AveragePrecision((randomness.random(num_queries) < 0.4).astype(float), second),
    }


def _plain(statistic: Statistic, drawn: np.ndarray) -> float:
    """Other libraries' score of the queries that were drawn."""
    from scipy.stats import spearmanr
    from sklearn.metrics import average_precision_score

    if isinstance(statistic, RankCorrelation):
        return float(spearmanr(statistic.first[drawn], statistic.second[drawn])[0])
    if isinstance(statistic, AveragePrecision):
        return float(average_precision_score(statistic.labels[drawn], statistic.scores[drawn]))
    return float(statistic.per_query[drawn].mean())


@pytest.mark.parametrize("name", ["mean", "spearman", "precision"])
def test_a_resampled_score_is_the_score_of_the_drawn_queries(name: str) -> None:
    statistic = _statistics(25)[name]
    randomness = np.random.default_rng(0)
    drawn = randomness.integers(25, size=(40, 25))
    assert statistic.resampled(drawn) == pytest.approx([_plain(statistic, rows) for rows in drawn], abs=1e-12)


@pytest.mark.parametrize("name", ["mean", "spearman", "precision"])
def test_the_mean_over_queries_is_the_score(name: str) -> None:
    statistic = _statistics(60)[name]
    assert statistic.per_query.mean() == pytest.approx(_plain(statistic, np.arange(60)), abs=1e-12)
    assert statistic.resampled(np.arange(60)[None]) == pytest.approx(statistic.per_query.mean(), abs=1e-12)


def test_equal_vectors_correlate_with_nothing() -> None:
    statistic = RankCorrelation(np.arange(5.0), np.ones(5))
    assert statistic.per_query.mean() == 0.0
    assert resample([statistic], 10, [0]).tolist() == [[0.0] * 10]


def test_resamples_are_as_large_as_the_set_and_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches of any size; the score of a constant is that constant."""
    statistics = list(_statistics(30).values())
    whole = resample(statistics, 50, [7])
    assert resample([Mean(np.full(30, 2.5))], 50, [7]) == pytest.approx(2.5)
    assert np.array_equal(whole, resample(statistics, 50, [7]))
    assert not np.array_equal(whole, resample(statistics, 50, [8]))
    assert resample(statistics[1:], 50, [7]) == pytest.approx(whole[1:])  # others beside it change nothing
    monkeypatch.setattr(bootstrap, "_BATCH_ELEMENTS", 100)
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
        p_value = sign_flip_p_value([differences], 2000, [1])
        assert expected[0] <= p_value <= expected[1]


def test_the_p_value_of_few_queries_is_the_exact_one() -> None:
    """Of four queries with one sign, 2 of 16 sign patterns are as far out: 1/8."""
    differences = np.array([0.1, 0.2, 0.3, 0.4])
    assert sign_flip_p_value([differences], 20_000, [0]) == pytest.approx(0.125, abs=0.01)
    assert sign_flip_p_value([-differences], 20_000, [0]) == pytest.approx(0.125, abs=0.01)
    assert sign_flip_p_value([np.zeros(4)], 100, [0]) == 1.0
    assert sign_flip_p_value([np.array([0.3])], 100, [0]) == 1.0


def test_the_p_value_of_several_sets_is_of_the_mean_over_sets() -> None:
    """Beside scipy's exact permutation test over all 2**10 sign patterns of two sets of unequal size."""
    from scipy.stats import permutation_test

    randomness = np.random.default_rng(4)
    sets = [randomness.normal(0.4, 1.0, 7), randomness.normal(0.4, 1.0, 3)]

    def mean_over_sets(values: np.ndarray) -> float:
        return float((values[:7].mean() + values[7:].mean()) / 2)

    exact = permutation_test((np.concatenate(sets),), mean_over_sets, permutation_type="samples", n_resamples=2**10)
    assert len(exact.null_distribution) == 2**10
    found = sign_flip_p_value(sets, 50_000, [0])
    assert 0.02 < exact.pvalue < 0.98
    assert found == pytest.approx(exact.pvalue, abs=0.01)
    assert found == sign_flip_p_value(sets, 50_000, [0])


def test_a_set_of_one_query_has_an_interval_without_width() -> None:
    assert resample([Mean(np.array([0.4]))], 3, [0]).tolist() == [[0.4] * 3]


def test_the_bootstraps_p_value_is_two_sided_and_never_zero() -> None:
    assert bootstrap_p_value(np.ones(999)) == pytest.approx(2 / 1000)
    assert bootstrap_p_value(-np.ones(999)) == pytest.approx(2 / 1000)
    assert bootstrap_p_value(np.array([-1.0] * 99 + [1.0] * 900)) == pytest.approx(0.2)
    assert bootstrap_p_value(np.zeros(10)) == 1.0
