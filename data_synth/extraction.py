"""Text extraction from files.

The suffix, never the content, selects the reader; the reader returns text or raises with the reason.
"""

from collections.abc import Callable
from pathlib import Path

from data_synth.formats.compressed import COMPRESSED_SUFFIXES, inner_suffix, read_compressed
from data_synth.formats.extract import Extract, UnreadableError, decode_utf8
from data_synth.formats.markdown import read_markdown, read_mdx
from data_synth.formats.markup import read_asciidoc, read_org, read_rst
from data_synth.formats.notebook import read_notebook
from data_synth.formats.office import read_docx, read_epub, read_odt, read_pptx
from data_synth.formats.pdf import read_pdf
from data_synth.formats.web_page import read_web_page
from data_synth.formats.xml import read_xml
from data_synth.table_rows import TABLE_FORMATS

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
    name = path.name.lower()
    suffix = inner_suffix(path)
    reader = _READERS.get(suffix)
    if reader is None:
        known = ", ".join(sorted({*_READERS, *TABLE_FORMATS}))
        raise UnreadableError(
            "unknown_suffix", f"{suffix or 'no suffix'}. Read are {known}; all of them also as .gz or .zst."
        )
    if path.stat().st_size > max_bytes:
        raise UnreadableError("file_too_large", f"{path.stat().st_size} bytes, max_file_bytes is {max_bytes}.")
    return reader(read_compressed(path, max_bytes) if name.endswith(COMPRESSED_SUFFIXES) else path.read_bytes())


def _plain(raw: bytes) -> Extract:
    return Extract("", decode_utf8(raw))


_READERS: dict[str, Callable[[bytes], Extract]] = {
    ".txt": _plain, ".text": _plain, ".rst": read_rst, ".md": read_markdown, ".markdown": read_markdown,
    ".mdx": read_mdx, ".adoc": read_asciidoc, ".asciidoc": read_asciidoc, ".org": read_org, ".xml": read_xml,
    ".ipynb": read_notebook, ".docx": read_docx, ".pptx": read_pptx, ".epub": read_epub, ".odt": read_odt,
    ".odp": read_odt, ".html": read_web_page, ".htm": read_web_page, ".xhtml": read_web_page, ".pdf": read_pdf,
    **dict.fromkeys(CODE_LANGUAGES, _plain),
}  # fmt: skip
