"""Splitting program code into passages: one per definition, cut by syntax where we know it."""

import textwrap

from data_synth.braced_code import BRACED_LANGUAGES, braced_pieces
from data_synth.definitions import cut_lines, definitions
from data_synth.python_code import python_pieces
from data_synth.tokens import TokenCounter, estimate_tokens


def chunk_code(
    text: str, max_tokens: int, min_tokens: int, count: TokenCounter = estimate_tokens, language: str = ""
) -> list[str]:
    """Splits program code into passages: one per definition with the comments above it.

    Python is cut by its syntax tree and languages with braces at balanced brackets. Others, and files with syntax
    errors, are cut at the words that begin definitions.

    Args:
        text: of a source file.
        max_tokens: of a passage at most; a longer definition is split.
        min_tokens: a shorter definition is joined to the next one.
        count: number of tokens of a text.
        language: its programming language; "" = unknown.
    """
    pieces: list[str] | None = None
    if language == "python":
        pieces = python_pieces(text, max_tokens, min_tokens, count)
    elif language in BRACED_LANGUAGES:
        pieces = braced_pieces(text, language, max_tokens, min_tokens, count)
    if pieces is None:
        pieces = _by_words(text, max_tokens, min_tokens, count)
    return [shown for piece in pieces if (shown := textwrap.dedent(piece).strip("\n").rstrip())]


def _by_words(text: str, max_tokens: int, min_tokens: int, count: TokenCounter) -> list[str]:
    chunks: list[str] = []
    current, size = "", 0
    for definition in definitions(text):
        tokens = count(definition)
        if current and (size >= min_tokens or size + tokens > max_tokens):
            chunks.extend(cut_lines(current, max_tokens, count))
            current, size = "", 0
        current, size = current + definition, size + tokens
    chunks.extend(cut_lines(current, max_tokens, count))
    return chunks
