"""Who serves which step: shares when drawn, exact counts when dealt."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3emb_train.data.streams import sample_schedule, shuffle_schedule


def test_shares_of_steps_are_near_the_probabilities() -> None:
    schedule = sample_schedule([0.6, 0.3, 0.1], 20_000, 0)
    np.testing.assert_allclose(np.bincount(schedule.stream_of_step) / 20_000, [0.6, 0.3, 0.1], atol=0.015)


def test_a_longer_run_begins_alike() -> None:
    short, long = sample_schedule([0.5, 0.5], 100, 3), sample_schedule([0.5, 0.5], 1000, 3)
    np.testing.assert_array_equal(short.stream_of_step, long.stream_of_step[:100])
    np.testing.assert_array_equal(short.turn_of_step, long.turn_of_step[:100])
    one, two = shuffle_schedule([3, 5], 1, 3), shuffle_schedule([3, 5], 2, 3)
    np.testing.assert_array_equal(one.stream_of_step, two.stream_of_step[:8])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 4), st.integers(0, 99))
def test_a_pass_takes_every_batch_of_every_stream_once(counts: list[int], epochs: int, seed: int) -> None:
    schedule = shuffle_schedule(counts, epochs, seed)
    assert schedule.steps == epochs * sum(counts)
    for epoch in range(epochs):
        own = slice(epoch * sum(counts), (epoch + 1) * sum(counts))
        np.testing.assert_array_equal(np.bincount(schedule.stream_of_step[own], minlength=len(counts)), counts)


@pytest.mark.parametrize("schedule", [sample_schedule([0.2, 0.8], 300, 1), shuffle_schedule([7, 11], 3, 1)])
def test_turns_count_the_steps_of_a_stream(schedule) -> None:  # type: ignore[no-untyped-def]
    for stream in (0, 1):
        turns = schedule.turn_of_step[schedule.stream_of_step == stream]
        np.testing.assert_array_equal(turns, np.arange(len(turns)))


def test_passes_are_shuffled_each_in_its_own_way() -> None:
    streams = shuffle_schedule([20, 20], 2, 0).stream_of_step
    assert (np.diff(streams) != 0).sum() > 20
    assert not np.array_equal(streams[:40], streams[40:])
    assert not np.array_equal(streams, shuffle_schedule([20, 20], 2, 1).stream_of_step)
