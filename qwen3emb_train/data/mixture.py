"""The global batch plan: which rows make up step s, a pure function of (seed, data contents, s).

Every rank computes the same plan and takes its slice, so all ranks of a step see the same source (hence the same task),
the order does not depend on the number of ranks, and resuming is asking for step s.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int

from qwen3emb_train.lineage import value_digest


@dataclass
class SourceConfig:
    """One data source of a run.

    Attributes:
        path: JSONL or Parquet file, or a directory of them.
        weight: factor on the source's share.
        task: what the rows are: retrieval, bitext, sts, classification, ... (one loss for each task).
        instruction: for rows that bring none; null = the query stays bare.
        max_positives, max_negatives: take at most so many of a row, drawn anew every time it is seen; null = all.
    """

    path: str = "???"
    weight: float = 1.0
    task: str = "retrieval"
    instruction: str | None = None
    max_positives: int | None = None
    max_negatives: int | None = None

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise ValueError(f"data.*.weight is {self.weight}; it must be positive (leave a source out to drop it).")
        if self.max_positives is not None and self.max_positives < 1:
            raise ValueError(f"data.*.max_positives is {self.max_positives}; use at least 1, or null for all.")
        if self.max_negatives is not None and self.max_negatives < 0:
            raise ValueError(f"data.*.max_negatives is {self.max_negatives}; use 0 or more, or null for all.")


@dataclass(frozen=True)
class Step:
    """What the plan says of one step: a source (by number) and its rows, in global order."""

    source: int
    rows: Int[np.ndarray, " rows"]


class BatchPlan:
    """Rows for every step.

    A step belongs to one source, drawn with probability proportional to weight * rows**alpha. Each source is walked in
    epochs, every epoch in a new random order; the remainder that does not fill a batch is left out of that epoch, so no
    row occurs twice in a batch.
    """

    def __init__(
        self,
        names: Sequence[str],
        num_rows: Sequence[int],
        fingerprints: Sequence[str],
        weights: Sequence[float],
        *,
        batch_size: int,
        steps: int,
        seed: int,
        alpha: float = 0.5,
    ) -> None:
        for name, rows in zip(names, num_rows, strict=True):
            if rows < batch_size:
                raise ValueError(
                    f"data.{name} has {rows} rows, fewer than batch_size={batch_size}. "
                    "Lower batch_size, or join it with another source of the same task."
                )
        self.num_rows, self.batch_size, self.seed = list(num_rows), batch_size, seed
        shares = np.asarray(weights, dtype=np.float64) * np.asarray(num_rows, dtype=np.float64) ** alpha
        self.probabilities = shares / shares.sum()
        # Drawn for all steps at once: 6 bytes a step buy an O(1) answer to "how often was this source used before?".
        generator = np.random.Generator(np.random.Philox(key=[seed, 0]))
        self._source_of_step = np.searchsorted(
            np.cumsum(self.probabilities)[:-1], generator.random(steps), side="right"
        ).astype(np.int16)
        self._turn_of_step = np.zeros(steps, dtype=np.int32)
        for source in range(len(self.num_rows)):
            own = np.flatnonzero(self._source_of_step == source)
            self._turn_of_step[own] = np.arange(len(own))
        self.fingerprint = value_digest(
            {
                "names": list(names),
                "contents": list(fingerprints),
                "weights": list(weights),
                "batch_size": batch_size,
                "seed": seed,
                "alpha": alpha,
            }
        )

    @property
    def steps(self) -> int:
        return len(self._source_of_step)

    def step(self, step: int) -> Step:
        """The global batch of ``step`` (0-based)."""
        source = int(self._source_of_step[step])
        turns_per_epoch = self.num_rows[source] // self.batch_size
        epoch, turn_in_epoch = divmod(int(self._turn_of_step[step]), turns_per_epoch)
        first = turn_in_epoch * self.batch_size
        return Step(source, self._order(source, epoch)[first : first + self.batch_size])

    def local(self, step: int, rank: int, world_size: int) -> Step:
        """This rank's slice of the global batch."""
        if self.batch_size % world_size:
            raise ValueError(f"batch_size={self.batch_size} is not divisible by the {world_size} ranks.")
        whole = self.step(step)
        share = self.batch_size // world_size
        return Step(whole.source, whole.rows[rank * share : (rank + 1) * share])

    def _order(self, source: int, epoch: int) -> Int[np.ndarray, " rows"]:
        return _permutation(self.num_rows[source], self.seed, source, epoch)


@lru_cache(maxsize=8)
def _permutation(num_rows: int, seed: int, source: int, epoch: int) -> Int[np.ndarray, " rows"]:
    key = np.random.SeedSequence([seed, 1, source, epoch])
    return np.random.Generator(np.random.Philox(key)).permutation(num_rows)
