"""Source of languages with braces in pieces whose brackets are balanced, never cut inside a comment or string.

Pygments says which brackets are code. A definition longer than a passage gives its head with the first part of its
body, closed, and then the rest of the body.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from data_synth.definitions import ATTACHED, cut_lines
from data_synth.tokens import TokenCounter

BRACED_LANGUAGES = frozenset(
    {"c", "cpp", "csharp", "dart", "go", "java", "javascript", "kotlin", "php", "rust", "scala", "swift", "typescript"}
)
_CLOSING = {"{": "}", "[": "]", "(": ")"}  # in the order in which a long statement is cut at them
_SIGN = re.compile(r"[\n(){}\[\]]")
_HOLDS_DEFINITIONS = re.compile(
    r"\b(?:class|interface|struct|enum|impl|trait|namespace|mod|module|object|record|extension|protocol|union|extern)\b"
)


@dataclass
class _Line:
    """A line of code.

    Attributes:
        text: of the line.
        lowest: fewest open brackets within it, those open before it included.
        after_lowest: offset behind the bracket that first reached this.
        open: the brackets that are open at its end, outermost first.
        continues: its end is inside a comment or string.
    """

    text: str
    lowest: int = 0
    after_lowest: int = 0
    open: str = ""
    continues: bool = False


def braced_pieces(text: str, language: str, max_tokens: int, min_tokens: int, count: TokenCounter) -> list[str] | None:
    """Pieces with balanced brackets; None where those of the whole text are not, or Pygments is not installed.

    Args:
        text: of a source file.
        language: one of ``BRACED_LANGUAGES``.
        max_tokens: of a piece at most.
        min_tokens: of a piece at least, where its neighbour has room.
        count: number of tokens of a text.
    """
    lines = _read_lines(text, language)
    return None if lines is None else list(_Splitter(lines, max_tokens, min_tokens, count).pack(0, len(lines), 0))


def _read_lines(text: str, language: str) -> list[_Line] | None:
    try:
        from pygments.lexers import get_lexer_by_name
        from pygments.token import Comment, String
    except ImportError:
        return None
    lines = [_Line(line) for line in text.split("\n")]
    number, begin, open_brackets = 0, 0, ""
    for offset, kind, value in get_lexer_by_name(language).get_tokens_unprocessed(text):
        is_text = kind in String or kind in Comment
        is_block = kind in String or kind in Comment.Multiline
        for found in _SIGN.finditer(value):
            sign, at = found[0], offset + found.start()
            if sign == "\n":
                lines[number].open, lines[number].continues = open_brackets, is_block and at + 1 < offset + len(value)
                number, begin = number + 1, at + 1
                lines[number].lowest = len(open_brackets)
            elif is_text:
                continue
            elif sign in _CLOSING:
                open_brackets += sign
            elif sign in ")]}":
                if not open_brackets or _CLOSING[open_brackets[-1]] != sign:
                    return None
                open_brackets = open_brackets[:-1]
                if len(open_brackets) < lines[number].lowest:
                    lines[number].lowest, lines[number].after_lowest = len(open_brackets), at + 1 - begin
    return None if open_brackets or number + 1 != len(lines) else lines


@dataclass
class _Clause:
    """A head that opens a bracket, and the lines within: ``} else {`` begins another clause."""

    head: str
    first: int
    end: int
    depth: int
    footer: str


class _Splitter:
    def __init__(self, lines: list[_Line], max_tokens: int, min_tokens: int, count: TokenCounter) -> None:
        self.lines = lines
        self._max, self._min, self._count = max_tokens, min_tokens, count

    def pack(self, first: int, end: int, depth: int, has_definitions: bool = True) -> Iterator[str]:
        """The pieces of lines[first:end], between which ``depth`` brackets are open."""
        begin, size, was_definition = first, 0, False
        for start, stop, is_block in self._units(first, end, depth):
            is_definition = is_block and has_definitions
            tokens = self._count(self._text(start, stop))
            is_new = (is_definition or was_definition) and size >= self._min
            if begin < start and (is_new or size + tokens > self._max):
                yield self._text(begin, start)
                begin, size = start, 0
            if tokens > self._max:
                yield from self._split(start, stop, depth)
                begin, size = stop, 0
            else:
                size += tokens
            was_definition = is_definition
        if begin < end:
            yield self._text(begin, end)

    def _units(self, first: int, end: int, depth: int) -> Iterator[tuple[int, int, bool]]:
        """Statements with the comments above them: first line, last line, whether it is a block."""
        start, is_block = first, False
        for number in range(first, end):
            line = self.lines[number]
            if len(line.open) > depth:
                is_block = is_block or line.open[-1] == "{"
            elif not line.continues:
                bare = line.text.strip()
                is_attached = not is_block and (not bare or bare.startswith(ATTACHED)) and number + 1 < end
                if not is_attached:
                    yield start, number + 1, is_block
                    start, is_block = number + 1, False
        if start < end:
            yield start, end, is_block

    def _split(self, first: int, end: int, depth: int) -> Iterator[str]:
        clauses = self._clauses(first, end, depth)
        if not clauses:
            yield from cut_lines(self._text(first, end), self._max, self._count)
        for clause in clauses:
            room = self._max - self._count(clause.head) - self._count(clause.footer)
            taken, size = clause.first, 0
            has_definitions = bool(_HOLDS_DEFINITIONS.search(clause.head))
            for start, stop, is_block in self._units(clause.first, clause.end, clause.depth):
                tokens = self._count(self._text(start, stop))
                if size + tokens > room or (size >= self._min and is_block and has_definitions):
                    break
                taken, size = stop, size + tokens
            text = "\n".join([clause.head, *(line.text for line in self.lines[clause.first : taken]), clause.footer])
            yield from [text] if self._count(text) <= self._max else cut_lines(text, self._max, self._count)
            yield from self.pack(taken, clause.end, clause.depth, has_definitions)

    def _clauses(self, first: int, end: int, depth: int) -> list[_Clause]:
        clauses: list[_Clause] = []
        at, base, begin = first, depth, self.lines[first].text
        while at < end:
            opening = next((n for sign in _CLOSING for n in range(at, end) if self._opens(n, base, sign)), None)
            if opening is None:
                rest = "\n".join([begin, *(line.text for line in self.lines[at + 1 : end])])
                if clauses and rest.strip(" \t\n;,)]}"):
                    clauses.append(_Clause(_without_last(rest, base - depth), end, end, base, ""))
                break
            opened = self.lines[opening].open
            stop = next((n for n in range(opening + 1, end) if self.lines[n].lowest < len(opened)), end)
            if stop == end or (stop > opening + 1 and len(self.lines[stop - 1].open) > len(opened)):
                return []  # a line that closes several blocks at once
            head = "\n".join([begin, *(line.text for line in self.lines[at + 1 : opening + 1])])
            margin = begin[: len(begin) - len(begin.lstrip())]
            line = self.lines[stop]
            if stop == end - 1 and base == depth == line.lowest:
                clauses.append(_Clause(head, opening + 1, stop, len(opened), line.text))
                break
            footer = line.text[: line.after_lowest] if base <= line.lowest else margin
            footer += "".join(_CLOSING[sign] for sign in reversed(opened[base : max(base, line.lowest)] or ""))
            if base > line.lowest:
                footer += "".join(_CLOSING[sign] for sign in reversed(opened[base:]))
            clauses.append(_Clause(head, opening + 1, stop, len(opened), footer))
            at, base, begin = stop, line.lowest, margin + line.text[line.after_lowest :].strip()
        return clauses

    def _opens(self, number: int, base: int, sign: str) -> bool:
        line = self.lines[number]
        return len(line.open) > base and line.open[-1] == sign and not line.continues

    def _text(self, first: int, end: int) -> str:
        return "\n".join(line.text for line in self.lines[first:end])


def _without_last(text: str, num: int) -> str:
    """The text without so many closing brackets at its end."""
    kept = text
    for _ in range(num):
        kept = kept.rstrip(" \t\n;,")
        if not kept.endswith((")", "]", "}")):
            return text
        kept = kept[:-1]
    return kept
