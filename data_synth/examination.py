"""Filtering at publication: each item by itself.

It runs when results are published, not when replies arrive, so changed filter settings need no new requests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from data_synth.filters.candidates import Candidate, Filter
from data_synth.work import Outcome, Rejected, WorkItem
from qwen3emb_train.data.records import TrainingExample
from qwen3emb_train.texts.words import hash64

# Tasks whose rows carry their source's instruction; translations and graded pairs need other ones.
_INSTRUCTED = ("retrieval", "code")


class Examined(NamedTuple):
    """An outcome after the filters.

    Attributes:
        outcome: to publish, unless one of the compared rows is a near-duplicate.
        num_compared: the first so many rows passed the filters and are compared with those of other items.
    """

    outcome: Outcome
    num_compared: int


class Examination:
    """Rejects accepted items by the filters.

    Args:
        filters: applied to each row.
        instructions: source -> instructions; each of its rows gets one, by its query.
    """

    def __init__(self, filters: Filter, instructions: Mapping[str, Sequence[str]] | None = None) -> None:
        self._filters = filters
        self._instructions = instructions or {}

    def __call__(self, item: WorkItem, outcome: Outcome) -> Examined:
        if isinstance(outcome, Rejected):
            return Examined(outcome, 0)
        facts = outcome.facts or ({},) * len(outcome.rows)
        for number, (row, row_facts) in enumerate(zip(outcome.rows, facts, strict=True)):
            verdict = self._filters(Candidate(item, row, row_facts))
            if verdict is not True:
                return Examined(Rejected(verdict.name, verdict.detail, outcome.rows), number)
        rows = tuple(self._instructed(row) for row in outcome.rows)
        return Examined(replace(outcome, rows=rows), len(rows))

    def _instructed(self, row: TrainingExample) -> TrainingExample:
        sentences = self._instructions.get(row.source.rpartition("/")[0])
        if not sentences or row.task not in _INSTRUCTED:
            return row
        return replace(row, instruction=sentences[hash64(row.query) % len(sentences)])
