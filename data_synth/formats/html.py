"""HTML to Markdown: headings, lists, tables in rows, ``pre`` as it stands; without navigation and banners."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

from data_synth.formats.extract import fenced, table_of

# Elements without content, elements that are no text, and elements that stand in lines of their own.
_VOID_NAMES = "area base br col embed hr img input link meta param source track wbr"
_SKIPPED_NAMES = """
    script style noscript template svg nav footer iframe object head button select textarea dialog canvas audio video
    annotation
"""
_BLOCK_NAMES = """
    address article aside blockquote body center dd details div dl dt fieldset figcaption figure form h1 h2 h3 h4 h5
    h6 header hgroup hr html li main ol p pre section summary table tbody td tfoot th thead tr ul
"""
_FRAME_ROLES = "navigation banner contentinfo search dialog complementary menu menubar toolbar"
_TEXT_NAMES = "body html main article section h1 h2 h3 h4 h5 h6 pre code p"  # whatever they are called
_VOID, _SKIPPED, _BLOCKS = (frozenset(names.split()) for names in (_VOID_NAMES, _SKIPPED_NAMES, _BLOCK_NAMES))
_SKIPPED_ROLES, _NEVER_FRAMES = frozenset(_FRAME_ROLES.split()), frozenset(_TEXT_NAMES.split())
# An end tag may be left out before these; "p" ends before every block.
_CLOSES = {
    "li": ("li",), "dt": ("dt", "dd"), "dd": ("dt", "dd"), "tr": ("tr", "td", "th"), "td": ("td", "th"),
    "th": ("td", "th"), "option": ("option",), "tbody": ("thead", "tbody", "tr", "td", "th"),
    "tfoot": ("thead", "tbody", "tr", "td", "th"),
}  # fmt: skip
_BARRIERS = {"li": ("ul", "ol"), "dt": ("dl",), "dd": ("dl",)}
_COOKIES = r"(?:cookie|consent|gdpr)s?[-_]?(?:banner|notice|bar|popup|modal|overlay|message|wall|consent|law|dialog)"
_BOILERPLATE = re.compile(
    rf"(?<![\w-])(?:[\w-]*{_COOKIES}[\w-]*|breadcrumbs?|(?:[a-z]+-)?sidebar|headerlink|edit-this-page|theme-edit-this-page"
    r"|pagination|pagination-nav|linenos?|skip-(?:link|to-content)|sr-only|visually-hidden|screen-reader-text"
    r"|toc|table-of-contents|tableOfContents\w*|social-share|newsletter|prev-next-\w+|footer|site-footer)(?![\w-])"
)
_LANGUAGE = re.compile(r"\b(?:language-|lang-|highlight-|brush: ?)(?!text\b|none\b|default\b|source\b)([a-z][\w+#]*)")
_MAX_DEPTH = 200
_ASKED = 8  # words before buttons that are no text of the page


@dataclass
class Node:
    """An element: its tag, attributes, and children (texts and elements)."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list["Node | str"] = field(default_factory=list)

    def walk(self) -> Iterator["Node"]:
        """The element and all within, in document order."""
        pending: list[Node] = [self]
        while pending:
            node = pending.pop()
            yield node
            pending += [child for child in reversed(node.children) if isinstance(child, Node)]

    def text(self) -> str:
        """All text within that is shown, as it stands."""
        pending: list[Node | str] = [self]
        parts: list[str] = []
        while pending:
            item = pending.pop()
            if isinstance(item, str):
                parts.append(item)
            elif item.tag == "br":
                parts.append("\n")
            elif not is_boilerplate(item):
                pending += reversed(item.children)
        return "".join(parts)


def parse_html(html: str) -> Node:
    """The tree of a page; nothing in it is an error, as in a browser."""
    builder = _Builder()
    builder.feed(html)
    builder.close()
    return builder.root


def to_markdown(node: Node) -> str:
    """The text of an element as Markdown."""
    text = "\n\n".join(_blocks(node, 0))
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")


def page_title(root: Node) -> str:
    """What stands in ``title``; that of a drawing is another one."""
    pending: list[Node] = [root]
    while pending:
        node = pending.pop()
        if node.tag == "title":
            return " ".join("".join(child for child in node.children if isinstance(child, str)).split())
        if node.tag != "svg":
            pending += [child for child in reversed(node.children) if isinstance(child, Node)]
    return ""


