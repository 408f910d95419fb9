"""Near-duplicate queries: of those that nearly say the same, the first in input order stays.

Order matters here, so this filter runs once, over the published order (see ``publish``).
"""

from dataclasses import dataclass

from data_synth.filters.candidates import Candidate, Reason, Verdict, shorten
from qwen3emb_train.texts.overlap import ComparedText, NearDuplicateIndex

_QUERY_DECIDES = ("retrieval", "code")  # elsewhere one sentence may stand in several pairs


@dataclass
class NearDuplicateConfig:
    """Similarity of queries.

    Attributes:
        enabled: off keeps all.
        threshold: Jaccard similarity of shingles (character 4-grams of the normalised text) from which two are one.
    """

    enabled: bool = True
    threshold: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold}: is a similarity. Give a number in (0, 1].")


class NearDuplicateFilter:
    """Stateful: each kept query is remembered."""

    def __init__(self, config: NearDuplicateConfig) -> None:
        self._index = NearDuplicateIndex(config.threshold)
        self._texts: list[str] = []

    def __call__(self, candidate: Candidate) -> Verdict:
        row = candidate.row
        text = row.query if candidate.item.task in _QUERY_DECIDES else f"{row.query}\n{row.positives[0]}"
        compared = ComparedText(text)
        for number, similarity in self._index.near(compared):
            return Reason("near_duplicate", f"{similarity:.2f} to {self._texts[number]!r}: {shorten(row.query)}")
        self._index.add(compared)
        self._texts.append(shorten(text))
        return True
