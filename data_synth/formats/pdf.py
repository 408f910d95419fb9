"""PDF: the text of its pages without running heads, feet and page numbers."""

import io
import re
from collections import Counter
from collections.abc import Sequence

from data_synth.formats.extract import Extract, UnreadableError, clean_text

_EDGE = 4  # lines at the top and bottom of a page where running heads stand
_MIN_SHARE = 0.4  # of the pages; left and right pages may have heads of their own
_PAGE_NUMBER = re.compile(
    r"[-–—|\[( ]*(?:page|p\.|seite|página|pagina|pág\.|strona|стр\.|第)?\s*(?:\d{1,5}|[ivxlc]{1,7})"
    r"(?:\s*(?:of|von|de|sur|di|z|из|/|页|頁|ページ)\s*\d{0,5})?[-–—|\]) .]*",
    re.IGNORECASE,
)
_NO_TITLE = re.compile(
    r"(?:untitled|unknown|title|document|layout|slide)\s*\d*|.*\.(?:docx?|pdf|tex|dvi|indd|pptx?|qxd)", re.I
)


def read_pdf(raw: bytes) -> Extract:
    """The text of a PDF file, page by page; the title is its metadata's.

    Raises:
        UnreadableError: it is damaged or needs a password, or pypdf is not installed.
    """
    try:
        from pypdf import PdfReader
        from pypdf.errors import DependencyError, FileNotDecryptedError
    except ImportError:
        raise UnreadableError("no_pdf_reader", "install the extra: pip install 'qwen3emb-train[synth]'.") from None
    try:
        reader = PdfReader(io.BytesIO(raw))
        if reader.is_encrypted and not reader.decrypt(""):
            raise FileNotDecryptedError("it needs a password")
        pages = [page.extract_text().splitlines() for page in reader.pages]
        title = str((reader.metadata and reader.metadata.title) or "")
    except (FileNotDecryptedError, DependencyError) as error:
        detail = f"{error}. Save a copy without a password."[:300]
        raise UnreadableError("encrypted", detail) from None
    except Exception as error:  # pypdf raises many types for a broken file
        raise UnreadableError("broken_pdf", f"{type(error).__name__}: {error}"[:300]) from None
    text = "\n\n".join("\n".join(page) for page in without_running_heads(pages))
    title = " ".join(_repaired(title).removeprefix("Microsoft Word - ").split())
    is_title = title and not _NO_TITLE.fullmatch(title)
    return Extract(title if is_title else "", _repaired(re.sub(r"(?<=\w)-\n(?=[a-z])", "", text)))


def without_running_heads(pages: Sequence[Sequence[str]]) -> list[list[str]]:
    """Pages without the lines at their edges that return on others: the same, or counting with the page.

    Args:
        pages: the lines of each.
    """
    filled = [[line for line in page if line.strip()] for page in pages]
    same = Counter(
        key
        for number, page in enumerate(filled)
        for key in {key for at, line in enumerate(page) for key in _keys(line, number, _edge(at, len(page)))}
    )
    least = max(2, min(3, len(pages)), int(_MIN_SHARE * len(pages)))

    def is_frame(line: str, number: int, at: int, num_lines: int) -> bool:
        keys = _keys(line, number, _edge(at, num_lines))
        repeats = any(same[key] >= (max(3, least) if "#" in key else least) for key in keys)
        return repeats or _is_page_number(line, at, num_lines)

    return [
        [line for at, line in enumerate(page) if not is_frame(line, number, at, len(page))]
        for number, page in enumerate(filled)
    ]


def _edge(at: int, num_lines: int) -> str:
    return "top" if at < _EDGE else "bottom" if at >= num_lines - _EDGE else ""


def _keys(line: str, number: int, edge: str) -> set[str]:
    """What a running head is known by: the line, and the line with its first or last number counted from the page's."""
    folded = " ".join(line.split()).casefold()
    if not edge:
        return set()
    keys = {f"{edge} {folded}"}
    for found in [*re.finditer(r"\d{1,5}", folded)][:: max(1, len(re.findall(r"\d{1,5}", folded)) - 1)]:
        keys.add(f"{edge} {folded[: found.start()]}#{int(found[0]) - number}#{folded[found.end() :]}")
    return keys


def _is_page_number(line: str, at: int, num_lines: int) -> bool:
    return (at < 2 or at >= num_lines - 1) and num_lines > 2 and bool(_PAGE_NUMBER.fullmatch(line.strip()))


def _repaired(text: str) -> str:
    # Broken font tables give surrogates; the rest of the file is still usable.
    return clean_text(text.encode("utf-16", "surrogatepass").decode("utf-16", "ignore"))
