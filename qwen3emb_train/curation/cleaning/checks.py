"""Checks of single rows: lengths and languages."""

from functools import lru_cache
from typing import NamedTuple, Protocol, runtime_checkable

from qwen3emb_train.curation.cleaning.config import LanguageCheckConfig, TextLengthConfig
from qwen3emb_train.data.records import TrainingExample
from qwen3emb_train.texts.languages import LanguageJudge, language_code
from qwen3emb_train.texts.overlap import ComparedText

compared = lru_cache(maxsize=64)(ComparedText)  # several checks use the texts of a row


class Drop(NamedTuple):
    """The reason for leaving out a row.

    Attributes:
        reason: a short name; also the name of the file in ``rejected/``.
        detail: what exactly was wrong.
        found: for ``contaminated``: the evaluation set, and the rule.
    """

    reason: str
    detail: str
    found: tuple[str, str] | None = None


@runtime_checkable
class RowCheck(Protocol):
    """A check of a row; returns why to drop it, or None."""

    def __call__(self, example: TrainingExample) -> Drop | None: ...


def shorten(text: str, limit: int = 80) -> str:
    """A text as one line of at most ``limit`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


class LengthCheck:
    """A text that is too short or too long."""

    def __init__(self, config: TextLengthConfig) -> None:
        self._config = config

    def __call__(self, example: TrainingExample) -> Drop | None:
        config = self._config
        documents = (*example.positives, *example.negatives)
        bounds = [("query", example.query, config.min_query, config.max_query)]
        bounds += [("document", text, config.min_document, config.max_document) for text in documents]
        for role, text, least, most in bounds:
            length = len(text.strip())
            if length < least:
                return Drop("too_short", f"{role} of {length} characters, at least {least}: {shorten(text)}")
            if length > most:
                return Drop("too_long", f"{role} of {length} characters, at most {most}: {shorten(text)}")
        return None


class LanguageCheck:
    """A query (or positive) that is clearly in another language than its row states."""

    def __init__(self, config: LanguageCheckConfig) -> None:
        self._config = config
        self._allowed = [language_code(language) for language in config.allowed]
        self._judge = LanguageJudge(config)

    def __call__(self, example: TrainingExample) -> Drop | None:
        expected = [language_code(example.language)] if example.language else self._allowed
        if not expected:
            return None
        for text in (example.query, *(example.positives if self._config.documents else ())):
            other = self._judge.other_language(text, expected[0])
            if other is not None and other[0] not in expected:
                name, probability = other
                return Drop("wrong_language", f"{name} ({probability:.0%}), not {'/'.join(expected)}: {shorten(text)}")
        return None
