"""A web page's encoding, title and main part."""

import codecs
import re

from data_synth.formats.extract import Extract, UnreadableError, clean_text, decode_utf8, marked_encoding
from data_synth.formats.html import Node, is_boilerplate, page_title, parse_html, to_markdown

_META = re.compile(
    rb"<meta[^>]{0,300}?charset\s*=\s*[\"']?\s*([\w.:-]+)|\A\s*<\?xml[^>]*encoding=[\"']([\w.:-]+)", re.I
)
_DECLARED_WITHIN = 4096  # bytes; browsers look at 1024
# What browsers read under these names.
_MEANT = {
    "iso-8859-1": "cp1252", "latin1": "cp1252", "latin-1": "cp1252", "ascii": "cp1252", "us-ascii": "cp1252",
    "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "shift-jis": "cp932", "sjis": "cp932",
    "x-sjis": "cp932", "euc-kr": "cp949", "ks_c_5601-1987": "cp949", "big5": "big5hkscs", "x-gbk": "gb18030",
    "iso-8859-9": "cp1254", "tis-620": "cp874", "windows-31j": "cp932", "unicode": "utf-8", "utf-16": "utf-8",
}  # fmt: skip
_MIN_SHARE = 0.4  # of the words outside navigation; less, and the extractor has missed the text


def read_web_page(raw: bytes) -> Extract:
    """HTML in the encoding that it declares; navigation, banners and what repeats on each page are left out."""
    return web_extract(decode_page(raw))


def web_extract(html: str) -> Extract:
    """Title and main part of a page, as Markdown."""
    root = parse_html(html)
    return Extract(clean_text(page_title(root)), clean_text(to_markdown(_main_part(root, html))), True)


def decode_page(raw: bytes) -> str:
    """The text of a page: by its byte order mark, its declaration, as UTF-8, or by what its bytes look like.

    Raises:
        UnreadableError: it is no text, or its encoding cannot be told.
    """
    if marked_encoding(raw):
        return decode_utf8(raw)
    found = _META.search(raw[:_DECLARED_WITHIN])
    declared = (found[1] or found[2]).decode("ascii").lower() if found else ""
    for encoding in dict.fromkeys((_MEANT.get(declared, declared), "utf-8")):
        try:
            if encoding and b"\0" not in raw and codecs.lookup(encoding)._is_text_encoding:
                return clean_text(raw.decode(encoding))
        except (LookupError, UnicodeDecodeError, UnreadableError):
            continue
    return _guessed(raw)


def _guessed(raw: bytes) -> str:
    try:
        from charset_normalizer import from_bytes
    except ImportError:
        return decode_utf8(raw)
    best = None if b"\0" in raw else from_bytes(raw).best()
    return decode_utf8(raw) if best is None or best.chaos > 0.1 else clean_text(str(best))


def _main_part(root: Node, html: str) -> Node:
    """The element that holds the text: marked as such, or found by trafilatura; otherwise the whole page."""
    marked = [node for node in root.walk() if node.tag == "main" or node.attributes.get("role") == "main"]
    articles = [node for node in root.walk() if node.tag == "article"]
    if not marked and len(articles) == 1:
        marked = articles
    if marked:
        main = max(marked, key=_size)
        within = [node for node in main.walk() if node.tag == "article"]
        return within[0] if len(within) == 1 and _size(within[0]) > _size(main) / 2 else main
    body = next((node for node in root.walk() if node.tag == "body"), root)
    body = _without_frame(body)
    found = _extracted(html)
    return found if found is not None and _size(found) >= _MIN_SHARE * _size(body) else body


def _size(node: Node) -> int:
    return len("".join(node.text().split()))


def _without_frame(body: Node) -> Node:
    """The body without its own header and side columns."""
    kept = [child for child in body.children if isinstance(child, str) or child.tag not in ("header", "aside")]
    kept = [child for child in kept if isinstance(child, str) or not is_boilerplate(child)]
    return Node("body", body.attributes, kept)


def _extracted(html: str) -> Node | None:
    try:
        import trafilatura
    except ImportError:
        return None
    try:
        found = trafilatura.extract(
            html, output_format="html", include_formatting=True, include_tables=True, include_comments=False,
            favor_recall=True, deduplicate=False,
        )  # fmt: skip
    except Exception:  # any of four parsers' errors; the page is read without it
        return None
    return None if not found else parse_html(found)
