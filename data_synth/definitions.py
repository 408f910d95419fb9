"""Program code of any language: definitions by the words that begin them, and cuts at blank lines."""

import re
from collections.abc import Iterable, Iterator

from data_synth.tokens import TokenCounter, cut_anywhere

_MODIFIERS = (
    r"(?:(?:export|default|public|private|protected|internal|static|abstract|final|async|pub|override|virtual|sealed"
    r"|inline|extern|unsafe|const|open|suspend|data|partial)(?:\([^)]*\))?\s+)*"
)
_DEFINITION = re.compile(
    rf"[ \t]{{0,8}}{_MODIFIERS}(?:def|class|function|func|fn|fun|interface|struct|enum|impl|trait|module|object|sub"
    r"|proc|record|namespace|create\s+(?:or\s+replace\s+)?(?:function|procedure|table|view))\b[^;]*$",
    re.IGNORECASE,
)
# C, Java, C#: "static int name(arguments)", which a brace has to follow.
_BRACED_DEFINITION = re.compile(
    r"[ \t]{0,8}(?!return\b|else\b|if\b|for\b|while\b|switch\b|catch\b|new\b|throw\b)"
    r"(?:[\w<>\[\],.*&:]+[ \t]+)+[*&]?[\w:~]+[ \t]*\([^;]*\)[^;={]*$"
)
_MAX_DEFINITION_LINE = 400
ATTACHED = ("@", "#", "//", "/*", "*", "--", "template")
"""Beginnings of lines above a definition that belong to it."""


def definitions(text: str) -> Iterator[str]:
    """The text from one definition, with the comments above it, to the next."""
    lines = text.splitlines(keepends=True)
    starts = [0]
    for number, line in enumerate(lines):
        if _begins_definition(line, lines[number + 1] if number + 1 < len(lines) else ""):
            start = number
            while start > starts[-1] + 1 and lines[start - 1].strip().startswith(ATTACHED):
                start -= 1
            if start > starts[-1]:
                starts.append(start)
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        yield "".join(lines[start:end])


def _begins_definition(line: str, following: str) -> bool:
    if len(line) > _MAX_DEFINITION_LINE:
        return False
    bare = line.rstrip()
    has_brace = bare.endswith("{") or following.strip() == "{"
    return bool(_DEFINITION.match(bare) or (has_brace and _BRACED_DEFINITION.match(bare.rstrip("{"))))


def cut_lines(code: str, max_tokens: int, count: TokenCounter) -> Iterator[str]:
    """Pieces cut at blank lines, then at line ends, then anywhere.

    Args:
        code: of a definition.
        max_tokens: of a piece at most.
        count: number of tokens of a text.
    """
    current: list[str] = []
    size = 0
    for block in _fitting(re.split(r"(?<=\n)(?=[ \t]*\n)", code), max_tokens, count):
        tokens = count(block)
        if current and size + tokens > max_tokens:
            yield "".join(current)
            current, size = [], 0
        current.append(block)
        size += tokens
    yield "".join(current)


def _fitting(blocks: Iterable[str], max_tokens: int, count: TokenCounter) -> Iterator[str]:
    for block in blocks:
        if count(block) <= max_tokens:
            yield block
        else:
            for line in block.splitlines(keepends=True):
                yield from cut_anywhere(line, max_tokens, count)
