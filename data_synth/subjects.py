"""Texts of any language as sparse vectors: their words, and the subjects that their words speak of.

No language model: ``subjects.txt`` names some hundred subjects by words of English, Spanish, French, German, Chinese,
Japanese, Korean, Russian, Arabic, Hindi and Thai, so that a Chinese text on the heart and an English one on blood
pressure share a coordinate. It tells fields apart, not what is said about them.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path

_FILE = Path(__file__).parent / "subjects.txt"
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
_RUN = re.compile(rf"[{_UNSPACED}]+|[^\W\d_{_UNSPACED}](?:[^\W_{_UNSPACED}]|[\u0900-\u0963])*")
_IS_UNSPACED = re.compile(rf"[{_UNSPACED}]")
_ACCENTS = re.compile("[\u0300-\u036f]")
_ARABIC_PREFIX = re.compile(r"^(?:[وفبك]?ال|لل)(?=\w{3})")
_BEGINNING = 5  # letters at which inflected and derived forms of a word are compared
_LONGEST = 8  # characters of a word of a script without spaces
_WEIGHTS = {"w": 1.0, "b": 0.5, "c": 0.5, "s": 2.0}  # word, its beginning, two characters, subject
_STOP_WORDS = frozenset(
    ["about", "after", "also", "and", "are", "been", "before", "but", "can", "did", "for", "from", "had", "has", "have",
     "her", "his", "how", "into", "its", "just", "like", "many", "more", "most", "not", "one", "only", "other", "our",
     "out", "over", "own", "she", "some", "such", "than", "that", "the", "their", "them", "then", "there", "these",
     "they", "this", "through", "under", "used", "using", "was", "were", "what", "when", "where", "which", "while",
     "who", "whose", "will", "with", "would", "you", "your", "need", "needs", "want", "wants", "help", "work", "works",
     "working", "people", "first", "new", "local", "small", "old", "two"]
)  # fmt: skip


def features(text: str) -> dict[str, float]:
    """Coordinates of a text with their weights before any knowledge of how common they are."""
    counts: Counter[str] = Counter()
    for run in _RUN.findall(_folded(text)):
        counts.update(_of_unspaced(run) if _IS_UNSPACED.match(run) else dict.fromkeys(_of_word(run), 1.0))
    return {name: (1 + math.log1p(count)) * _WEIGHTS[name[0]] for name, count in counts.items()}


def _folded(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    # Only accents of Latin letters: Hangul and kana would be taken apart for good.
    return "".join(
        _ACCENTS.sub("", unicodedata.normalize("NFD", sign)) if "\u00c0" <= sign < "\u0370" else sign
        for sign in folded
    ) if not folded.isascii() else folded  # fmt: skip


@lru_cache(maxsize=1 << 17)
def _of_word(word: str) -> tuple[str, ...]:
    if len(word) < 2 or word in _STOP_WORDS:
        return ()
    word = _ARABIC_PREFIX.sub("", word)
    found = [f"w{word[:-1] if len(word) > 3 and word.endswith('s') and word.isascii() else word}"]
    if len(word) > _BEGINNING:
        found.append(f"b{word[:_BEGINNING]}")
    by_word = _subjects()
    spoken = set(by_word.get(word, ()))
    spoken.update(by_word.get(word.removesuffix("s"), ()))
    for end in range(_BEGINNING, len(word)):
        spoken.update(by_word.get(word[:end], ()))
    return (*found, *(f"s{subject}" for subject in sorted(spoken)))


def _of_unspaced(run: str) -> dict[str, float]:
    """Two characters in a row, and subjects by the longest words that are found from left to right."""
    counts: dict[str, float] = {f"c{run[at : at + 2]}": 1.0 for at in range(len(run) - 1)}
    by_word = _subjects()
    at = 0
    while at < len(run):
        for end in range(min(len(run), at + _LONGEST), at, -1):
            if found := by_word.get(run[at:end]):
                # A single character is often part of a name; two letters of Thai are, of another word.
                weight = 1.0 if end - at > (1 if run[at] > "\u3000" else 2) else 0.2
                for subject in found:
                    counts[f"s{subject}"] = counts.get(f"s{subject}", 0.0) + weight
                at = end
                break
        else:
            at += 1
    return counts


@cache
def _subjects() -> Mapping[str, tuple[str, ...]]:
    """Word -> the subjects that it speaks of."""
    found: dict[str, list[str]] = {}
    for line in _FILE.read_text(encoding="utf-8").splitlines():
        subject, colon, named = line.partition(": ")
        if not colon or line.startswith("#"):
            continue
        for word in dict.fromkeys(_folded(named).split()):
            found.setdefault(word, []).append(subject)
    return {word: tuple(subjects) for word, subjects in found.items()}
