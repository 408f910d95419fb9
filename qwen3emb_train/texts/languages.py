"""Language identification by lingua, which is made for short texts. Imported when first used."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from qwen3emb_train.texts.words import words

_WIDESPREAD = ("ar", "de", "en", "es", "fr", "hi", "id", "it", "ja", "ko", "nl", "pt", "ru", "tr", "vi", "zh")
_SURE = 0.6
_ENOUGH = 1000  # characters; more adds nothing
_INSTALL = "Language identification needs lingua: pip install 'qwen3emb-train[mine]' (lingua-language-detector)."


@dataclass
class LanguageConfig:
    """Language identification by lingua.

    Attributes:
        enabled: off keeps all (and needs no lingua).
        languages: ISO 639-1 codes that a text may be taken for, besides those of the rows; each costs about 15 MB and
            some time. Empty: all 75.
        certainty: a text goes only where another language is at least this probable ...
        max_expected: ... and the one asked for at most this.
        min_letters: shorter texts (names, numbers, two words) say too little.
    """

    enabled: bool = True
    languages: list[str] = field(default_factory=lambda: list(_WIDESPREAD))
    certainty: float = 0.6
    max_expected: float = 0.2
    min_letters: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.max_expected < self.certainty <= 1:
            raise ValueError(
                f"certainty={self.certainty}, max_expected={self.max_expected}: give 0 < max_expected < certainty <= 1."
            )


class LanguageIdentifier:
    """The probability of each language for a text. Loads its models on first use, in about a second."""

    def __init__(self, codes: Iterable[str]) -> None:
        self._codes = frozenset(codes)
        self._detector: Any = None

    def probabilities(self, text: str, code: str = "") -> dict[str, float]:
        """By language code; ``code`` is added to the candidate languages, where lingua knows it."""
        if self._detector is None or (self._codes and code and code not in self._codes):
            self._codes = self._codes | {code} if self._codes and code else self._codes
            self._detector = _detector(self._codes)
        values = self._detector.compute_language_confidence_values(text[:_ENOUGH])
        return {value.language.iso_code_639_1.name.lower(): value.value for value in values}

    def detect(self, text: str) -> str:
        """The code of the text's language; "" where that is uncertain."""
        found = self.probabilities(text)
        best = max(found, key=lambda code: found[code])
        return best if found[best] >= _SURE else ""


class LanguageJudge:
    """Checks whether texts are in their expected language."""

    def __init__(self, config: LanguageConfig) -> None:
        self.config = config
        self._identifier = LanguageIdentifier(config.languages)

    def other_language(self, text: str, language: str) -> tuple[str, float] | None:
        """The other language that the text is in, with its probability; None where that is uncertain.

        Args:
            text: to check.
            language: expected, a code such as "de", "pt-BR" or "zh_Hant"; always accepted if lingua does not know it.
        """
        letters = sum(character.isalpha() for character in text)
        is_dense = len(words(text)) > letters / 2  # a Han character is worth several Latin letters
        if letters < (self.config.min_letters / 4 if is_dense else self.config.min_letters):
            return None
        code = language_code(language)
        probabilities = self._identifier.probabilities(text, code)
        if code not in probabilities:
            return None
        best = max(probabilities, key=lambda name: probabilities[name])
        if probabilities[best] >= self.config.certainty and probabilities[code] <= self.config.max_expected:
            return best, probabilities[best]
        return None


def language_code(language: str) -> str:
    """The ISO 639-1 part: "pt" of "pt-BR"."""
    return language.lower().partition("-")[0].partition("_")[0]


def _detector(codes: frozenset[str]) -> Any:
    try:
        from lingua import Language, LanguageDetectorBuilder
    except ImportError:
        raise ImportError(_INSTALL) from None
    known = {language.iso_code_639_1.name.lower(): language for language in Language.all()}
    chosen = [known[code] for code in sorted(codes & known.keys())]
    if len(chosen) < 2:  # lingua needs at least two
        return LanguageDetectorBuilder.from_all_languages().build()
    return LanguageDetectorBuilder.from_languages(*chosen).build()
