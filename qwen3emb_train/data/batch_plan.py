"""The global batch plan: which rows make up step s, a pure function of (seed, data contents, settings, s).

Every rank computes the same plan and takes its rows, so all ranks of a step see the same task, the order does not
depend on the number of ranks, and resuming means computing step s. A step belongs to one stream: a source, or all
sources of a task mixed. A stream is read in epochs, each in a new random order that is computed, not stored
(permutation.py); an epoch is divided into planning blocks of a few batches, and the rows of a block are assigned to its
batches so that no text repeats (batch_assignment.py). Nothing here grows with the number of rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int

from qwen3emb_train.data.batch_assignment import assign_batches, balanced_owners
from qwen3emb_train.data.mixture import LengthConfig, MixtureConfig, NoRepeats, SourceConfig
from qwen3emb_train.data.sampling import permute, random_bits
from qwen3emb_train.data.streams import Stream, build_streams, sample_schedule, shuffle_schedule
from qwen3emb_train.data.token_store import TokenStore, flat_spans

_LEAST_BATCHES = 4  # of a block: fewer leave no room to assign


@dataclass(frozen=True, eq=False)
class Step:
    """The rows of one step, or of one rank's slice of it.

    Attributes:
        stream: the name of its source; "a+b" where sources are mixed.
        task: of all its rows.
        row_source: the source of each row, an index into ``BatchPlan.source_names``.
        rows: index of each row in its source.
        num_repeated: rows of the global batch that repeat a text of another, because the block had more rows with that
            text than batches.
    """

    stream: str
    task: str
    row_source: Int[np.ndarray, " rows"]
    rows: Int[np.ndarray, " rows"]
    num_repeated: int


@dataclass(frozen=True, eq=False)
class _Block:
    rows: Int[np.ndarray, "batches batch_size"]  # of the stream
    num_repeated: Int[np.ndarray, " batches"]


class BatchPlan:
    """Rows for every step.

    Every row of a stream is used once in each of its epochs, except for the remainder that does not fill a batch, which
    differs from epoch to epoch.

    Attributes:
        source_names: what ``Step.row_source`` indexes; sorted, so that the order of the configuration does not matter.
        streams: the streams that steps take rows from.
        steps: number of steps.
    """

    def __init__(
        self,
        sources: Mapping[str, SourceConfig],
        stores: Mapping[str, TokenStore],
        mixture: MixtureConfig,
        lengths: LengthConfig,
        *,
        batch_size: int,
        steps: int | None,
        seed: int,
        held_out: bool = False,
    ) -> None:
        """
        Args:
            sources: settings of the data sources, by name.
            stores: their tokenised rows, by the same names.
            mixture: how the sources share the steps.
            lengths: longest texts in tokens.
            batch_size: of sources without one of their own, and of mixed steps.
            steps: None exactly when ``mixture.epochs`` is given.
            seed: of the order and the draws.
            held_out: whether this is validation data, for messages.

        Raises:
            ValueError: settings that contradict one another, or a source with less than a batch.
        """
        _refuse_contradictions(sources, mixture, steps)
        self.source_names = tuple(sorted(sources))
        self.seed = seed
        self._mixture, self._lengths = mixture, lengths
        self._sources = [sources[name] for name in self.source_names]
        self._stores = [stores[name] for name in self.source_names]
        self.streams = build_streams(
            {name: sources[name] for name in self.source_names},
            [store.num_rows for store in self._stores],
            mixture,
            batch_size=batch_size,
            seed=seed,
            held_out=held_out,
        )
        if mixture.epochs is None:
            assert steps is not None
            self._schedule = sample_schedule([stream.share for stream in self.streams], steps, seed)
        else:
            counts = [stream.batches_per_epoch for stream in self.streams]
            self._schedule = shuffle_schedule(counts, mixture.epochs, seed)
        language_names = sorted({name for store in self._stores for name in store.language_names})
        self._language_numbers = [
            np.array([language_names.index(name) for name in store.language_names]) for store in self._stores
        ]
        # Streams take turns, so each keeps the block it is in.
        self._block = lru_cache(maxsize=len(self.streams) + 2)(self._make_block)

    @property
    def steps(self) -> int:
        return self._schedule.steps

    def steps_of(self, stream: int) -> int:
        """The number of steps of the stream."""
        return int(np.count_nonzero(self._schedule.stream_of_step == stream))

    def members_of(self, step: int) -> tuple[int, ...]:
        """The sources that ``step`` may take rows from, as indices into ``source_names``."""
        return self.streams[int(self._schedule.stream_of_step[step])].members

    def step(self, step: int) -> Step:
        """The global batch of ``step`` (0-based)."""
        number = int(self._schedule.stream_of_step[step])
        stream = self.streams[number]
        epoch, turn = divmod(int(self._schedule.turn_of_step[step]), stream.batches_per_epoch)
        block, batch = self._place(stream, turn)
        assigned = self._block(number, epoch, block)
        row_source, rows = stream.locate(assigned.rows[batch])
        return Step(stream.name, stream.task, row_source, rows, int(assigned.num_repeated[batch]))

    def local(self, step: int, rank: int, world_size: int) -> Step:
        """This rank's rows of the global batch: equally many on every rank, and about equally many tokens.

        Args:
            step: 0-based.
            rank, world_size: of this process, and the number of ranks.

        Raises:
            ValueError: the ranks do not divide the batch.
        """
        self.check_world_size(world_size)
        whole = self.step(step)
        if world_size == 1:
            return whole
        own = np.flatnonzero(balanced_owners(self._row_tokens(whole.row_source, whole.rows), world_size) == rank)
        return Step(whole.stream, whole.task, whole.row_source[own], whole.rows[own], whole.num_repeated)

    def check_world_size(self, world_size: int) -> None:
        """Refuses a number of ranks that does not divide every batch.

        Raises:
            ValueError: names the batch size.
        """
        for stream in self.streams:
            if stream.batch_size % world_size:
                raise ValueError(
                    f"batch_size={stream.batch_size} (data.{stream.name}) is not divisible by the {world_size} ranks. "
                    f"Use a multiple of {world_size}."
                )

    def _num_blocks(self, stream: Stream) -> int:
        batches_per_block = max(_LEAST_BATCHES, self._mixture.rows_per_block // stream.batch_size)
        return max(1, stream.batches_per_epoch // batches_per_block)

    def _bounds(self, stream: Stream, block: int) -> tuple[int, int]:
        """The batches of a block: an epoch is divided evenly, so no block has only one or two."""
        batches, blocks = stream.batches_per_epoch, self._num_blocks(stream)
        return -(-batches * block // blocks), -(-batches * (block + 1) // blocks)

    def _place(self, stream: Stream, turn: int) -> tuple[int, int]:
        """The block of an epoch's batch, and which of the block's batches it is."""
        block = turn * self._num_blocks(stream) // stream.batches_per_epoch
        return block, turn - self._bounds(stream, block)[0]

    def _make_block(self, number: int, epoch: int, block: int) -> _Block:
        stream = self.streams[number]
        first, last = self._bounds(stream, block)
        size, batches = stream.batch_size, last - first
        positions = np.arange(first * size, last * size)
        stream_rows = permute(positions, stream.num_rows, self.seed, "order", stream.name, epoch)
        row_source, rows = stream.locate(stream_rows)
        is_sorted = self._mixture.length_buckets or self._mixture.language_buckets
        if is_sorted:
            order = self._bucket_order(row_source, rows)
            stream_rows, row_source, rows = stream_rows[order], row_source[order], rows[order]
        row_idx, texts = self._unrepeated_texts(row_source, rows)
        batch_of_row, num_repeated = assign_batches(row_idx, texts, batches, size, stay_near=is_sorted)
        # Rows of a batch in random order, since ranks take slices; batches too, since buckets are sorted.
        place = (self.seed, "place", stream.name, epoch, block)
        by_batch = np.lexsort((random_bits(np.arange(len(rows)), *place), batch_of_row))
        shuffled = permute(np.arange(batches), batches, self.seed, "batch", stream.name, epoch, block)
        return _Block(stream_rows[by_batch].reshape(batches, size)[shuffled], num_repeated[shuffled])

    def _unrepeated_texts(
        self, row_source: Int[np.ndarray, " rows"], rows: Int[np.ndarray, " rows"]
    ) -> tuple[Int[np.ndarray, " texts"], Int[np.ndarray, " texts"]]:
        """The texts that must not repeat, by hash, and the row (of the block) that each belongs to."""
        row_idx, hashes = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        for number in np.unique(row_source):
            which = self._sources[number].unrepeated()
            if which is NoRepeats.none:
                continue
            own = np.flatnonzero(row_source == number)
            queries, negatives, _ = self._stores[number].row_spans(rows[own])
            ends = negatives if which is NoRepeats.texts else queries + 1
            texts, span = flat_spans(queries, ends - queries)
            row_idx.append(own[span])
            hashes.append(self._stores[number].text_hashes[texts])
        return np.concatenate(row_idx), np.concatenate(hashes)

    def _bucket_order(
        self, row_source: Int[np.ndarray, " rows"], rows: Int[np.ndarray, " rows"]
    ) -> Int[np.ndarray, " rows"]:
        """Sorts by language, then by length in steps of half an octave; within a bucket the random order stays."""
        tokens, languages = self._row_tokens(row_source, rows), np.zeros(len(rows), dtype=np.int64)
        for number in np.unique(row_source):
            own, store = np.flatnonzero(row_source == number), self._stores[number]
            local = np.zeros(len(own), dtype=np.int64) if store.languages is None else store.languages[rows[own]]
            languages[own] = self._language_numbers[number][local]
        mantissa, octave = np.frexp(tokens.astype(np.float64))  # exact, unlike a logarithm
        buckets = 2 * octave + (mantissa >= 2**-0.5) if self._mixture.length_buckets else np.zeros_like(tokens)
        if not self._mixture.language_buckets:
            languages = np.zeros_like(languages)
        return np.lexsort((buckets, languages))

    def _row_tokens(
        self, row_source: Int[np.ndarray, " rows"], rows: Int[np.ndarray, " rows"]
    ) -> Int[np.ndarray, " rows"]:
        """Truncated; of all texts of a row, also where a step draws some of them."""
        tokens = np.zeros(len(rows), dtype=np.int64)
        for number in np.unique(row_source):
            own = np.flatnonzero(row_source == number)
            limits = self._lengths.max_query_tokens, self._lengths.max_document_tokens
            tokens[own] = self._stores[number].row_tokens(rows[own], *limits)
        return tokens


def _refuse_contradictions(sources: Mapping[str, SourceConfig], mixture: MixtureConfig, steps: int | None) -> None:
    if (steps is None) == (mixture.epochs is None):
        raise ValueError(
            f"steps={steps} and mixture.epochs={mixture.epochs}: give exactly one of them, the other is null."
        )
    if mixture.epochs is not None:
        # Passes over everything leave nothing to weigh: the sizes decide.
        settings: dict[str, tuple[float | None, float | None]]
        settings = {f"data.{name}.weight": (source.weight, 1.0) for name, source in sources.items()}
        for name, default in (("alpha", MixtureConfig.alpha), ("rows_cap", None), ("mixed_share", 0.0)):
            settings[f"mixture.{name}"] = (getattr(mixture, name), default)
        for name, (value, default) in settings.items():
            if value != default:
                raise ValueError(
                    f"{name}={value} has no meaning with mixture.epochs={mixture.epochs}, which passes over every "
                    f"source equally often. Leave it at {default}, or give steps instead of epochs."
                )
