"""Containers of XML: docx, pptx, odt and EPUB, by the standard library. Names are compared without namespaces."""

import io
import posixpath
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from data_synth.formats.extract import Extract, UnreadableError, clean_text, table_of
from data_synth.formats.web_page import decode_page, web_extract

_MAX_UNPACKED = 512_000_000  # bytes of all parts that are read; more is a bomb
_ENCRYPTED = 0x1


class _Container:
    """The parts of a file, none of which may be unpacked without bound."""

    def __init__(self, file: zipfile.ZipFile) -> None:
        self._file, self._left = file, _MAX_UNPACKED
        self.names = file.namelist()

    def read(self, name: str) -> bytes:
        with self._file.open(name) as part:
            raw = part.read(self._left + 1)
        self._left -= len(raw)
        if self._left < 0:
            raise UnreadableError("file_too_large", f"unpacked, it has more than {_MAX_UNPACKED} bytes.")
        return raw

    def tree(self, name: str) -> Element:
        """The root of an XML part; an empty element where there is none."""
        raw = self.read(name) if name in self.names else b"<none/>"
        if b"<!ENTITY" in raw:
            raise UnreadableError("damaged", f"{name} declares entities, which no office program writes.")
        return ElementTree.fromstring(raw)


@contextmanager
def _opened(raw: bytes) -> Iterator[_Container]:
    if raw.startswith(b"\xd0\xcf\x11\xe0"):  # an OLE container around an encrypted package, or the format before 2007
        raise UnreadableError("encrypted", "it has a password or an old format. Save a copy without, in a new format.")
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as file:
            if any(part.flag_bits & _ENCRYPTED for part in file.infolist()):
                raise UnreadableError("encrypted", "it has a password. Save a copy without one.")
            yield _Container(file)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError, OSError) as error:
        raise UnreadableError("damaged", f"{type(error).__name__}: {error}"[:300]) from None
    except (ElementTree.ParseError, ValueError) as error:
        if isinstance(error, UnreadableError):
            raise
        raise UnreadableError("damaged", f"a part of it is no XML: {error}"[:300]) from None


def read_docx(raw: bytes) -> Extract:
    """A Word document: headings by their styles, tables in rows, lists.

    Raises:
        UnreadableError: it is damaged, encrypted, or unpacks without bound.
    """
    with _opened(raw) as container:
        body = next(_all(_required(container, "word/document.xml"), "body"), None)
        styles = {_attribute(style, "styleId"): style for style in _all(container.tree("word/styles.xml"), "style")}
        levels = {name: level for name, style in styles.items() if (level := _style_level(style))}
        blocks = [] if body is None else list(_word_blocks(body, levels))
        title = _core_title(container) or _first_heading(blocks, "# ")
        return _extract(title, blocks)


def read_pptx(raw: bytes) -> Extract:
    """Slides in their order: each a section under its title, with its tables and notes.

    Raises:
        UnreadableError: it is damaged, encrypted, or unpacks without bound.
    """
    with _opened(raw) as container:
        slides = sorted(
            (int(found[1]), name)
            for name in container.names
            if (found := re.fullmatch(r"ppt/slides/slide(\d+)\.xml", name))
        )
        if not slides:
            raise UnreadableError("damaged", "it has no slides.")
        blocks: list[str] = []
        for number, name in slides:
            blocks += _slide(container.tree(name))
            links = container.tree(f"ppt/slides/_rels/slide{number}.xml.rels")
            notes = [_attribute(link, "Target") for link in links if _attribute(link, "Type").endswith("/notesSlide")]
            for target in notes:
                page = container.tree(posixpath.normpath(posixpath.join("ppt/slides", target)))
                shapes = [shape for shape in _all(page, "sp") if _placeholder(shape) == "body"]
                blocks += [text for shape in shapes for text in _paragraphs(shape)]
        title = _core_title(container) or _first_heading(blocks, "## ")
        return _extract(title, blocks)


def read_odt(raw: bytes) -> Extract:
    """An OpenDocument text or presentation.

    Raises:
        UnreadableError: it is damaged, encrypted, or unpacks without bound.
    """
    with _opened(raw) as container:
        root = _required(container, "content.xml")
        meta = container.tree("meta.xml")
        title = next((_text(part) for part in _all(meta, "title")), "")
        body = next(_all(root, "body"), root)
        blocks = list(_open_blocks(body))
        return _extract(title or _first_heading(blocks, "# "), blocks)


def read_epub(raw: bytes) -> Extract:
    """A book: its chapters in the order of the spine.

    Raises:
        UnreadableError: it is damaged, encrypted, or unpacks without bound.
    """
    with _opened(raw) as container:
        if "META-INF/encryption.xml" in container.names and "META-INF/rights.xml" in container.names:
            raise UnreadableError("encrypted", "it is protected. Only free books can be read.")
        entry = next(_all(container.tree("META-INF/container.xml"), "rootfile"), None)
        package = "" if entry is None else _attribute(entry, "full-path")
        root = container.tree(package)
        title = next((_text(part) for part in _all(root, "title")), "")
        files = {_attribute(item, "id"): item for item in _all(root, "item")}
        chapters = [files[name] for part in _all(root, "itemref") if (name := _attribute(part, "idref")) in files]
        folder = posixpath.dirname(package)
        names = [
            posixpath.normpath(posixpath.join(folder, unquote(_attribute(chapter, "href"))))
            for chapter in chapters
            if "nav" not in _attribute(chapter, "properties").split()
        ]
        names = names or sorted(name for name in container.names if name.lower().endswith((".xhtml", ".html", ".htm")))
        if not names:
            raise UnreadableError("damaged", "it has no chapters.")
        texts = [web_extract(decode_page(container.read(name))).text for name in names if name in container.names]
        return _extract(title, texts)


