"""The batch plan: a pure function of (seed, data, step), the same at any number of ranks."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3emb_train.data.mixture import BatchPlan, SourceConfig


def make_plan(
    num_rows: list[int], *, batch_size: int = 4, steps: int = 50, seed: int = 3, alpha: float = 0.5
) -> BatchPlan:
    names = [f"s{i}" for i in range(len(num_rows))]
    return BatchPlan(
        names,
        num_rows,
        ["digest"] * len(names),
        [1.0] * len(names),
        batch_size=batch_size,
        steps=steps,
        seed=seed,
        alpha=alpha,
    )


@settings(max_examples=40)
@given(st.lists(st.integers(4, 30), min_size=1, max_size=3), st.integers(0, 5))
def test_no_row_repeats_within_an_epoch_or_a_batch(num_rows: list[int], seed: int) -> None:
    plan = make_plan(num_rows, seed=seed)
    walked: dict[int, list[int]] = {source: [] for source in range(len(num_rows))}
    for step in range(plan.steps):
        planned = plan.step(step)
        assert len(set(planned.rows.tolist())) == plan.batch_size
        walked[planned.source] += planned.rows.tolist()
    for source, rows in walked.items():
        per_epoch = num_rows[source] // plan.batch_size * plan.batch_size
        for start in range(0, len(rows), per_epoch):
            assert max(Counter(rows[start : start + per_epoch]).values()) == 1


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_global_order_does_not_depend_on_the_number_of_ranks(world_size: int) -> None:
    plan = make_plan([20, 13], batch_size=8)
    for step in range(plan.steps):
        slices = [plan.local(step, rank, world_size) for rank in range(world_size)]
        assert {part.source for part in slices} == {plan.step(step).source}
        np.testing.assert_array_equal(np.concatenate([part.rows for part in slices]), plan.step(step).rows)


def test_a_later_step_needs_no_earlier_one_and_a_longer_run_begins_alike() -> None:
    short, long = make_plan([20, 13], steps=30), make_plan([20, 13], steps=90)
    for step in (29, 3, 17):
        assert short.step(step).source == long.step(step).source
        np.testing.assert_array_equal(short.step(step).rows, long.step(step).rows)
    assert short.fingerprint == long.fingerprint


def test_seed_batch_size_and_contents_change_the_fingerprint() -> None:
    prints = {
        make_plan([20]).fingerprint,
        make_plan([20], seed=4).fingerprint,
        make_plan([20], batch_size=5).fingerprint,
    }
    assert len(prints) == 3
    one = BatchPlan(["s"], [20], ["a"], [1.0], batch_size=4, steps=5, seed=0)
    other = BatchPlan(["s"], [20], ["b"], [1.0], batch_size=4, steps=5, seed=0)
    assert one.fingerprint != other.fingerprint


def test_shares_follow_rows_to_the_power_alpha() -> None:
    plan = make_plan([100, 400], steps=20_000, alpha=0.5)
    counts = Counter(plan.step(step).source for step in range(0, 20_000, 5))
    assert counts[1] / counts[0] == pytest.approx(2.0, rel=0.15)
    np.testing.assert_allclose(make_plan([100, 400], alpha=1.0).probabilities, [0.2, 0.8])


def test_a_source_smaller_than_a_batch_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"data.s0 has 3 rows, fewer than batch_size=4. Lower batch_size"):
        make_plan([3])


def test_ranks_must_divide_the_batch() -> None:
    with pytest.raises(ValueError, match="batch_size=4 is not divisible by the 3 ranks"):
        make_plan([20]).local(0, 0, 3)


@pytest.mark.parametrize("field", [{"weight": 0.0}, {"max_positives": 0}, {"max_negatives": -1}])
def test_bad_source_settings_are_refused(field: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        SourceConfig(path="x", **field)  # type: ignore[arg-type]
