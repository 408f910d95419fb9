"""Language identification by py3langid: some 120 languages, offline, thousands of texts a second.

Imported when first used. Of near languages a short text may be either; the texts of one source decide that together.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwen3emb_train.texts.words import words

UNDETERMINED = "und"
"""ISO 639's code for a language that could not be told."""

_SURE = 0.5
_VOTERS = 8  # texts of one source from which they vote
_ENOUGH = 200  # characters; more adds nothing
_NEGLIGIBLE = 1e-4
_FENCED = re.compile(r"^[ \t]*(```+|~~~+).*?(?:^[ \t]*\1|\Z)|https?://\S+|<[^<>\n]{1,200}>", re.DOTALL | re.MULTILINE)
# Dialects that take short texts away from the languages they are near to, and "no language".
_LEFT_OUT = frozenset({"ace", "an", "bcl", "ext", "gcf", "gcr", "grc", "hbo", "kab", "lij", "ltg", "pcm", "vec", "wa"})
_NO_LANGUAGE = "zxx"
_FOLDED = {
    "ary": "ar", "arz": "ar", "ckb": "ku", "fil": "tl", "nb": "no", "nn": "no", "sdh": "ku", "uzs": "uz", "wuu": "zh",
}  # fmt: skip
_NEAR = ({"bs", "hr", "sr"}, {"id", "ms"}, {"zh", "yue"})  # a short text is often good in either
_INSTALL = "Language identification needs py3langid: pip install 'qwen3emb-train[mine]'."


@dataclass
class LanguageConfig:
    """Language identification by py3langid.

    Attributes:
        enabled: off keeps all (and needs no py3langid).
        languages: ISO 639-1 codes that a text may be taken for, besides those of the rows. Empty: all that are known.
        certainty: a text goes only where another language is at least this probable ...
        max_expected: ... and the one asked for at most this.
        min_letters: shorter texts (names, numbers, two words) say too little.
    """

    enabled: bool = True
    languages: list[str] = field(default_factory=list)
    certainty: float = 0.6
    max_expected: float = 0.2
    min_letters: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.max_expected < self.certainty <= 1:
            raise ValueError(
                f"certainty={self.certainty}, max_expected={self.max_expected}: give 0 < max_expected < certainty <= 1."
            )


class LanguageIdentifier:
    """The probability of each language for a text. Loads its model on first use, in about half a second.

    Args:
        codes: of the languages that a text may be in; empty: all that are known.
    """

    def __init__(self, codes: Iterable[str] = ()) -> None:
        self._codes = frozenset(map(_folded, codes))
        self._model: Any = None

    def probabilities(self, text: str, code: str = "") -> dict[str, float]:
        """By language code; ``code`` is added to the candidate languages, where it is known."""
        if self._model is None:
            self._model = _load_model()
        wanted = _folded(code)
        found = {wanted: 0.0} if wanted in self._model.nb_classes else dict[str, float]()
        for name, probability in self._model.rank(_FENCED.sub(" ", text[: 4 * _ENOUGH])[:_ENOUGH]):
            if probability < _NEGLIGIBLE:  # best first
                break
            language = _folded(name)
            if not self._codes or language in self._codes or language == wanted:
                found[language] = found.get(language, 0.0) + probability
        total = sum(found.values()) or 1.0
        return {language: probability / total for language, probability in found.items()}

    def detect_all(self, texts: Sequence[str]) -> list[str]:
        """The codes of the languages of texts from one source; "und" where a language could not be told.

        Several texts vote: what a text may be counts by how common that is among all of them. A text that is surely in
        another language than the rest stays in it.
        """
        found = [self.probabilities(text) if any(map(str.isalpha, text)) else {} for text in texts]
        prior: dict[str, float] = {}
        if sum(map(bool, found)) >= _VOTERS:
            for probabilities in found:
                for code, probability in probabilities.items():
                    prior[code] = prior.get(code, 0.0) + probability
        return [_best(probabilities, prior) for probabilities in found]

    def detect(self, text: str) -> str:
        """The code of the text's language; "und" where it could not be told."""
        return self.detect_all([text])[0]


class LanguageJudge:
    """Checks whether texts are in their expected language."""

    def __init__(self, config: LanguageConfig) -> None:
        self.config = config
        self._identifier = LanguageIdentifier(config.languages)

    def other_language(self, text: str, language: str) -> tuple[str, float] | None:
        """The other language that the text is in, with its probability; None where that is uncertain.

        Args:
            text: to check.
            language: expected, a code such as "de", "pt-BR" or "zh_Hant"; always accepted if it is not known.
        """
        letters = sum(character.isalpha() for character in text)
        is_dense = len(words(text)) > letters / 2  # a Han character is worth several Latin letters
        if letters < (self.config.min_letters / 4 if is_dense else self.config.min_letters):
            return None
        code = _folded(language_code(language))
        probabilities = self._identifier.probabilities(text, code)
        if code not in probabilities:
            return None
        best = max(probabilities, key=lambda name: probabilities[name])
        group = next((near for near in _NEAR if best in near), {best})
        certainty = sum(probabilities.get(name, 0.0) for name in group)
        if best == _NO_LANGUAGE or code in group:
            return None
        if certainty >= self.config.certainty and probabilities[code] <= self.config.max_expected:
            return best, certainty
        return None


def language_code(language: str) -> str:
    """The ISO 639-1 part: "pt" of "pt-BR"."""
    return language.lower().partition("-")[0].partition("_")[0]


def _folded(code: str) -> str:
    return _FOLDED.get(code, code)


def _best(probabilities: Mapping[str, float], prior: Mapping[str, float]) -> str:
    weighed = {code: value * prior.get(code, 1.0) for code, value in probabilities.items()}
    best = max(weighed, key=lambda code: weighed[code], default=_NO_LANGUAGE)
    is_sure = best != _NO_LANGUAGE and weighed[best] >= _SURE * sum(weighed.values())
    return best if is_sure else UNDETERMINED


def _load_model() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise ImportError(_INSTALL) from None
    model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    model.set_languages([label for label in model.labels if label not in _LEFT_OUT])
    return model
