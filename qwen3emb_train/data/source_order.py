"""Which stream each step takes its batch from, and which of the stream's batches. A few bytes per step."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from qwen3emb_train.data.permutation import permute, uniform


@dataclass(frozen=True, eq=False)
class Schedule:
    """The source order of a run.

    Attributes:
        stream_of_step: index of each step's stream.
        turn_of_step: number of earlier steps of the same stream.
    """

    stream_of_step: Int[np.ndarray, " steps"]
    turn_of_step: Int[np.ndarray, " steps"]

    @property
    def steps(self) -> int:
        return len(self.stream_of_step)


def sample_schedule(probabilities: Sequence[float], steps: int, seed: int) -> Schedule:
    """Samples each step's stream independently, so a longer run starts with the same steps.

    Args:
        probabilities: of each stream.
        steps: number of steps.
        seed: of the run.
    """
    bounds = np.cumsum(probabilities)[:-1]
    return _with_turns(np.searchsorted(bounds, uniform(np.arange(steps), seed, "stream"), side="right"))


def shuffle_schedule(batches_per_epoch: Sequence[int], epochs: int, seed: int) -> Schedule:
    """Whole passes over all streams, one after the other, each in shuffled order; counts are exact.

    Args:
        batches_per_epoch: of each stream.
        epochs: number of passes.
        seed: of the run.
    """
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
