"""Splitting a document into passages: at section and sentence ends, code at its definitions.

A passage is filled with whole sentences up to a number of tokens. Tokens are estimated by a plain rule, the same on
every machine, or counted by a tokenizer of the user's choice.
"""

import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

TokenCounter = Callable[[str], int]

_PIECE = re.compile(r"\w+|[^\w\s]")
_BYTES_PER_TOKEN = 6  # of a word's UTF-8: one token for most English words, near two thirds for a Han character
_SECTION = re.compile(r"\n(?=#{1,6}[ \t]+\S)|\n(?=[^\n]{1,120}\n(?:={3,}|-{3,})[ \t]*\n)")
_PARAGRAPH = re.compile(r"(?<=\n)[ \t]*\n+")
# Latin stops need white space and something that can begin a sentence after them ("3.5", "e.g. this" do not end one);
# Han, Arabic, Indic, Armenian, Ethiopic and Khmer stops end a sentence by themselves.
_SENTENCE = re.compile(r"(?<=[.!?…])[\"'»”’)\]]*\s+(?=[^\sa-z])|(?<=[。！？｡])(?=[^」』”’）])|(?<=[؟۔।॥։።។])\s*")
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
_ATTACHED = ("@", "#", "//", "/*", "*", "--", "template")  # lines above a definition that belong to it


def estimate_tokens(text: str) -> int:
    """A deterministic estimate of the number of tokens: one per six bytes of a word, rounded up, one per other sign."""
    return sum(-(-len(piece.encode("utf-8", "surrogatepass")) // _BYTES_PER_TOKEN) for piece in _PIECE.findall(text))


def load_token_counter(directory: str | None) -> TokenCounter:
    """``estimate_tokens``, or the count of the tokenizer in a directory (``tokenizer.json``).

    Raises:
        FileNotFoundError: where the directory has no ``tokenizer.json``.
    """
    if directory is None:
        return estimate_tokens
    path = Path(directory) / "tokenizer.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. tokenizer names a directory with a fast tokenizer.")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def chunk_text(text: str, max_tokens: int, min_tokens: int, count: TokenCounter = estimate_tokens) -> list[str]:
    """Splits prose into passages at section and sentence ends.

    A section begins a new passage unless the text before it is shorter than ``min_tokens``. The tokens of a passage
    are the sum of its sentences' tokens, which is exact for the estimate.

    Args:
        text: of a document.
        max_tokens: of a passage at most.
        min_tokens: of a passage at least; only the last one may be shorter.
        count: number of tokens of a text.
    """
    chunks: list[str] = []
    current: list[str] = []
    size = 0
    for section in _SECTION.split(text):
        if size >= min_tokens:
            _close(chunks, current)
            size = 0
        for sentence in _sentences(section):
            for part in _cut(sentence, max_tokens, count):
                tokens = count(part)
                if current and size + tokens > max_tokens:
                    _close(chunks, current)
                    size = 0
                current.append(part)
                size += tokens
        if current:
            current.append("\n")
    _close(chunks, current)
    return _join_short_tail(chunks, max_tokens, min_tokens, count)


def chunk_code(text: str, max_tokens: int, min_tokens: int, count: TokenCounter = estimate_tokens) -> list[str]:
    """Splits program code into passages: one per definition with the comments above it.

    Args:
        text: of a source file.
        max_tokens: of a passage at most; a longer definition is split at blank lines.
        min_tokens: a shorter definition is joined to the next one.
        count: number of tokens of a text.
    """
    chunks: list[str] = []
    current, size = "", 0
    for definition in _definitions(text):
        tokens = count(definition)
        if current and (size >= min_tokens or size + tokens > max_tokens):
            chunks.extend(_cut_code(current, max_tokens, count))
            current, size = "", 0
        current, size = current + definition, size + tokens
    chunks.extend(_cut_code(current, max_tokens, count))
    return [shown for chunk in chunks if (shown := textwrap.dedent(chunk).strip("\n").rstrip())]


def _close(chunks: list[str], parts: list[str]) -> None:
    text = "".join(parts).strip()
    if text:
        chunks.append(text)
    parts.clear()


def _join_short_tail(chunks: list[str], max_tokens: int, min_tokens: int, count: TokenCounter) -> list[str]:
    if len(chunks) > 1 and count(chunks[-1]) < min_tokens and count(chunks[-2]) + count(chunks[-1]) <= max_tokens:
        tail = chunks.pop()
        chunks[-1] += "\n\n" + tail
    return chunks


def _sentences(section: str) -> Iterator[str]:
    """Sentences with the white space after them, so that joining them gives the section back."""
    for paragraph in _split_keeping(_PARAGRAPH, section):
        yield from _split_keeping(_SENTENCE, paragraph)


def sentences(text: str) -> list[str]:
    """The sentences of a text, without the white space around them."""
    return [stripped for sentence in _sentences(text) if (stripped := " ".join(sentence.split()))]


def _split_keeping(separator: re.Pattern[str], text: str) -> Iterator[str]:
    start = 0
    for match in separator.finditer(text):
        if match.end() > start:
            yield text[start : match.end()]
            start = match.end()
    if start < len(text):
        yield text[start:]


def _cut(sentence: str, max_tokens: int, count: TokenCounter) -> Iterator[str]:
    """Splits a sentence longer than a passage at white space, or in the middle if it has none."""
    pending = [sentence]
    while pending:
        part = pending.pop()
        if count(part) <= max_tokens or len(part) < 2:
            yield part
            continue
        middle = len(part) // 2
        space = max(part.rfind(" ", 1, middle), part.rfind("\n", 1, middle))
        at = space + 1 if space > middle // 2 else middle
        pending += [part[at:], part[:at]]


def _definitions(text: str) -> Iterator[str]:
    lines = text.splitlines(keepends=True)
    starts = [0]
    for number, line in enumerate(lines):
        if _begins_definition(line, lines[number + 1] if number + 1 < len(lines) else ""):
            start = number
            while start > starts[-1] + 1 and lines[start - 1].strip().startswith(_ATTACHED):
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


def _cut_code(code: str, max_tokens: int, count: TokenCounter) -> Iterator[str]:
    """At blank lines, then at line ends, then anywhere."""
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
                yield from _cut(line, max_tokens, count)
