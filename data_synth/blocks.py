"""The blocks of a text: headings, prose, tables and code, as a Markdown parser finds them.

Their texts, joined, are the text: nothing is left out or written anew.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from data_synth.tokens import TokenCounter, cut_anywhere

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

_MAY_HAVE_BLOCKS = re.compile(
    r"^[ \t>*+\-\d.)]*(?:```|~~~|#{1,6}(?:[ \t]|$)|.*\|)|^(?:={3,}|-{3,})[ \t]*$|^ {4}|^\t", re.M
)


class Block(NamedTuple):
    """A part of a text.

    Attributes:
        kind: "heading", "prose", "table" or "code".
        text: its lines, with the blank lines after them.
        level: of a heading, 1 to 6; of a table, the number of lines of its header; of code, 1 if it has fences.
    """

    kind: str
    text: str
    level: int = 0


def markdown_blocks(text: str, is_markdown: bool = True) -> list[Block]:
    """The blocks of a text in their order.

    Args:
        text: Markdown, or plain text, in which Markdown's headings, fences and tables are seen too.
        is_markdown: indented lines are code. In plain text they are paragraphs.
    """
    if not _MAY_HAVE_BLOCKS.search(text):  # most rows of tables; parsing takes longer than everything else
        return [Block("prose", text)] if text else []
    lines = re.split(r"(?<=\n)", text)
    blocks: list[Block] = []
    at = 0
    for kind, first, end, level in _found(text, is_markdown):
        if first < at:  # inside one that was found before
            continue
        if first > at:
            blocks.append(Block("prose", "".join(lines[at:first])))
        while end < len(lines) and not lines[end].strip():
            end += 1
        blocks.append(Block(kind, "".join(lines[first:end]), level))
        at = end
    if rest := "".join(lines[at:]):
        blocks.append(Block("prose", rest))
    return [block for block in blocks if block.text]


def inline_text(heading: str) -> str:
    """The words of a heading's Markdown: without hashes, emphasis, links and tags."""
    inline = [token for token in _parser(True).parse(heading.strip()) if token.type == "inline"]
    parts = inline[0].children or [] if inline else []
    shown = "".join(part.content for part in parts if part.type in ("text", "code_inline", "text_special"))
    return re.sub(r"\s*\{#[\w-]+\}$", "", " ".join(shown.split()))


def _found(text: str, is_markdown: bool) -> Iterator[tuple[str, int, int, int]]:
    for token in _parser(False).parse(text):
        if token.map is None:
            continue
        first, end = token.map
        if token.type == "heading_open" and not token.level:
            yield "heading", first, end, int(token.tag[1])
        elif token.type == "table_open":
            yield "table", first, end, 2
        elif token.type == "fence":
            yield "code", first, end, 1
        elif token.type == "code_block" and is_markdown:
            yield "code", first, end, 0


@cache
def _parser(reads_inlines: bool) -> "MarkdownIt":
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark").enable("table")
    return parser if reads_inlines else parser.disable(["inline", "text_join"])  # blocks alone take linear time


def split_block(block: Block, first_room: int, max_tokens: int, count: TokenCounter) -> Iterator[str]:
    """A long table or code block in pieces: whole lines, each under the table's header or between fences.

    Args:
        block: longer than a passage.
        first_room: tokens of the first piece at most.
        max_tokens: tokens of every other piece at most.
        count: number of tokens of a text.
    """
    lines = re.split(r"(?<=\n)", block.text.rstrip() + "\n")[:-1]
    head, body, foot = _frame(block, lines)
    frame = count(head) + count(foot)
    if frame > max_tokens - max_tokens // 4:  # a header so long leaves no room for rows
        head, body, foot, frame = "", lines, "", 0
    room, current, size = first_room, list[str](), 0
    for line in body:
        tokens = count(line)
        if current and frame + size + tokens > room:
            yield _framed(head, current, foot)
            room, current, size = max_tokens, [], 0
        for part in cut_anywhere(line, max_tokens - frame, count):
            if current and part is not line:
                yield _framed(head, current, foot)
                current, size = [], 0
            current.append(part)
            size += count(part)
    if current:
        yield _framed(head, current, foot)


def _frame(block: Block, lines: list[str]) -> tuple[str, list[str], str]:
    """What stands before and after each piece, and the lines between."""
    if block.kind == "table":
        return "".join(lines[: block.level]), lines[block.level :], ""
    if not block.level:
        return "", lines, ""
    marker = re.match(r"[ \t>*+\-\d.)]*?(`{3,}|~{3,})", lines[0])
    if marker is None:
        return "", lines, ""
    indent = " " * marker.start(1)
    is_closed = len(lines) > 1 and lines[-1].strip(" \t>\n").startswith(marker[1])
    return lines[0], lines[1:-1] if is_closed else lines[1:], f"{indent}{marker[1]}\n"


def _framed(head: str, lines: list[str], foot: str) -> str:
    text = "".join(lines)
    return head + (text if text.endswith("\n") or not foot else text + "\n") + foot
