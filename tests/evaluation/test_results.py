"""Rows: intervals, comparisons with the right row of the baseline, means over the sets that all have."""

from typing import Any

import numpy as np
import pytest

from qwen3emb_train.evaluation.bootstrap import Mean, RankCorrelation, Statistic
from qwen3emb_train.evaluation.config import TaskKind
from qwen3emb_train.evaluation.results import Measurement, ResultRow, Uncertainty, make_rows
from qwen3emb_train.evaluation.stored_vectors import StoredAs
from qwen3emb_train.evaluation.table import format_table
from qwen3emb_train.evaluation.tasks.task import TaskScores

QUERIES = 50


def _values(seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).random(QUERIES) * 0.5 + shift


def _measured(
    model: str, set_name: str, statistic: Statistic, *, dim: int | None = 32, form: StoredAs = StoredAs.float32,
    metric: str = "ndcg@10", task: TaskKind = TaskKind.retrieval,
) -> Measurement:  # fmt: skip
    scores = TaskScores(
        {metric: float(statistic.per_query.mean())}, metric, [str(i) for i in range(QUERIES)], statistic
    )
    return Measurement(model, set_name, dim, form, task, scores, QUERIES)


def _rows(measurements: list[Measurement], **settings: Any) -> dict[tuple[str, str, int | None, str], ResultRow]:
    uncertainty = Uncertainty(**({"baseline": "old", "confidence": 0.95, "num_samples": 500, "seed": 0} | settings))
    return {(row.model, row.set, row.dim, row.quantization): row for row in make_rows(measurements, uncertainty)}


def test_a_row_is_compared_with_the_baselines_of_its_own_kind_or_its_longest() -> None:
    base = {(dim, form): Mean(_values(dim + len(form))) for dim in (8, 32) for form in StoredAs}
    measurements = [_measured("old", "s", statistic, dim=dim, form=form) for (dim, form), statistic in base.items()]
    better = Mean(_values(99, 0.3))
    measurements += [_measured("new", "s", better, dim=8, form=StoredAs.int8), _measured("new", "s", better, dim=64)]
    rows = _rows(measurements)
    for (dim, quantization), expected in (((8, "int8"), (8, StoredAs.int8)), ((64, "float32"), (32, StoredAs.float32))):
        against = rows["new", "s", dim, quantization].against
        assert against is not None
        assert against.difference == pytest.approx(better.per_query.mean() - base[expected].per_query.mean())
        assert against.interval is not None
        assert against.interval[0] < against.difference < against.interval[1]
        assert against.p_value == pytest.approx(1 / 501)  # far apart: no flip comes near
    assert all(row.against is None for row in rows.values() if row.model == "old")


def test_a_difference_is_paired() -> None:
    """Every query gains the same: the scores' intervals are wide, the difference's has no width."""
    values = _values(0)
    rows = _rows([_measured("old", "s", Mean(values)), _measured("new", "s", Mean(values + 0.01))])
    row = rows["new", "s", 32, "float32"]
    assert row.interval is not None
    assert row.interval[1] - row.interval[0] > 0.05
    assert row.against is not None
    assert row.against.interval == pytest.approx((0.01, 0.01))
    assert row.against.p_value == pytest.approx(1 / 501)


def test_the_mean_over_sets_weighs_each_alike_and_is_only_of_systems_that_have_all() -> None:
    parts = {("old", "a"): 0, ("old", "b"): 1, ("new", "a"): 2, ("new", "b"): 3, ("some", "a"): 4}
    measurements = [_measured(model, name, Mean(_values(seed))) for (model, name), seed in parts.items()]
    rows = _rows(measurements)
    assert [key for key in rows if key[1] == "mean"] == [(m, "mean", 32, "float32") for m in ("old", "new")]
    row = rows["new", "mean", 32, "float32"]
    score = (_values(2).mean() + _values(3).mean()) / 2
    assert row.scores == {"ndcg@10": pytest.approx(score)}
    assert (row.metric, row.task, row.num_queries, row.num_documents) == ("ndcg@10", "retrieval", 2 * QUERIES, None)
    on_sets = [rows["new", name, 32, "float32"].interval for name in "ab"]
    widths = [interval[1] - interval[0] for interval in [*on_sets, row.interval] if interval]
    # Draws of different sets are independent, so the mean's width is that of a sum of independent errors.
    assert widths[2] == pytest.approx(np.hypot(widths[0], widths[1]) / 2, rel=0.15)
    assert row.against is not None
    assert row.against.difference == pytest.approx(score - (_values(0).mean() + _values(1).mean()) / 2)
    assert row.against.p_value is not None
    assert row.against.p_value > 0.02


def test_a_mean_over_different_metrics_says_so_and_is_tested_by_resamples() -> None:
    gold = _values(7)
    sts = {"metric": "cosine_spearman", "task": TaskKind.sts}
    measurements = []
    for model, noise in (("old", 3.0), ("new", 0.1)):
        near = gold + noise * _values(8)
        measurements += [
            _measured(model, "r", Mean(_values(len(model)))),
            _measured(model, "s", RankCorrelation(gold, near), **sts),
        ]
    rows = _rows(measurements)
    row = rows["new", "mean", 32, "float32"]
    assert (row.metric, row.task, list(row.scores)) == ("mean", "mean", ["mean"])
    for set_name in ("s", "mean"):
        against = rows["new", set_name, 32, "float32"].against
        assert against is not None
        assert against.p_value == pytest.approx(2 / 501)
    lines = format_table(list(rows.values())).splitlines()
    assert lines[0].split() == ["model", "set", "dim", "scored", "metric", "score", "interval", "vs", "old", "(p)"]
    assert lines[4].startswith("new    s      32      50  cosine_spearman  0.9")
    assert lines[4].endswith("(0.004)")
    assert lines[1].endswith("-")


def test_other_sets_do_not_change_a_sets_interval() -> None:
    alone = _rows([_measured("old", "a", Mean(_values(0)))])
    beside = _rows([_measured("old", "b", Mean(_values(1))), _measured("old", "a", Mean(_values(0)))])
    assert alone["old", "a", 32, "float32"] == beside["old", "a", 32, "float32"]


def test_without_resamples_there_are_differences_only() -> None:
    rows = _rows([_measured("old", "s", Mean(_values(0))), _measured("new", "s", Mean(_values(1)))], num_samples=0)
    row = rows["new", "s", 32, "float32"]
    assert row.interval is None
    assert row.against is not None
    assert (row.against.interval, row.against.p_value) == (None, None)
    heading, _, line = format_table(list(rows.values()), markdown=True).splitlines()[0::1][0:3]
    assert "vs old |" in heading
    assert "interval" not in heading
    assert line.count("|") == heading.count("|")
