"""Rejects texts in another language than the requested one."""

from collections.abc import Mapping

from data_synth.filters.candidates import Candidate, Reason, Verdict, shorten
from qwen3emb_train.texts.languages import LanguageConfig, LanguageJudge, language_code

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
