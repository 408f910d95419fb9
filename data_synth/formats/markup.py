"""Org, AsciiDoc and reStructuredText: headings, code and titles, as Markdown."""

import re
import textwrap
from collections.abc import Callable

from data_synth.formats.extract import Extract, decode_utf8, fenced, table_of

_ORG_BLOCK = re.compile(
    r"^[ \t]*#\+begin_(?:src|example)[ \t]*(\S*)[^\n]*\n(.*?)^[ \t]*#\+end_\w+[ \t]*$", re.I | re.M | re.S
)
_ORG_DRAWER = re.compile(r"^[ \t]*:(?:PROPERTIES|LOGBOOK):[ \t]*\n.*?^[ \t]*:END:[ \t]*\n", re.I | re.M | re.S)
_ADOC_BLOCK = re.compile(
    r"^(?:\[(?:source)?,?[ \t]*(\w*)[^\]\n]*\]\n)?(-{4,}|\.{4,})[ \t]*\n(.*?)^\2[ \t]*$", re.M | re.S
)
_ADOC_TABLE = re.compile(r"^(?:\[[^\]\n]*\]\n)?\|={3,}[ \t]*\n(.*?)^\|={3,}[ \t]*$", re.M | re.S)
_RST_HEADING = re.compile(
    r"^(?:([=\-`:.'\"~^_*+#])\1{2,}[ \t]*\n[ \t]*)?(\S[^\n]*)\n([=\-`:.'\"~^_*+#])\3{2,}[ \t]*$", re.M
)
_RST_CODE = re.compile(
    r"^(?:([ \t]*)\.\.[ \t]+(?:code|code-block|sourcecode|parsed-literal)::[ \t]*(\S*)[ \t]*\n(?:\1[ \t]+:[^\n]*\n)*"
    r"|([ \t]*)(?!\.\. )(\S[^\n]*)::[ \t]*\n)(\n+)((?:(?:(?:\1|\3)[ \t]+\S[^\n]*)?\n)+)",
    re.M,
)


def read_org(raw: bytes) -> Extract:
    """Org: ``#+title``, stars, source blocks."""
    text = _ORG_DRAWER.sub("", decode_utf8(raw))
    title = re.search(r"^#\+title:[ \t]*(.+)$", text, re.I | re.M)
    text = _outside_fences(_ORG_BLOCK.sub(lambda found: fenced(textwrap.dedent(found[2]), found[1]), text), _org_line)
    first = re.search(r"^# (.+)$", text, re.M)
    return Extract(title[1].strip() if title else first[1] if first else "", text.strip("\n"), True)


def read_asciidoc(raw: bytes) -> Extract:
    """AsciiDoc: equals signs, listings, tables in rows."""
    text = _ADOC_BLOCK.sub(lambda found: fenced(found[3], found[1] or ""), decode_utf8(raw))
    text = _ADOC_TABLE.sub(lambda found: _adoc_table(found[1]), text)
    text = _outside_fences(text, _adoc_line)
    first = re.search(r"^# (.+)$", text, re.M)
    return Extract(first[1].strip() if first else "", text.strip("\n"), True)


def read_rst(raw: bytes) -> Extract:
    """reStructuredText: adorned headings, literal blocks."""
    levels: list[str] = []

    def heading(found: re.Match[str]) -> str:
        over, title, under = found.groups()
        if (over and over != under) or len(title.strip()) > 150 or set(title.strip()) <= set("=-+~^ "):
            return found[0]
        key = (over or "") + under
        if key not in levels:
            levels.append(key)
        return f"{'#' * min(6, levels.index(key) + 1)} {title.strip()}\n"

    def code(found: re.Match[str]) -> str:
        lead = f"{found[3] or ''}{found[4]}:\n\n" if found[4] else ""
        return f"{lead}{fenced(textwrap.dedent(found[6]).rstrip(), found[2] or '')}\n\n"

    text = _RST_CODE.sub(code, _RST_HEADING.sub(heading, decode_utf8(raw) + "\n"))
    first = re.search(r"^# (.+)$", text, re.M)
    return Extract(first[1] if first else "", text.strip("\n"), True)


def _outside_fences(text: str, change: Callable[[str], str | None]) -> str:
    lines, fence = list[str](), ""
    for line in text.split("\n"):
        mark = re.match(r"`{3,}", line)
        if mark and (not fence or line.strip() == fence):
            fence = "" if fence else mark[0]
            lines.append(line)
        elif fence:
            lines.append(line)
        elif (changed := change(line)) is not None:
            lines.append(changed)
    return "\n".join(lines)


def _org_line(line: str) -> str | None:
    if found := re.match(r"(\*+)[ \t]+(?:(?:TODO|DONE)[ \t]+)?(.+?)(?:[ \t]+:[\w@:]+:)?[ \t]*$", line):
        return f"{'#' * min(6, len(found[1]))} {found[2]}"
    if re.match(r"[ \t]*#(?:\+\w+:|[ \t]|$)", line):
        return None
    return re.sub(r"\+(?=-)|(?<=-)\+", "|", line) if re.match(r"[ \t]*\|[-+]+\|?[ \t]*$", line) else line


def _adoc_line(line: str) -> str | None:
    if found := re.match(r"(={1,6})[ \t]+(.+?)(?:[ \t]+=+)?[ \t]*$", line):
        return f"{'#' * len(found[1])} {found[2]}"
    return None if re.match(r":[\w!-]+:|//", line) or re.fullmatch(r"\[[\w#.,=%\" -]*\][ \t]*", line) else line


def _adoc_table(body: str) -> str:
    lines = [line for line in body.split("\n") if line.strip()]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:]] for line in lines if line.startswith("|")]
    if rows and all(len(row) == 1 for row in rows[1:]) and len(rows[0]) > 1:  # a cell a line below the header
        cells, width = [row[0] for row in rows[1:]], len(rows[0])
        rows = [rows[0], *(cells[at : at + width] for at in range(0, len(cells), width))]
    return table_of(rows)
