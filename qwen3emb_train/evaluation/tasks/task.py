"""The interface of a task to ``evaluate``: texts that share one instruction, and scores of their vectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.evaluation.bootstrap import Statistic


@dataclass(frozen=True, eq=False)
class TaskScores:
    """The scores of a system on a set.

    Attributes:
        scores: by metric name.
        metric: the main one.
        ids: of the queries, pairs, texts or experiments over which it is taken.
        statistic: the main metric over those.
    """

    scores: dict[str, float]
    metric: str
    ids: Sequence[str]
    statistic: Statistic


@runtime_checkable
class SymmetricTask(Protocol):
    """A task without queries and documents: every text gets the same instruction.

    Attributes:
        files: that were read, for the record of a run.
        texts: all of them, in the order of the vectors.
        size: number of pairs or texts that are scored.
        instruction: before each text, unless the set names one: mteb's for this kind of task.
    """

    @property
    def files(self) -> tuple[Path, ...]: ...

    @property
    def texts(self) -> Sequence[str]: ...

    @property
    def size(self) -> int: ...

    @property
    def instruction(self) -> str: ...

    def score(self, vectors: Float[Tensor, "texts dim"]) -> TaskScores:
        """The scores of vectors that stand in the order of ``texts``."""
        ...
