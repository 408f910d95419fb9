"""Text extraction from files.

The suffix, never the content, selects the reader; the reader returns text or raises with the reason.
"""

from collections.abc import Callable
from pathlib import Path

from data_synth.formats.extract import Extract, UnreadableError, decode_utf8
from data_synth.formats.markdown import read_markdown, read_mdx
from data_synth.formats.pdf import read_pdf
from data_synth.formats.web_page import read_web_page

CODE_LANGUAGES = {
    ".bash": "bash", ".c": "c", ".cc": "cpp", ".clj": "clojure", ".cpp": "cpp", ".cs": "csharp", ".cxx": "cpp",
    ".dart": "dart", ".ex": "elixir", ".exs": "elixir", ".go": "go", ".h": "c", ".hpp": "cpp", ".hs": "haskell",
    ".java": "java", ".jl": "julia", ".js": "javascript", ".jsx": "javascript", ".kt": "kotlin", ".lua": "lua",
    ".m": "matlab", ".ml": "ocaml", ".php": "php", ".pl": "perl", ".ps1": "powershell", ".py": "python", ".r": "r",
    ".rb": "ruby", ".rs": "rust", ".scala": "scala", ".sh": "bash", ".sql": "sql", ".swift": "swift",
    ".ts": "typescript", ".tsx": "typescript",
}  # fmt: skip
"""Suffix -> programming language."""


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
    return reader(path.read_bytes())


def _plain(raw: bytes) -> Extract:
    return Extract("", decode_utf8(raw))


_READERS: dict[str, Callable[[bytes], Extract]] = {
    ".txt": _plain, ".text": _plain, ".rst": _plain, ".md": read_markdown, ".markdown": read_markdown, ".mdx": read_mdx,
    ".html": read_web_page, ".htm": read_web_page, ".xhtml": read_web_page, ".pdf": read_pdf,
    **dict.fromkeys(CODE_LANGUAGES, _plain),
}  # fmt: skip