def is_boilerplate(node: Node) -> bool:
    """Whether an element is never part of the text: navigation, banners, forms' buttons, what is hidden."""
    given = node.attributes
    if node.tag in _SKIPPED or given.get("role", "") in _SKIPPED_ROLES or "hidden" in given:
        return True
    if given.get("aria-hidden") == "true" or re.search(r"display:\s*none", given.get("style", "")):
        return True
    if node.tag in ("p", "div", "aside") and any(part.tag == "button" for part in node.walk()):
        shown = "".join(
            child for part in node.walk() if part.tag != "button" for child in part.children if isinstance(child, str)
        )
        if len(shown.split()) <= _ASKED:  # "Was this page helpful?"
            return True
    if node.tag in _NEVER_FRAMES or not _BOILERPLATE.search(f"{given.get('class', '')} {given.get('id', '')}"):
        return False
    is_section = "section" in given.get("class", "").split()  # a section of a manual may be about "pagination"
    return not is_section and all(part.tag not in ("main", "article", "h1") for part in node.walk())


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("html")
        self._open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("html", "body") and any(node.tag == tag for node in self._open[tag == "html" :]):
            return
        if tag == "body":  # an unclosed head must not hide the page
            del self._open[1:]
        if tag in _BLOCKS and self._open[-1].tag == "p":
            self._open.pop()
        self._close_implied(tag)
        node = Node(tag, {name: value or "" for name, value in attrs})
        if tag == "pre":  # Sphinx and others name the language on the elements around
            node.attributes["around"] = " ".join(outer.attributes.get("class", "") for outer in self._open[-2:])
        self._open[-1].children.append(node)
        if tag not in _VOID and len(self._open) < _MAX_DEPTH:
            self._open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID and self._open[-1].tag == tag and tag in ("path", "title", "script", "a", "svg"):
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        for index in range(len(self._open) - 1, 0, -1):
            if self._open[index].tag == tag:
                del self._open[index:]
                return
            if self._open[index].tag in ("table", "td", "th") and tag not in ("table", "tr", "tbody", "thead", "body"):
                return  # a stray end tag within a cell

    def handle_data(self, data: str) -> None:
        self._open[-1].children.append(data)

    def _close_implied(self, tag: str) -> None:
        barriers = (*_BARRIERS.get(tag, ()), "table")
        for index in range(len(self._open) - 1, 0, -1):
            if self._open[index].tag in barriers:
                return
            if self._open[index].tag in _CLOSES.get(tag, ()):
                del self._open[index:]
                if tag in ("td", "th", "li", "dt", "dd", "option"):
                    return


def _blocks(node: Node, depth: int) -> Iterator[str]:
    """The blocks of an element; text between block elements is a paragraph."""
    line: list[str] = []
    for child in node.children:
        if isinstance(child, Node) and is_boilerplate(child):
            continue
        if isinstance(child, Node) and (child.tag in _BLOCKS or _holds_blocks(child)):
            yield from _paragraph(line)
            line = []
            yield from _block(child, depth)
        else:
            line.append(child if isinstance(child, str) else _inline(child))
    yield from _paragraph(line)


def _paragraph(parts: list[str]) -> Iterator[str]:
    lines = [" ".join(line.split()) for line in "".join(re.sub(r"[ \t\n]+", " ", part) for part in parts).split("\r")]
    text = "\n".join(line for line in lines if line)
    if text:
        yield text


def _inline(node: Node) -> str:
    if node.tag == "br":
        return "\r"  # survives the folding of white space; line ends of the page do not
    return "".join(
        child if isinstance(child, str) else "" if is_boilerplate(child) else _inline(child) for child in node.children
    )


def _holds_blocks(node: Node) -> bool:
    return any(inner.tag in _BLOCKS for inner in node.walk() if inner is not node)


def _block(node: Node, depth: int) -> Iterator[str]:
    if node.tag == "pre":
        inner = next((part for part in node.walk() if part.tag == "pre" and part is not node), node)
        code = inner.text()
        if code.strip():
            yield fenced(re.sub(r"[ \t]+(?=\n|\Z)", "", code), _code_language(node))
    elif node.tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
        title = " ".join(_inline(node).replace("¶", "").split())
        if title:
            yield f"{'#' * int(node.tag[1])} {title}"
    elif node.tag in ("ul", "ol"):
        items = [text for child in _items(node) if (text := "\n".join(_blocks(child, depth + 1)).strip("\n"))]
        marks = [f"{number}. " if node.tag == "ol" else "- " for number in range(1, len(items) + 1)]
        shown = [mark + text.replace("\n", "\n" + " " * len(mark)) for mark, text in zip(marks, items, strict=True)]
        if shown:
            yield "\n".join(shown)
    elif node.tag == "table":
        yield from _table(node, depth)
    else:
        yield from _blocks(node, depth)


def _items(node: Node) -> list[Node]:
    return [child for child in node.children if isinstance(child, Node) and not is_boilerplate(child)]


def _table(node: Node, depth: int) -> Iterator[str]:
    """Its rows; a table that only arranges the page (code beside line numbers, tables in cells) gives its blocks."""
    rows = [row for row in node.walk() if row.tag == "tr"]
    cells = [[c for c in row.children if isinstance(c, Node) and c.tag in ("td", "th")] for row in rows]
    inner = {part.tag for row in cells for cell in row for part in cell.walk() if part is not cell}
    if inner & {"table", "pre", "h1", "h2", "h3"} or max(map(len, cells), default=0) < 2:
        for row in cells:
            for cell in row:
                if not is_boilerplate(cell):
                    yield from _blocks(cell, depth)
        return
    caption = next((part for part in node.walk() if part.tag == "caption"), None)
    if caption is not None:
        yield from _paragraph([_inline(caption)])
    if table := table_of([[shown for cell in row for shown in _cell(cell)] for row in cells if row]):
        yield table


def _cell(node: Node) -> list[str]:
    span = node.attributes.get("colspan", "1")
    width = min(int(span), 50) if span.isascii() and span.isdigit() else 1
    return [" ".join(" ".join(_blocks(node, 0)).split())] + [""] * (width - 1)


def _code_language(node: Node) -> str:
    for part in node.walk():
        if found := _LANGUAGE.search(f"{part.attributes.get('class', '')} {part.attributes.get('around', '')}"):
            return found[1]
    return ""
