"""Rejects queries that share no word with their passage: for weak teachers, whose queries may be off topic.

Off by default: a good teacher paraphrases. Cross-lingual queries are exempt.
"""

from dataclasses import dataclass, field

from data_synth.filters.candidates import Candidate, Reason, Verdict, shorten
from qwen3emb_train.texts.words import words

_STEM = 5  # prefix length at which inflected forms of a word are compared
_MIN_LETTERS = 4  # shorter words are mostly function words
# Function words of questions.
_STOP_WORDS = frozenset(
    ["about", "does", "from", "have", "into", "should", "that", "this", "used", "using", "what", "when", "where",
     "which", "with", "work", "works", "would", "your"]
)  # fmt: skip


@dataclass
class RelevanceConfig:
    """How many words a query must share with its passage.

    Attributes:
        min_shared_words: 0 disables the filter.
        tasks: where the filter applies.
    """

    min_shared_words: int = 0
    tasks: list[str] = field(default_factory=lambda: ["retrieval", "code"])


class RelevanceFilter:
    """Compares prefixes of words, so that "indexes" matches "index"."""

    def __init__(self, config: RelevanceConfig) -> None:
        self.config = config

    def __call__(self, candidate: Candidate) -> Verdict:
        row = candidate.row
        if candidate.item.task not in self.config.tasks or candidate.facts.get("cross_lingual"):
            return True
        shared = _stems(row.query) & _stems(row.positives[0])
        if len(shared) >= self.config.min_shared_words:
            return True
        return Reason("unrelated", f"shares {len(shared)} words with its passage: {shorten(row.query)}")


def _stems(text: str) -> set[str]:
    return {word[:_STEM] for word in words(text) if len(word) >= _MIN_LETTERS and word not in _STOP_WORDS}
