"""The teacher was asked for one language and wrote another."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from data_synth.filters.candidates import Candidate, Reason, Verdict, shorten
from data_synth.words import words

_WIDESPREAD = ("ar", "de", "en", "es", "fr", "hi", "id", "it", "ja", "ko", "nl", "pt", "ru", "tr", "vi", "zh")
_SURE = 0.6
_ENOUGH = 1000  # characters; more says nothing new
_FENCED = ("code",)  # tasks whose texts are program code: only the query is prose


@dataclass
class LanguageConfig:
    """Language identification by lingua, which is made for short texts.

    Attributes:
        enabled: off keeps all (and needs no lingua).
        languages: ISO 639-1 codes that a text may be taken for, besides those asked for; each costs about 15 MB and
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
    """How probable each language is for a text. Loads its models at the first question, a second or so."""

    def __init__(self, codes: Iterable[str]) -> None:
        self._codes = frozenset(codes)
        self._detector: Any = None

    def probabilities(self, text: str, code: str = "") -> dict[str, float]:
        """By language; ``code`` joins the languages that are told apart, where lingua knows it."""
        if self._detector is None or (self._codes and code and code not in self._codes):
            self._codes = self._codes | {code} if self._codes and code else self._codes
            self._detector = _detector(self._codes)
        values = self._detector.compute_language_confidence_values(text[:_ENOUGH])
        return {value.language.iso_code_639_1.name.lower(): value.value for value in values}

    def detect(self, text: str) -> str:
        """The code of the text's language; "" where that is unsure."""
        found = self.probabilities(text)
        best = max(found, key=lambda code: found[code])
        return best if found[best] >= _SURE else ""


class LanguageFilter:
    """Compares each written text with the language that its row or its facts name.

    ``facts["languages"]`` may map a text's place ("query", "positive", "negative") to its language; otherwise the
    row's language counts for the query alone.
    """

    def __init__(self, config: LanguageConfig) -> None:
        self.config = config
        self._identifier = LanguageIdentifier(config.languages)

    def __call__(self, candidate: Candidate) -> Verdict:
        row = candidate.row
        expected = candidate.facts.get("languages")
        by_place: Mapping[str, str] = expected if isinstance(expected, Mapping) else {"query": row.language}
        places = {"query": (row.query,), "positive": row.positives, "negative": row.negatives}
        for place, language in by_place.items():
            code = str(language).lower().partition("-")[0].partition("_")[0]
            if place == "query" or candidate.item.task not in _FENCED:
                for text in places.get(place, ()):
                    verdict = self._judge(text, code) if code and text not in candidate.given else True
                    if verdict is not True:
                        return verdict
        return True

    def _judge(self, text: str, code: str) -> Verdict:
        letters = sum(character.isalpha() for character in text)
        is_dense = len(words(text)) > letters / 2  # a Han character says as much as several Latin letters
        if letters < (self.config.min_letters / 4 if is_dense else self.config.min_letters):
            return True
        probabilities = self._identifier.probabilities(text, code)
        if code not in probabilities:  # a language that the detector does not know
            return True
        best = max(probabilities, key=lambda name: probabilities[name])
        if probabilities[best] >= self.config.certainty and probabilities[code] <= self.config.max_expected:
            return Reason("wrong_language", f"{best} ({probabilities[best]:.0%}) instead of {code}: {shorten(text)}")
        return True


def _detector(codes: frozenset[str]) -> Any:
    from lingua import Language, LanguageDetectorBuilder

    known = {language.iso_code_639_1.name.lower(): language for language in Language.all()}
    chosen = [known[code] for code in sorted(codes & known.keys())]
    if len(chosen) < 2:  # lingua tells at least two apart
        return LanguageDetectorBuilder.from_all_languages().build()
    return LanguageDetectorBuilder.from_languages(*chosen).build()
