"""Rejects texts in another language than the requested one."""

import re
from collections.abc import Mapping

from data_synth.filters.candidates import Candidate, Reason, Verdict, shorten
from qwen3emb_train.texts.languages import LanguageConfig, LanguageJudge, language_code

# Scripts of languages that no other script is used for: first and last letters.
_SCRIPTS = {
    "ar": "\u0600-\u06ff", "bg": "\u0400-\u04ff", "bn": "\u0980-\u09ff", "el": "\u0370-\u03ff", "fa": "\u0600-\u06ff",
    "he": "\u0590-\u05ff", "hi": "\u0900-\u097f", "ja": "\u3041-\u9fff", "km": "\u1780-\u17ff", "ko": "\uac00-\ud7af",
    "my": "\u1000-\u109f", "ru": "\u0400-\u04ff", "ta": "\u0b80-\u0bff", "te": "\u0c00-\u0c7f", "th": "\u0e00-\u0e7f",
    "uk": "\u0400-\u04ff", "ur": "\u0600-\u06ff", "yue": "\u3400-\u9fff", "zh": "\u3400-\u9fff",
}  # fmt: skip
_MIN_FOREIGN = 6  # letters: a name or a term may stay as it is
_FENCED = ("code",)  # tasks whose texts are program code: only the query is prose


class LanguageFilter:
    """Compares the detected language of each written text with the expected one.

    ``facts["languages"]`` may map a text's role ("query", "positive", "negative") to its language; otherwise the row's
    language is expected of the query only.
    """

    def __init__(self, config: LanguageConfig) -> None:
        self.config = config
        self._judge_of_languages = LanguageJudge(config)

    def __call__(self, candidate: Candidate) -> Verdict:
        row = candidate.row
        expected = candidate.facts.get("languages")
        by_place: Mapping[str, str] = expected if isinstance(expected, Mapping) else {"query": row.language}
        if candidate.facts.get("cross_lingual") and (told := _other_script(row.query, str(by_place.get("query", "")))):
            return told
        places = {"query": (row.query,), "positive": row.positives, "negative": row.negatives}
        for place, language in by_place.items():
            code = language_code(str(language))
            if place == "query" or candidate.item.task not in _FENCED:
                for text in places.get(place, ()):
                    verdict = self._judge(text, code) if code and text not in candidate.given else True
                    if verdict is not True:
                        return verdict
        return True

    def _judge(self, text: str, language: str) -> Verdict:
        other = self._judge_of_languages.other_language(text, language)
        if other is None:
            return True
        return Reason("wrong_language", f"{other[0]} ({other[1]:.0%}) instead of {language}: {shorten(text)}")


def _other_script(query: str, language: str) -> Reason | None:
    """Why a query that should cross languages did not: it has no letter of the language asked for, however short."""
    letters = _SCRIPTS.get(language_code(language))
    if letters is None or sum(map(str.isalpha, query)) < _MIN_FOREIGN or re.search(f"[{letters}]", query):
        return None
    return Reason("wrong_language", f"no letter of {language}: {shorten(query)}")
