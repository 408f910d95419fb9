"""Rejects near-duplicate queries; the first one in input order is kept.

The result depends on the order, so this filter runs once, in the published order (see ``publish``).
"""

from dataclasses import dataclass

from data_synth.filters.candidates import Candidate, Reason, Verdict, shorten
from qwen3emb_train.texts.overlap import ComparedText, NearDuplicateIndex

_QUERIES_ONLY = ("retrieval", "code")  # in other tasks one sentence may occur in several pairs


@dataclass
class NearDuplicateConfig:
    """Settings of the near-duplicate filter.

    Attributes:
        enabled: whether the filter is applied.
        threshold: Jaccard similarity of character 4-grams of the normalised texts, from which they are near-duplicates.
    """

    enabled: bool = True
    threshold: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold}: not a similarity. Give a number in (0, 1].")


class NearDuplicateFilter:
    """Stateful: stores each kept query."""

    def __init__(self, config: NearDuplicateConfig) -> None:
        self._index = NearDuplicateIndex(config.threshold)
        self._texts: list[str] = []

    def __call__(self, candidate: Candidate) -> Verdict:
        row = candidate.row
        text = row.query if candidate.item.task in _QUERIES_ONLY else f"{row.query}\n{row.positives[0]}"
        compared = ComparedText(text)
        for number, similarity in self._index.near(compared):
            return Reason("near_duplicate", f"{similarity:.2f} to {self._texts[number]!r}: {shorten(row.query)}")
        self._index.add(compared)
        self._texts.append(shorten(text))
        return True
