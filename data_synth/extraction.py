"""Text extraction from files.

The suffix, never the content, selects the reader; the reader returns text or raises with the reason.
"""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

CODE_LANGUAGES = {
    ".bash": "bash", ".c": "c", ".cc": "cpp", ".clj": "clojure", ".cpp": "cpp", ".cs": "csharp", ".cxx": "cpp",
    ".dart": "dart", ".ex": "elixir", ".exs": "elixir", ".go": "go", ".h": "c", ".hpp": "cpp", ".hs": "haskell",
    ".java": "java", ".jl": "julia", ".js": "javascript", ".jsx": "javascript", ".kt": "kotlin", ".lua": "lua",
    ".m": "matlab", ".ml": "ocaml", ".php": "php", ".pl": "perl", ".ps1": "powershell", ".py": "python", ".r": "r",
    ".rb": "ruby", ".rs": "rust", ".scala": "scala", ".sh": "bash", ".sql": "sql", ".swift": "swift",
    ".ts": "typescript", ".tsx": "typescript",
}  # fmt: skip
"""Suffix -> programming language."""

_SKIPPED_TAGS = frozenset(
    {"script", "style", "noscript", "template", "svg", "nav", "footer", "head", "iframe", "object"}
)
_BLOCKS = """
    address article aside blockquote br dd div dl dt fieldset figcaption figure form h1 h2 h3 h4 h5 h6 header hr li
    main ol p pre section table td th tr ul
"""
_BLOCK_TAGS = frozenset(_BLOCKS.split())
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
    """The title of a file ("" if it has none) and its text."""

    title: str
    text: str


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


def extract_file(path: Path, max_bytes: int) -> Extract:
    """Title and text of a file with one document.

    Raises:
        UnreadableError: unknown suffix, too large, damaged or not text.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        known = ", ".join(sorted({*_READERS, ".jsonl", ".jsonl.gz", ".parquet"}))
        raise UnreadableError("unknown_suffix", f"{path.suffix or 'no suffix'}. Read are {known}.")
    if path.stat().st_size > max_bytes:
        raise UnreadableError("file_too_large", f"{path.stat().st_size} bytes, max_file_bytes is {max_bytes}.")
    return reader(path)


def _plain(path: Path) -> Extract:
    return Extract("", clean_text(_decode(path.read_bytes())))


def _markdown(path: Path) -> Extract:
    text = clean_text(_decode(path.read_bytes()))
    if text.startswith("---\n") and (end := text.find("\n---\n", 3)) > 0:  # front matter of static site generators
        text = text[end + 5 :]
    heading = re.search(r"^#[ \t]+(.+?)[ \t]*#*$", text, re.MULTILINE)
    return Extract(heading[1] if heading else "", text)


def _html(path: Path) -> Extract:
    parser = _TextParser()
    parser.feed(clean_text(_decode(path.read_bytes())))
    parser.close()
    text = re.sub(r"[ \t]*\n[ \t]*", "\n", re.sub(r"[ \t]+", " ", clean_text("".join(parser.parts))))
    title = " ".join(clean_text("".join(parser.title)).split())
    return Extract(title, re.sub(r"\n{3,}", "\n\n", text).strip())


def _pdf(path: Path) -> Extract:
    try:
        from pypdf import PdfReader
    except ImportError:
        raise UnreadableError("no_pdf_reader", "install the extra: pip install 'qwen3emb-train[synth]'.") from None
    try:
        pages = PdfReader(path).pages
        text = "\n\n".join(page.extract_text() for page in pages)
    except Exception as error:  # pypdf raises many types for a broken file
        raise UnreadableError("broken_pdf", f"{type(error).__name__}: {error}"[:300]) from None
    # Broken font tables give surrogates; the rest of the file is still usable.
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "ignore")
    return Extract("", clean_text(re.sub(r"(?<=\w)-\n(?=[a-z])", "", text)))


def _decode(raw: bytes) -> str:
    encoding = next((encoding for mark, encoding in _BYTE_ORDER_MARKS if raw.startswith(mark)), "utf-8")
    if encoding != "utf-16" and b"\0" in raw:
        raise UnreadableError("binary", f"a NUL byte at {raw.index(0)}: not a text file.")
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        detail = f"byte {error.start} is not {encoding}. Convert the file to UTF-8."
        raise UnreadableError("not_unicode", detail) from None


class _TextParser(HTMLParser):
    """Visible text, block elements on separate lines, headings marked so that passages begin there."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.title: list[str] = []
        self._skipped: list[str] = []
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_title = tag == "title"
        if tag in _SKIPPED_TAGS:
            self._skipped.append(tag)
        elif tag in _BLOCK_TAGS:
            self.parts.append("\n" if tag in ("br", "li", "tr", "dd", "dt") else "\n\n")
            if tag[0] == "h" and tag[1:].isdigit():
                self.parts.append("#" * int(tag[1:]) + " ")
        elif tag == "body":
            self._skipped.clear()  # an unclosed head must not hide the page

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        if tag in self._skipped:
            del self._skipped[self._skipped.index(tag) :]
        elif tag in _BLOCK_TAGS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title.append(data)
        elif not self._skipped:
            self.parts.append(data)


_READERS: dict[str, Callable[[Path], Extract]] = {
    ".txt": _plain, ".text": _plain, ".rst": _plain, ".md": _markdown, ".markdown": _markdown,
    ".html": _html, ".htm": _html, ".xhtml": _html, ".pdf": _pdf, **dict.fromkeys(CODE_LANGUAGES, _plain),
}  # fmt: skip
