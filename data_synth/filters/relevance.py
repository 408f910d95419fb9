"""A query that shares no word with its passage asks about something else: the check that a weak teacher needs.

Off by default: a good teacher paraphrases, and a cross-lingual query shares no word at all.
"""

from dataclasses import dataclass, field

from data_synth.filters.candidates import Candidate, Reason, Verdict, shorten
from qwen3emb_train.texts.words import words

_STEM = 5  # letters that two forms of one word share
_MIN_LETTERS = 4  # shorter words are mostly grammar
# Words of questions, not of subjects.
_EMPTY = frozenset(
    ["about", "does", "from", "have", "into", "should", "that", "this", "used", "using", "what", "when", "where",
     "which", "with", "work", "works", "would", "your"]
)  # fmt: skip


@dataclass
class RelevanceConfig:
    """Words that a query must share with its passage, or with another text of its row.

    Attributes:
        min_shared_words: 0 keeps all.
        tasks: where queries are written for a passage.
    """

    min_shared_words: int = 0
    tasks: list[str] = field(default_factory=lambda: ["retrieval", "code"])


class RelevanceFilter:
    """Compares beginnings of words, so that "indexes" meets "index"."""

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
    return {word[:_STEM] for word in words(text) if len(word) >= _MIN_LETTERS and word not in _EMPTY}
