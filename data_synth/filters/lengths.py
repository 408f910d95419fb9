"""Rejects texts that are too short, too long, or repeat themselves, and queries of another length than asked for."""

import math
from dataclasses import dataclass, field

from data_synth.filters.candidates import Candidate, Reason, Verdict, shorten
from data_synth.languages import bucket_bounds, count_words
from qwen3emb_train.texts.words import ngrams, words

_MIN_WORDS_FOR_REPETITION = 12


@dataclass
class LengthConfig:
    """Bounds for each text that the teacher wrote.

    Attributes:
        enabled: whether the filter is applied.
        min_letters: letters and digits in a text; a label or a CJK query may have two.
        max_words: words in a query; in scripts without spaces, characters.
        max_document_words: words in a positive or negative that the teacher wrote.
        max_repetition: largest share of a text's word trigrams that repeat an earlier one (weak teachers loop).
    """

    enabled: bool = True
    min_letters: int = 2
    max_words: int = 200
    max_document_words: int = 2000
    max_repetition: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.max_repetition <= 1:
            raise ValueError(
                f"max_repetition={self.max_repetition}: not a share. Give a number in (0, 1]; 1 keeps all."
            )
        if self.max_words < 1 or self.max_document_words < 1 or self.min_letters < 0:
            raise ValueError("max_words and max_document_words: give at least 1; min_letters: at least 0.")


class LengthFilter:
    """Checks each written text separately."""

    def __init__(self, config: LengthConfig) -> None:
        self.config = config

    def __call__(self, candidate: Candidate) -> Verdict:
        for text in candidate.written:
            found = words(text)
            limit = self.config.max_words if text == candidate.row.query else self.config.max_document_words
            if sum(map(len, found)) < self.config.min_letters:
                return Reason("too_short", repr(shorten(text)))
            if len(found) > limit:
                return Reason("too_long", f"{len(found)} words, at most {limit}: {shorten(text)}")
            if len(found) >= _MIN_WORDS_FOR_REPETITION:
                runs = list(ngrams(found, 3))
                share = 1 - len(set(runs)) / len(runs)
                if share > self.config.max_repetition:
                    return Reason("repeats_itself", f"{share:.0%} of its word trigrams: {shorten(text)}")
        return True


@dataclass
class AskedLengthConfig:
    """Whether a query, or its own instruction, is as long as the teacher was asked to make it.

    Attributes:
        enabled: whether the filter is applied.
        factor: a text may be so many times shorter or longer than its range: 2 lets "7-15" be 4 to 30 words.
        tasks: where the filter applies.
    """

    enabled: bool = True
    factor: float = 2.0
    tasks: list[str] = field(default_factory=lambda: ["retrieval", "code", "classification", "instructed", "reasoning"])

    def __post_init__(self) -> None:
        if not 1 <= self.factor < math.inf:
            raise ValueError(f"factor={self.factor}: give a number of at least 1, e.g. 2.")


class AskedLengthFilter:
    """Compares the words of query and instruction with ``facts["length"]`` and ``facts["instruction_length"]``."""

    def __init__(self, config: AskedLengthConfig) -> None:
        self.config = config

    def __call__(self, candidate: Candidate) -> Verdict:
        if candidate.item.task not in self.config.tasks:
            return True
        row, facts = candidate.row, candidate.facts
        for asked, written in (
            (facts.get("length"), row.query), (facts.get("instruction_length"), row.instruction or ""),
        ):  # fmt: skip
            if not isinstance(asked, str):
                continue
            low, high = bucket_bounds(asked, "length")
            found = count_words(written)
            if not low / self.config.factor <= found <= high * self.config.factor:
                return Reason("wrong_length", f"{found} words instead of {asked}: {shorten(written)}")
        return True