def _extract(title: str, blocks: list[str]) -> Extract:
    text = "\n\n".join(block for block in blocks if block.strip())
    return Extract(clean_text(" ".join(title.split())), clean_text(text), True)


def _required(container: _Container, name: str) -> Element:
    if name not in container.names:
        raise UnreadableError("damaged", f"it has no {name}.")
    return container.tree(name)


def _name(element: Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _all(element: Element, name: str) -> Iterator[Element]:
    return (part for part in element.iter() if _name(part) == name)


def _attribute(element: Element, name: str) -> str:
    return next((value for key, value in element.attrib.items() if key.rpartition("}")[2] == name), "")


def _text(element: Element) -> str:
    return " ".join("".join(element.itertext()).split())


def _first_heading(blocks: list[str], marker: str) -> str:
    return next((text.lstrip("# ") for text in blocks if text.startswith(marker)), "")


def _core_title(container: _Container) -> str:
    return next((_text(part) for part in _all(container.tree("docProps/core.xml"), "title")), "")


def _style_level(style: Element) -> int:
    """The level of a style for headings; 0 for another one."""
    name = next((_attribute(part, "val") for part in style if _name(part) == "name"), "").lower()
    found = re.fullmatch(r"heading (\d)", name)
    outline = next((_attribute(part, "val") for part in _all(style, "outlineLvl")), "")
    if name == "title":
        return 1
    return int(found[1]) if found else int(outline) + 1 if outline.isdigit() and int(outline) < 9 else 0


def _word_blocks(body: Element, levels: dict[str, int]) -> Iterator[str]:
    for part in body:
        kind = _name(part)
        if kind == "p":
            text = _runs(part)
            style = next((_attribute(found, "val") for found in _all(part, "pStyle")), "")
            plain = re.fullmatch(r"[Hh]eading([1-9])", style)
            level = levels.get(style) or (int(plain[1]) if plain else style == "Title")
            is_item = any(True for _ in _all(part, "numPr"))
            if text.strip():
                yield f"{'#' * min(level, 6)} {' '.join(text.split())}" if level else f"- {text}" if is_item else text
        elif kind == "tbl":
            rows = [row for row in part if _name(row) == "tr"]
            yield table_of([[_cell(cell) for cell in row if _name(cell) in ("tc", "sdt")] for row in rows])
        elif kind in ("sdt", "sdtContent", "customXml", "ins"):
            yield from _word_blocks(part, levels)


def _cell(cell: Element) -> str:
    return " ".join(text for part in _all(cell, "p") if (text := _runs(part).strip()))


def _runs(paragraph: Element) -> str:
    """The text of a paragraph, tabs and line ends included, deleted words and field codes left out."""
    pieces = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}
    return "".join(
        (part.text or "") if _name(part) == "t" else pieces.get(_name(part), "") for part in paragraph.iter()
    )


def _slide(slide: Element) -> Iterator[str]:
    shapes = [part for part in slide.iter() if _name(part) in ("sp", "graphicFrame")]
    titles = [shape for shape in shapes if _placeholder(shape) in ("title", "ctrTitle")]
    for shape in titles:
        if title := " ".join(_paragraphs(shape)):
            yield f"## {' '.join(title.split())}"
    for shape in shapes:
        if shape in titles or _placeholder(shape) in ("sldNum", "ftr", "dt"):
            continue
        tables = list(_all(shape, "tbl"))
        for table in tables:
            rows = [[" ".join(_paragraphs(cell)) for cell in _all(row, "tc")] for row in _all(table, "tr")]
            yield table_of(rows)
        if not tables:
            yield "\n".join(_paragraphs(shape))


def _placeholder(shape: Element) -> str:
    found = next(_all(shape, "ph"), None)
    return "" if found is None else _attribute(found, "type") or "body"


def _paragraphs(shape: Element) -> list[str]:
    return [text for part in _all(shape, "p") if (text := _runs(part).strip())]


def _open_blocks(element: Element) -> Iterator[str]:
    for part in element:
        kind = _name(part)
        if kind == "h":
            level = _attribute(part, "outline-level")
            yield f"{'#' * min(6, int(level) if level.isdigit() else 1)} {_text(part)}"
        elif kind == "p":
            yield _text(part)
        elif kind == "list":
            yield "\n".join(f"- {_text(item)}" for item in part if _name(item) == "list-item")
        elif kind == "table":
            yield table_of(
                [[_text(cell) for cell in row if _name(cell) == "table-cell"] for row in _all(part, "table-row")]
            )
        elif kind not in ("tracked-changes", "forms", "sequence-decls"):
            yield from _open_blocks(part)
