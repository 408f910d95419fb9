"""Filtering at publication, in the order of the items: filters, then near-duplicates.

It runs when results are published, not when replies arrive, so changed filter settings need no new requests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from data_synth.filters.candidates import Candidate, Filter
from data_synth.filters.near_duplicates import NearDuplicateConfig, NearDuplicateFilter
from data_synth.work import Outcome, Rejected, WorkItem
from qwen3emb_train.data.records import TrainingExample
from qwen3emb_train.texts.words import hash64

# Tasks whose rows carry their source's instruction; translations and graded pairs need other ones.
_INSTRUCTED = ("retrieval", "code")


class Examination:
    """Rejects accepted items by the filters. Stateful (near-duplicate queries): create one per task.

    Args:
        filters: applied to each row.
        near_duplicates: settings of the comparison between rows.
        instructions: source -> instructions; each of its rows gets one, by its query.
    """

    def __init__(
        self,
        filters: Filter,
        near_duplicates: NearDuplicateConfig,
        instructions: Mapping[str, Sequence[str]] | None = None,
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
        sentences = self._instructions.get(row.source.rpartition("/")[0])
        if not sentences or row.task not in _INSTRUCTED:
            return row
        return replace(row, instruction=sentences[hash64(row.query) % len(sentences)])
