"""Builds candidates for the tests of the filters."""

from typing import Any

from data_synth.filters.candidates import Candidate, Reason, Verdict
from data_synth.work import WorkItem
from qwen3emb_train.data.records import TrainingExample

PASSAGE = (
    "The garbage collector supplements reference counting by finding groups of objects that refer to one another but "
    "are not reachable from anywhere else, and it can be switched off where a program makes no such cycles at all."
)


def candidate(
    query: str,
    passage: str = PASSAGE,
    *,
    task: str = "retrieval",
    language: str = "en",
    positives: tuple[str, ...] | None = None,
    negatives: tuple[str, ...] = (),
    facts: dict[str, Any] | None = None,
) -> Candidate:
    """A row whose passage was given and whose query (and other positives) the teacher wrote."""
    row = TrainingExample(query, positives or (passage,), negatives, task=task, language=language)
    item = WorkItem(key="0", task=task, payload={"passage": {"text": passage}})
    return Candidate(item, row, facts or {})


def name_of(verdict: Verdict) -> str:
    return verdict.name if isinstance(verdict, Reason) else "kept"
