"""Rejects texts that repeat the prompt: its wording, an example's answer, the persona, a label, or "the passage".

A weak teacher repeats the examples of the prompt; a strong one still writes "according to the passage", which no user
of a search engine would write.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from data_synth.filters.candidates import Candidate, Reason, Verdict, shorten
from qwen3emb_train.texts.words import hash64, ngrams, words

_NGRAM = 6
_MAX_SHARE = 0.3
_QUOTED = re.compile(r'"((?:[^"\\]|\\.){4,}?)"')
_PREAMBLE = re.compile(
    r"^\s*(?:sure|certainly|of course|okay|here(?:['’]s| is| are))\b[^.?!]{0,60}"
    r"\b(?:quer(?:y|ies)|questions?|translations?|json|sentences?|texts?)\b"
    r"|^\s*(?:query|question|translation|answer|output|response|passage|text|label)\s*[:：]"
    r"|question_type|\bhigh_school\b|\bacquire_knowledge\b|\byes_or_no\b"
    r"|<\|im_(?:start|end)\|>",
    flags=re.IGNORECASE,
)
_POINTS_AT_PASSAGE = re.compile(
    r"\b(?:according to|based on|in|from) (?:the|this) (?:above |given |provided |following |attached )?"
    r"(?:passage|excerpt|text above|document above|given text|provided text|context above)\b(?! of\b)"
    r"|\b(?:the|this) passage (?:above|below|describes?|mentions?|says?|states?|discusses?)\b"
    r"|\bwhat (?:is|does) (?:the|this) passage\b"
    r"|(?:laut|gemäß) (?:dem|diesem) (?:text|abschnitt)"
    r"|(?:selon|d['’]après) (?:le|ce) (?:passage|texte)|según el (?:pasaje|texto)"
    r"|根据(?:上述|这段|本|该)?(?:文章|段落|文本|短文)|(?:この|上記の)(?:文章|段落)",
    flags=re.IGNORECASE,
)


class EchoFilter:
    """Compares written texts with all prompts.

    Args:
        prompts: texts of the prompt templates.
    """

    def __init__(self, prompts: Iterable[str]) -> None:
        self._runs: set[int] = set()
        self._answers: set[str] = set()
        for prompt in prompts:
            self._runs.update(map(hash64, ngrams(words(prompt), _NGRAM)))
            self._answers.update(" ".join(words(quoted)) for quoted in _QUOTED.findall(prompt))
        self._answers -= {answer for answer in self._answers if len(answer.split()) < 3}

    def __call__(self, candidate: Candidate) -> Verdict:
        for text in candidate.written:
            if _PREAMBLE.search(text):
                return Reason("prompt_echo", f"a label or preamble of the prompt: {shorten(text)}")
            found = words(text)
            if " ".join(found) in self._answers:
                return Reason("prompt_echo", f"an example of the prompt: {shorten(text)}")
            runs = {hash64(run) for run in ngrams(found, _NGRAM)}
            if runs and len(runs & self._runs) / len(runs) > _MAX_SHARE:
                return Reason("prompt_echo", f"wording of the prompt: {shorten(text)}")
            persona = candidate.facts.get("persona")
            if isinstance(persona, str) and _share_in(found, words(persona)) > _MAX_SHARE:
                return Reason("persona_echo", f"the character instead of a query: {shorten(text)}")
            if text == candidate.row.query and _POINTS_AT_PASSAGE.search(text):
                return Reason("points_at_passage", shorten(text))
        return True


def _share_in(found: list[str], other: list[str]) -> float:
    """Share of the word trigrams of a text that occur in another."""
    runs = set(ngrams(found, 3))
    return len(runs.intersection(ngrams(other, 3))) / len(runs) if runs else 0.0


def prompt_texts(directory: Path) -> list[str]:
    """The source of all prompt templates below a directory."""
    return [path.read_text(encoding="utf-8") for path in sorted(directory.rglob("*.jinja"))]
