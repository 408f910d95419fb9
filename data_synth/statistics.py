"""Counts over the rows of a run, in one pass and constant memory, whatever its size."""

import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwen3emb_train.data.records import TrainingExample
from qwen3emb_train.texts.words import hash64, words

_MAX_VALUES = 60  # a fact with more values is a text, not a category
_LONGEST_VALUE = 60
# Identifiers, which are not counted; in a small run they have few values, too.
_ORIGINS = frozenset({"item", "group", "passage", "document", "persona"})
NUM_SAMPLES = 20
_REJECTED_SAMPLES = 3


@dataclass
class Sample:
    """Keeps the n values with the smallest hash: a random sample that does not depend on their order."""

    size: int
    _kept: list[tuple[int, str]] = field(default_factory=list)

    def add(self, value: Mapping[str, Any]) -> None:
        """Considers a value for the sample."""
        line = json.dumps(value, ensure_ascii=False, sort_keys=True)
        entry = (-hash64(line), line)
        if len(self._kept) < self.size:
            heapq.heappush(self._kept, entry)
        elif entry > self._kept[0]:
            heapq.heapreplace(self._kept, entry)

    def values(self) -> list[dict[str, Any]]:
        """The sample, smallest hash first."""
        return [json.loads(line) for _, line in sorted(self._kept, reverse=True)]


class Statistics:
    """Counters over published and rejected rows."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.reasons: dict[str, Counter[str]] = defaultdict(Counter)
        self.languages: Counter[str] = Counter()
        self.sources: Counter[str] = Counter()
        self.query_words: Counter[str] = Counter()
        self.document_words: Counter[str] = Counter()
        self.facts: dict[str, Counter[str]] = defaultdict(Counter)
        self.samples = Sample(NUM_SAMPLES)
        self.rejected_samples: dict[str, Sample] = defaultdict(lambda: Sample(_REJECTED_SAMPLES))

    def add_row(self, row: TrainingExample, facts: Mapping[str, Any]) -> None:
        """Counts a published row."""
        self.rows[row.task] += 1
        self.languages[row.language or "(none)"] += 1
        self._limited(self.sources, row.source.split("/")[0] or "(none)")
        self.query_words[bucket(len(words(row.query)))] += 1
        for document in row.positives:
            self.document_words[bucket(len(words(document)))] += 1
        for name, value in facts.items():
            if name not in _ORIGINS and isinstance(value, str | int | bool) and len(str(value)) <= _LONGEST_VALUE:
                self._limited(self.facts[name], str(value))
        self.samples.add({**row.to_json(), "facts": dict(facts)})

    def add_rejected(self, task: str, reason: str, detail: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Counts a rejected item.

        Args:
            task: of the item.
            reason: name of the reason.
            detail: for a reader.
            rows: of the item as JSON values; the first is a candidate for the samples.
        """
        self.reasons[task][reason] += 1
        self.rejected_samples[reason].add({"task": task, "detail": detail, "rows": list(rows)[:1]})

    def _limited(self, counter: Counter[str], value: str) -> None:
        counter[value if value in counter or len(counter) < _MAX_VALUES else "(others)"] += 1

    def to_json(self) -> dict[str, Any]:
        """Counts as plain values, largest first; lengths in order."""
        accepted = self.rows.total()
        rejected = sum(reasons.total() for reasons in self.reasons.values())
        total: Counter[str] = Counter()
        for reasons in self.reasons.values():
            total.update(reasons)
        return {
            "rows": dict(self.rows.most_common()),
            "accepted": accepted,
            "rejected": rejected,
            "acceptance_rate": round(accepted / (accepted + rejected), 4) if accepted + rejected else None,
            "rejection_reasons": _ordered(total),
            "rejection_reasons_by_task": {task: _ordered(reasons) for task, reasons in sorted(self.reasons.items())},
            "languages": _ordered(self.languages),
            "sources": _ordered(self.sources),
            "query_words": _by_length(self.query_words),
            "document_words": _by_length(self.document_words),
            "facts": {
                name: _ordered(counts)
                for name, counts in sorted(self.facts.items())
                if counts["(others)"] <= counts.total() / 2
            },
        }


def bucket(length: int) -> str:
    """Powers of two: "0", "1", "2-3", "4-7", ..."""
    if length < 2:
        return str(length)
    low = 1 << (length.bit_length() - 1)
    return f"{low}-{2 * low - 1}"


def _ordered(counts: Counter[str]) -> dict[str, int]:
    return {name: count for name, count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])) if count}


def _by_length(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda entry: int(entry[0].split("-")[0])))
