"""Python source in pieces that parse: by its syntax tree, never inside a statement, docstring or bracket.

What cannot stand alone gets the least that it needs: an ``except`` clause a ``try`` with an ellipsis, the part of a
long docstring its quotes, a class without its first method an ellipsis.
"""

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from data_synth.definitions import cut_lines
from data_synth.sentences import split_sentences
from data_synth.tokens import TokenCounter, cut_anywhere

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_CONTEXTS = {"elif": "if ...:\n    ...\n", "else": "if ...:\n    ...\n"}
_CONTEXTS |= dict.fromkeys(("except", "finally"), "try:\n    ...\n")
_STRING = re.compile(r"([rRuU]?)(\"\"\"|''')(.*)\2", re.DOTALL)
_LISTED = re.compile(r"(?<=\n)(?=[ \t]*(?::\w|[-*] |\d+\. |\.\. ))")


@dataclass(frozen=True)
class _Unit:
    """Statements that stand on lines of their own, with the comments above: lines[first:end]."""

    first: int
    end: int
    nodes: tuple[ast.stmt, ...]


def python_pieces(text: str, max_tokens: int, min_tokens: int, count: TokenCounter) -> list[str] | None:
    """Pieces of Python source, each of which parses; None if the source does not.

    Args:
        text: of a module.
        max_tokens: of a piece at most.
        min_tokens: of a piece at least, where its neighbour has room.
        count: number of tokens of a text.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    splitter = _Splitter(text.split("\n"), max_tokens, min_tokens, count)
    try:
        return list(splitter.suite(tree.body, 0, len(splitter.lines)))
    except RecursionError:
        return None


class _Splitter:
    def __init__(self, lines: list[str], max_tokens: int, min_tokens: int, count: TokenCounter) -> None:
        self.lines = lines
        self._max, self._min, self._count = max_tokens, min_tokens, count

    def suite(self, body: list[ast.stmt], first: int, end: int) -> Iterator[str]:
        """The pieces of statements that stand below one another on lines[first:end]."""
        yield from self._pack(self._units(body, first, end))

    def _pack(self, units: list[_Unit]) -> Iterator[str]:
        current: list[_Unit] = []
        size = 0
        for unit in units:
            tokens = self._count(self._text(unit.first, unit.end))
            begins = _defines(unit) or (bool(current) and _defines(current[-1]))
            if current and (size + tokens > self._max or (begins and size >= self._min)):
                yield self._text(current[0].first, current[-1].end)
                current, size = [], 0
            if tokens > self._max:
                yield from self._split(unit)
            else:
                current.append(unit)
                size += tokens
        if current:
            yield self._text(current[0].first, current[-1].end)

    def _units(self, body: list[ast.stmt], first: int, end: int) -> list[_Unit]:
        units: list[_Unit] = []
        for node in body:
            begin, last = _first_line(node), node.end_lineno or node.lineno
            if units and begin < units[-1].end:  # "a = 1; b = 2"
                previous = units.pop()
                units.append(_Unit(previous.first, max(previous.end, last), (*previous.nodes, node)))
            else:
                units.append(_Unit(units[-1].end if units else first, last, (node,)))
        if not units:  # comments alone
            return [_Unit(first, end, ())] if any(line.strip() for line in self.lines[first:end]) else []
        units[-1] = _Unit(units[-1].first, end, units[-1].nodes)
        return units

    def _split(self, unit: _Unit) -> Iterator[str]:
        node = unit.nodes[0] if len(unit.nodes) == 1 else None
        suites = [] if node is None else _suites(node, self.lines)
        if node is not None and suites and all(self._stands_below(body) for body in suites):
            yield from self._split_compound(unit, node, suites)
        elif node is not None and (parts := self._string_parts(unit, node, self._max)):
            yield from parts
        elif node is not None and (elements := self._elements(unit, node)):
            yield from elements
        else:
            yield from cut_lines(self._text(unit.first, unit.end), self._max, self._count)

    def _split_compound(self, unit: _Unit, node: ast.stmt, suites: list[list[ast.stmt]]) -> Iterator[str]:
        starts = [unit.first] + [_last_line(body) for body in suites[:-1]]
        ends = [_last_line(body) for body in suites[:-1]] + [unit.end]
        for number, (body, start, end) in enumerate(zip(suites, starts, ends, strict=True)):
            begin = _first_line(body[0])
            while begin > start and self.lines[begin - 1].lstrip().startswith("#"):
                begin -= 1
            header = self._text(start, begin)
            if not number and self._count(header) > self._max - self._max // 4:
                yield from self._decorators(start, node)
                header = self._text(node.lineno - 1, begin)
            if number and isinstance(node, ast.Match):
                header = self._text(node.lineno - 1, node.cases[0].pattern.lineno - 1) + header
                header = "\n".join(line for line in header.split("\n") if line.strip())
            elif number:
                word = re.match(r"(?:\s|#.*\n)*(\w+)", header)
                header = _CONTEXTS.get(word[1] if word else "", "") + _dedented(header.strip("\n"), header)
            footer = "\nfinally:\n    ..." if not number and isinstance(node, ast.Try | ast.TryStar) else ""
            yield from self._clause(header, footer, self._units(body, begin, end))

    def _decorators(self, start: int, node: ast.stmt) -> Iterator[str]:
        """The decorators of a definition whose head is longer than a passage, above a stub of its name."""
        decorators = getattr(node, "decorator_list", [])
        stub = (
            f"class {node.name}: ..." if isinstance(node, ast.ClassDef) else f"def {getattr(node, 'name', '_')}(): ..."
        )
        bounds = [start, *(decorator.lineno - 1 for decorator in decorators[1:]), node.lineno - 1]
        current, size = "", self._count(stub)
        for first, end in pairwise(bounds if decorators else []):
            text = self._text(first, end)
            if current and size + self._count(text) > self._max:
                yield current + stub
                current, size = "", self._count(stub)
            current, size = f"{current}{text}\n", size + self._count(text)
        yield from self._fitting(current + stub) if current else ()

    def _clause(self, header: str, footer: str, units: list[_Unit]) -> Iterator[str]:
        """The header with as much of its body as fits, then the rest of the body."""
        header = header.rstrip() + "\n"
        room = self._max - self._count(header) - self._count(footer)
        if room < self._max // 4:  # a signature like a table
            yield from self._fitting(f"{header}    ...{footer}")
            yield from self._pack(units)
            return
        taken, size = 0, 0
        for unit in units:
            tokens = self._count(self._text(unit.first, unit.end))
            if size + tokens > room or (taken and _defines(unit) and size >= self._min):
                break
            taken, size = taken + 1, size + tokens
        rest: list[str] = []
        if taken:
            inner = self._text(units[0].first, units[taken - 1].end)
        elif parts := self._string_parts(units[0], units[0].nodes[0], room):
            inner, rest, taken = parts[0], parts[1:], 1
        else:
            inner = "..."
        yield header + _indented(inner) + footer
        yield from rest
        yield from self._pack(units[taken:])

    def _string_parts(self, unit: _Unit, node: ast.stmt, room: int) -> list[str]:
        """The paragraphs of a docstring, each part in quotes of its own; none if the statement is no such string."""
        is_string = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        written = _STRING.fullmatch(self._text(unit.first, unit.end).strip()) if is_string else None
        if written is None or written[2] in written[3]:
            return []
        prefix, quotes, content = written.groups()
        room = max(1, room - self._count(prefix + quotes * 2))
        parts: list[str] = []
        current, size = "", 0
        for piece in self._paragraphs(content, room):
            tokens = self._count(piece)
            if current.strip() and size + tokens > room:
                parts.append(current)
                current, size = "", 0
            current, size = current + piece, size + tokens
        parts += [current] if current.strip() else []
        return [f"{prefix}{quotes}{_closed(_dedented(part, part))}{quotes}" for part in parts]

    def _paragraphs(self, content: str, room: int) -> Iterator[str]:
        for paragraph in re.split(r"(?<=\n)(?=[ \t]*\n)", content):
            if self._count(paragraph) <= room:
                yield paragraph
                continue
            for entry in _LISTED.split(paragraph):
                if self._count(entry) <= room:
                    yield entry
                else:
                    for sentence in split_sentences(entry):
                        yield from cut_anywhere(sentence, room, self._count)

    def _elements(self, unit: _Unit, node: ast.stmt) -> list[str]:
        """The entries of a long list, dictionary or call in brackets of their own; none if they share lines."""
        value = getattr(node, "value", None)
        if isinstance(value, ast.Dict):
            entries: list[ast.expr | ast.keyword] = [
                key or item for key, item in zip(value.keys, value.values, strict=True)
            ]
        elif isinstance(value, ast.List | ast.Tuple | ast.Set):
            entries = list(value.elts)
        elif isinstance(value, ast.Call):
            entries = [*value.args, *value.keywords]
        else:
            return []
        firsts = [entry.lineno - 1 for entry in entries]
        ends_on = (value.end_lineno or value.lineno) - 1
        alone = all(not self.lines[entry.lineno - 1].encode()[: entry.col_offset].strip(b" \t*") for entry in entries)
        if (
            len(entries) < 2
            or not alone
            or len(set(firsts)) < len(firsts)
            or self.lines[ends_on].strip()[:1] not in ")]}"
        ):
            return []
        head, tail = self._text(unit.first, firsts[0]), self._text(ends_on, unit.end)
        opening = head.rstrip()[-1:]
        if opening not in "([{" or not opening:
            return []
        again = "dict(" if any(isinstance(entry, ast.keyword) for entry in entries) else opening
        closing = {"(": ")", "[": "]", "{": "}"}[opening]
        bounds = [*firsts, ends_on]
        pieces, current, size = list[str](), "", 0
        for begin, end in pairwise(bounds):
            text = "\n".join(self.lines[begin:end])
            tokens = self._count(text)
            if tokens + self._count(head) + self._count(tail) > self._max:
                return []
            if current and size + tokens + self._count(head) + self._count(tail) > self._max:
                pieces.append(current)
                current, size = "", 0
            current, size = current + text + "\n", size + tokens
        pieces.append(current)
        rest = [f"{again}\n{_indented(_dedented(piece, piece))}\n{closing}" for piece in pieces[1:]]
        return [f"{head.rstrip()}\n{_indented(_dedented(pieces[0], pieces[0]))}\n{tail.strip()}", *rest]

    def _fitting(self, text: str) -> Iterator[str]:
        if self._count(text) <= self._max:
            yield text
        else:
            yield from cut_lines(text, self._max, self._count)

    def _stands_below(self, body: list[ast.stmt]) -> bool:
        """Whether the suite begins on a line of its own, unlike ``if x: return``."""
        node = body[0]
        return not self.lines[node.lineno - 1].encode()[: node.col_offset].strip(b" \t@")

    def _text(self, first: int, end: int) -> str:
        text = "\n".join(self.lines[first:end])
        return _dedented(text, text).strip("\n").rstrip()


def _suites(node: ast.AST, lines: list[str]) -> list[list[ast.stmt]]:
    """The bodies of a compound statement, in order; those of ``elif`` too."""
    bodies: list[list[ast.stmt]] = [getattr(node, "body", [])]
    bodies += [part.body for part in (*getattr(node, "handlers", ()), *getattr(node, "cases", ()))]
    otherwise = getattr(node, "orelse", [])
    if len(otherwise) == 1 and isinstance(otherwise[0], ast.If) and _is_elif(otherwise[0], lines):
        bodies += _suites(otherwise[0], lines)
    else:
        bodies.append(otherwise)
    bodies.append(getattr(node, "finalbody", []))
    return [body for body in bodies if body and isinstance(body[0], ast.stmt)]


def _is_elif(node: ast.If, lines: list[str]) -> bool:
    return lines[node.lineno - 1][node.col_offset :].startswith("elif")


def _defines(unit: _Unit) -> bool:
    return any(isinstance(node, _DEFINITIONS) for node in unit.nodes)


def _first_line(node: ast.stmt) -> int:
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)]) - 1


def _last_line(body: list[ast.stmt]) -> int:
    return body[-1].end_lineno or body[-1].lineno


def _dedented(text: str, model: str) -> str:
    """Without the indentation of the model's first statement; a string's lines may be indented less."""
    code = [line for line in model.split("\n") if line.strip()]
    first = next((line for line in code if not line.lstrip().startswith("#")), code[0] if code else "")
    margin = first[: len(first) - len(first.lstrip())]
    return "\n".join(line.removeprefix(margin) if line.startswith(margin) else line for line in text.split("\n"))


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line.strip() else line for line in text.strip("\n").rstrip().split("\n"))


def _closed(part: str) -> str:
    part = part.strip("\n").rstrip()
    return part + "\n" if part.endswith(("\\", '"', "'")) else part
