"""Input and output of a filter."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from data_synth.work import WorkItem
from qwen3emb_train.data.records import TrainingExample


class Reason(NamedTuple):
    """Why a row is rejected: a short, countable name, and a detail for a reader."""

    name: str
    detail: str = ""


Verdict = Literal[True] | Reason


@dataclass(frozen=True)
class Candidate:
    """A row made of the teacher's replies, with its item.

    Attributes:
        item: the work item; its payload contains the texts that the teacher was given.
        row: to be written.
        facts: of the row (question type, languages, ...).
    """

    item: WorkItem
    row: TrainingExample
    facts: Mapping[str, Any]

    @cached_property
    def given(self) -> frozenset[str]:
        """All texts of the payload, at any depth."""
        return frozenset(_texts_in(self.item.payload))

    @cached_property
    def written(self) -> tuple[str, ...]:
        """The row's texts that the teacher wrote: those that are not in ``given``."""
        row = self.row
        return tuple(text for text in (row.query, *row.positives, *row.negatives) if text not in self.given)


@runtime_checkable
class Filter(Protocol):
    """A check of one property of a row."""

    def __call__(self, candidate: Candidate) -> Verdict:
        """True, or the reason for rejecting the row."""
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
    """The text on one line, truncated, for a detail."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
