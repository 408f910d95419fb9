"""What a filter sees and what it answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from data_synth.work import WorkItem
from qwen3emb_train.data.records import TrainingExample


class Reason(NamedTuple):
    """Why a row is set aside: a short, countable name, and what exactly was wrong, for a reader."""

    name: str
    detail: str = ""


Verdict = Literal[True] | Reason


@dataclass(frozen=True)
class Candidate:
    """A row that the teacher's replies gave, with where it came from.

    Attributes:
        item: the work item; its payload holds the texts that the teacher was given.
        row: what would be written.
        facts: what the task noted beside the row (question type, languages, ...).
    """

    item: WorkItem
    row: TrainingExample
    facts: Mapping[str, Any]

    @cached_property
    def given(self) -> frozenset[str]:
        """Every text of the payload, at any depth."""
        return frozenset(_texts_in(self.item.payload))

    @cached_property
    def written(self) -> tuple[str, ...]:
        """The row's texts that the teacher wrote: those that it was not given."""
        row = self.row
        return tuple(text for text in (row.query, *row.positives, *row.negatives) if text not in self.given)


@runtime_checkable
class Filter(Protocol):
    """One idea of what makes a row bad."""

    def __call__(self, candidate: Candidate) -> Verdict:
        """True, or the reason to set the row aside."""
        ...


def _texts_in(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for child in value.values() for text in _texts_in(child)]
    if isinstance(value, list | tuple):
        return [text for child in value for text in _texts_in(child)]
    return []


def shorten(text: str, limit: int = 80) -> str:
    """A text for a detail: one line, cut."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
