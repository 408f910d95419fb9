"""Which stream of batches serves which step, and the number of that batch within the stream. A few bytes a step."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from qwen3emb_train.data.permutation import permute, uniform


@dataclass(frozen=True, eq=False)
class Schedule:
    """Who serves each step.

    Attributes:
        stream_of_step: the number of the stream.
        turn_of_step: how many steps before it had the same stream.
    """

    stream_of_step: Int[np.ndarray, " steps"]
    turn_of_step: Int[np.ndarray, " steps"]

    @property
    def steps(self) -> int:
        return len(self.stream_of_step)


def draw_schedule(probabilities: Sequence[float], steps: int, seed: int) -> Schedule:
    """Draws the stream of each step by itself: a longer run begins alike."""
    bounds = np.cumsum(probabilities)[:-1]
    return _with_turns(np.searchsorted(bounds, uniform(np.arange(steps), seed, "stream"), side="right"))


def deal_schedule(batches_per_epoch: Sequence[int], epochs: int, seed: int) -> Schedule:
    """Passes over all streams, one after the other; within each the order is shuffled, the counts are exact."""
    once = np.repeat(np.arange(len(batches_per_epoch)), batches_per_epoch)
    numbers = np.arange(len(once))
    return _with_turns(
        np.concatenate([once[permute(numbers, len(once), seed, "pass", epoch)] for epoch in range(epochs)])
    )


def _with_turns(streams: Int[np.ndarray, " steps"]) -> Schedule:
    by_stream = np.argsort(streams, kind="stable")
    counts = np.bincount(streams)
    firsts = np.repeat(np.cumsum(counts) - counts, counts)
    turns = np.empty(len(streams), dtype=np.int32)
    turns[by_stream] = np.arange(len(streams)) - firsts
    return Schedule(streams.astype(np.int32), turns)
