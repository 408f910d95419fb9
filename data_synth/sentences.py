"""Where sentences end, in many scripts."""

import re
from collections.abc import Iterator

_PARAGRAPH = re.compile(r"(?<=\n)[ \t]*\n+")
# Latin stops need white space and something that can begin a sentence after them ("3.5", "e.g. this" do not end one);
# Han, Arabic, Indic, Armenian, Ethiopic and Khmer stops end a sentence by themselves.
_SENTENCE = re.compile(r"(?<=[.!?…])[\"'»”’)\]]*\s+(?=[^\sa-z])|(?<=[。！？｡])(?=[^」』”’）])|(?<=[؟۔।॥։።។])\s*")


def split_sentences(section: str) -> Iterator[str]:
    """Sentences with the white space after them, so that joining them gives the section back."""
    for paragraph in _split_keeping(_PARAGRAPH, section):
        yield from _split_keeping(_SENTENCE, paragraph)


def sentences(text: str) -> list[str]:
    """The sentences of a text, without the white space around them."""
    return [stripped for sentence in split_sentences(text) if (stripped := " ".join(sentence.split()))]


def _split_keeping(separator: re.Pattern[str], text: str) -> Iterator[str]:
    start = 0
    for match in separator.finditer(text):
        if match.end() > start:
            yield text[start : match.end()]
            start = match.end()
    if start < len(text):
        yield text[start:]
