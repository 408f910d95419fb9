"""Jupyter notebooks: Markdown cells, and code cells in fences; outputs are left out."""

import json
from typing import Any

from data_synth.formats.extract import Extract, UnreadableError, clean_text, decode_utf8, fenced, title_in
from data_synth.formats.markdown import markdown_extract


def read_notebook(raw: bytes) -> Extract:
    """A notebook in the order of its cells; the title is its metadata's, or its first heading.

    Raises:
        UnreadableError: it is no notebook.
    """
    try:
        book = json.loads(decode_utf8(raw))
        metadata = book.get("metadata") or {}
        cells = book["cells"] if "cells" in book else [cell for sheet in book["worksheets"] for cell in sheet["cells"]]
        info = metadata.get("language_info") or metadata.get("kernelspec") or {}
        language = str(info.get("name" if "language_info" in metadata else "language") or "python")
        parts = [_cell(cell, language) for cell in cells]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, UnreadableError):
            raise
        raise UnreadableError("damaged", f"no notebook: {type(error).__name__}: {error}"[:300]) from None
    title, text, _ = markdown_extract("\n\n".join(part for part in parts if part.strip()))
    return Extract(clean_text(title_in(metadata, "title")) or title, text, True)


def _cell(cell: dict[str, Any], language: str) -> str:
    source = cell.get("source", cell.get("input", ""))
    text = clean_text("".join(source) if isinstance(source, list) else source)
    if cell["cell_type"] == "code":
        return fenced(text, language) if text.strip() else ""
    return f"{'#' * int(cell.get('level', 1))} {text}" if cell["cell_type"] == "heading" else text.strip("\n")
