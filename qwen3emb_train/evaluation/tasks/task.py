"""What every task is to ``evaluate``: texts that all get the same instruction, and a score of their vectors."""

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
        ids: of the units over which it is taken (queries, pairs, texts, experiments).
        statistic: the main metric over those units.
    """

    scores: dict[str, float]
    metric: str
    ids: Sequence[str]
    statistic: Statistic


@runtime_checkable
class SymmetricTask(Protocol):
    """A task that treats all its texts alike.

    Attributes:
        files: what was read, for the record of a run.
        texts: all of them.
        size: how many pairs or texts are scored.
        instruction: what stands before each text where the set names none: mteb's for this kind of task.
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
        """The scores of the texts' vectors."""
        ...
