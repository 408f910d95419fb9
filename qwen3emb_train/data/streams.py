"""Streams: where a step's rows come from (one source, or all sources of a task mixed), and the source order of a run:
which stream each step takes its batch from. A few bytes per step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from qwen3emb_train.data.mixture import MixtureConfig, SourceConfig, source_shares
from qwen3emb_train.data.sampling import permute, uniform


@dataclass(frozen=True, eq=False)
class Stream:
    """Rows that share batches.

    Attributes:
        names, members: names and indices of its sources.
        task: of all its rows.
        num_used, num_stored: rows used of each member, and rows it has; fewer are used with ``max_rows``.
        batch_size: queries of its steps.
        share: the probability that a step is of this stream.
        seed: decides which rows are in use.
    """

    names: tuple[str, ...]
    members: tuple[int, ...]
    task: str
    num_used: tuple[int, ...]
    num_stored: tuple[int, ...]
    batch_size: int
    share: float
    seed: int

    @property
    def name(self) -> str:
        """ "a", or "a+b"."""
        return "+".join(self.names)

    @property
    def num_rows(self) -> int:
        return sum(self.num_used)

    @property
    def batches_per_epoch(self) -> int:
        return self.num_rows // self.batch_size

    def locate(
        self, stream_rows: Int[np.ndarray, " rows"]
    ) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " rows"]]:
        """Source, and row in the source, of rows 0 .. num_rows - 1, which are the members' rows concatenated."""
        ends = np.cumsum(self.num_used)
        place = np.searchsorted(ends, stream_rows, side="right")
        rows = stream_rows - (ends - self.num_used)[place]
        for number, (name, used, stored) in enumerate(zip(self.names, self.num_used, self.num_stored, strict=True)):
            if used < stored:  # max_rows: the first ones of a fixed permutation
                own = place == number
                rows[own] = permute(rows[own], stored, self.seed, "subset", name)
        return np.array(self.members)[place], rows


def build_streams(
    sources: Mapping[str, SourceConfig],
    num_stored: Sequence[int],
    mixture: MixtureConfig,
    *,
    batch_size: int,
    seed: int,
    held_out: bool = False,
) -> list[Stream]:
    """The streams whose share is not 0.

    Args:
        sources: in the order of their indices.
        num_stored: rows of each.
        mixture: the shares.
        batch_size: for streams without their own.
        seed: of the run.
        held_out: whether this is validation data, whose settings have other names.

    Raises:
        ValueError: a stream has fewer rows than a batch.
    """
    names = list(sources)
    num_used = {
        name: stored if source.max_rows is None else min(stored, source.max_rows)
        for (name, source), stored in zip(sources.items(), num_stored, strict=True)
    }
    streams = []
    for members, share in source_shares(sources, num_used, mixture).items():
        first = sources[members[0]]
        stream = Stream(
            names=members,
            members=tuple(names.index(name) for name in members),
            task=first.task,
            num_used=tuple(num_used[name] for name in members),
            num_stored=tuple(num_stored[names.index(name)] for name in members),
            batch_size=(first.batch_size if len(members) == 1 else None) or batch_size,
            share=share,
            seed=seed,
        )
        if stream.num_rows < stream.batch_size:
            raise ValueError(_too_few_rows(stream, "validation_data" if held_out else "data", first.batch_size))
        streams.append(stream)
    return streams


def _too_few_rows(stream: Stream, section: str, own: int | None) -> str:
    """For a stream with less than a batch.

    Args:
        stream: the stream.
        section: of the configuration that its sources are in.
        own: batch size of its first source, where that sets one.
    """
    common = "batch_size" if section == "data" else "validation.batch_size"
    key = common if own is None or len(stream.names) > 1 else f"{section}.{stream.name}.batch_size"
    otherwise = ""
    if section == "data":
        otherwise = ", or mix it with the other sources of its task (mixture.mixed_share=1)"
    return (
        f"{section}.{stream.name} has {stream.num_rows} rows, fewer than {key}={stream.batch_size}. Set {key} to at "
        f"most {stream.num_rows}, or give it more rows{otherwise}."
    )


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
