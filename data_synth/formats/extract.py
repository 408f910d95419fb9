"""What a reader gives back, and how bytes become clean text."""

import re
from collections.abc import Mapping
from typing import NamedTuple

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f\x80-\x84\x86-\x9f\ufeff\ufff9-\ufffb\ufffe\uffff]")
_BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


class UnreadableError(ValueError):
    """A file or row without usable text.

    Attributes:
        reason: a short, countable name.
        detail: what is wrong and how to fix it.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class Extract(NamedTuple):
    """The title of a file ("" if it has none) and its text.

    Attributes:
        title: of the document.
        text: of the document.
        is_markdown: tables, fences and headings in the text are Markdown's; otherwise it is plain text.
    """

    title: str
    text: str
    is_markdown: bool = False


def clean_text(text: str) -> str:
    """Normalises line ends to ``\\n`` and removes control characters, which some servers refuse.

    Raises:
        UnreadableError: the text has an unpaired surrogate, which UTF-8 cannot represent.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        detail = f"character {error.start} is an unpaired surrogate. Write the character itself, in UTF-8."
        raise UnreadableError("not_unicode", detail) from None
    return _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def marked_encoding(raw: bytes) -> str:
    """The encoding that a byte order mark names; "" without one."""
    return next((encoding for mark, encoding in _BYTE_ORDER_MARKS if raw.startswith(mark)), "")


def decode_utf8(raw: bytes) -> str:
    """The clean text of UTF-8 (or UTF-16 with its mark).

    Raises:
        UnreadableError: it is another encoding, or no text.
    """
    encoding = marked_encoding(raw) or "utf-8"
    if encoding != "utf-16" and b"\0" in raw:
        raise UnreadableError("binary", f"a NUL byte at {raw.index(0)}: not a text file.")
    try:
        return clean_text(raw.decode(encoding))
    except UnicodeDecodeError as error:
        detail = f"byte {error.start} is not {encoding}. Convert the file to UTF-8."
        raise UnreadableError("not_unicode", detail) from None


def fenced(code: str, language: str = "") -> str:
    """Program code as a Markdown block whose fence the code does not contain."""
    longest = max((len(run) for run in re.findall(r"`{3,}", code)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{code.strip(chr(10))}\n{fence}"


def table_of(rows: list[list[str]]) -> str:
    """Rows as a Markdown table whose first row is the header; "" without any text."""
    width = max(map(len, rows), default=0)
    if not any(cell.strip() for row in rows for cell in row):
        return ""
    lines = [
        "| "
        + " | ".join([" ".join(cell.split()).replace("|", "\\|") for cell in row] + [""] * (width - len(row)))
        + " |"
        for row in rows
    ]
    return "\n".join([lines[0], "|" + " --- |" * width, *lines[1:]])


def title_in(values: Mapping[str, object], *names: str) -> str:
    """The first of these values that is a text with something in it, on one line."""
    for name in names:
        value = values.get(name)
        if isinstance(value, str) and value.strip():
            return " ".join(value.split())
    return ""
