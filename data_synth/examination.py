"""The last look at each outcome, in the order of the items: filters, then near-duplicates.

It runs when results are published, not when they are bought, so other filter settings cost a minute and no request.
"""

from collections.abc import Mapping
from dataclasses import replace

from data_synth.filters.candidates import Candidate, Filter
from data_synth.filters.near_duplicates import NearDuplicateConfig, NearDuplicateFilter
from data_synth.work import Outcome, Rejected, WorkItem
from qwen3emb_train.data.records import TrainingExample

# Whose rows ask for what the sentence of a source says; translations and graded pairs ask for something else.
_INSTRUCTED = ("retrieval", "code")


class Examination:
    """Turns an accepted item into a rejected one where a filter says so. Remembers queries: one for each task.

    Args:
        filters: each row alone.
        near_duplicates: rows among themselves.
        instructions: source -> sentence; rows of these sources carry it.
    """

    def __init__(
        self, filters: Filter, near_duplicates: NearDuplicateConfig, instructions: Mapping[str, str] | None = None
    ) -> None:
        self._filters = filters
        self._near_duplicates = NearDuplicateFilter(near_duplicates) if near_duplicates.enabled else None
        self._instructions = instructions or {}

    def __call__(self, item: WorkItem, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Rejected):
            return outcome
        for row, facts in zip(outcome.rows, outcome.facts or ({},) * len(outcome.rows), strict=True):
            candidate = Candidate(item, row, facts)
            verdict = self._filters(candidate)
            if verdict is True and self._near_duplicates is not None:
                verdict = self._near_duplicates(candidate)
            if verdict is not True:
                return Rejected(verdict.name, verdict.detail, outcome.rows)
        return replace(outcome, rows=tuple(self._instructed(row) for row in outcome.rows))

    def _instructed(self, row: TrainingExample) -> TrainingExample:
        sentence = self._instructions.get(row.source.rpartition("/")[0])
        return replace(row, instruction=sentence) if sentence and row.task in _INSTRUCTED else row
