"""Rejects near-duplicate queries; the first one in input order is kept.

The result depends on the order: ``publish`` compares the rows of all parts, found on disk, in the published order.
"""

from dataclasses import dataclass

from data_synth.filters.candidates import Reason
from qwen3emb_train.data.records import TrainingExample

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


def compared_text(task: str, row: TrainingExample) -> str:
    """What of a row is compared.

    Args:
        task: that it comes from.
        row: of an item.
    """
    return row.query if task in _QUERIES_ONLY else f"{row.query}\n{row.positives[0]}"


def near_duplicate(similarity: float, earlier: str, query: str) -> Reason:
    """The reason for a rejection.

    Args:
        similarity: to the earlier row.
        earlier: its text, shortened.
        query: of the rejected row, shortened.
    """
    return Reason("near_duplicate", f"{similarity:.2f} to {earlier!r}: {query}")
