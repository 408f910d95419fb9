"""Figures in one style and two forms: an SVG whose colours follow the page, light or dark, and a PNG on white.

Inline SVG rather than an image: its colours are the page's variables, and its points have tooltips. The same inputs
give the same bytes: no dates, no random identifiers.
"""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

from qwen3emb_train.pages.page import readable, shortened

# Okabe and Ito's colours, distinguishable with all colour visions; grey instead of yellow, which is too pale for lines.
_PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8a8f98")
_LINES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, FAINT, _RULE = "#1f2328", "#656d76", "#d8dee4"
# Their variables in the page's style sheet, which has a second set for dark screens.
_VARIABLES = {INK: "ink", FAINT: "faint", _RULE: "rule"} | {c: f"series-{i}" for i, c in enumerate(_PALETTE)}
_SETTINGS = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 9.0,
    "text.color": INK, "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "axes.labelcolor": FAINT, "axes.labelsize": 8.5, "axes.titlesize": 9.5, "axes.titleweight": "bold",
    "axes.titlecolor": INK, "axes.titlelocation": "left", "axes.edgecolor": _RULE, "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "axes.formatter.useoffset": False, "axes.facecolor": "none",
    "grid.color": _RULE, "grid.linewidth": 0.6, "xtick.color": _RULE, "ytick.color": _RULE,
    "xtick.labelcolor": FAINT, "ytick.labelcolor": FAINT, "xtick.labelsize": 8.0, "ytick.labelsize": 8.0,
    "lines.linewidth": 1.6, "lines.markersize": 4.0,
    "legend.frameon": False, "legend.handlelength": 2.4, "axes.formatter.limits": (-3, 6),
    "figure.constrained_layout.w_pad": 0.09, "figure.constrained_layout.h_pad": 0.06, "legend.fontsize": 8.5,
    "figure.facecolor": "none", "svg.fonttype": "none",
}  # fmt: skip
_SVG, _XLINK_HREF = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
WIDTH = 8.0  # inches, of a figure as wide as the page's column


@dataclass(frozen=True)
class Drawing:
    """A figure.

    Attributes:
        name: of its PNG file, without the ending.
        caption: what it shows.
        svg: for the page.
        png: bytes of the file.
    """

    name: str
    caption: str
    svg: Markup = field(repr=False)
    png: bytes = field(repr=False)


@dataclass(frozen=True)
class LineStyle:
    """How one run or model is drawn in all figures: distinct in colour, and beyond seven also in line."""

    colour: str
    line: str
    marker: str


def line_style(number: int) -> LineStyle:
    """Style ``number``, counted from 0."""
    cycle = len(_PALETTE)
    return LineStyle(_PALETTE[number % cycle], _LINES[number // cycle % len(_LINES)], _MARKERS[number % len(_MARKERS)])


def line_styles(names: Iterable[str], known: Mapping[str, LineStyle] | None = None) -> dict[str, LineStyle]:
    """A style for each name: the known one if it has one, otherwise the next unused one."""
    distinct = list(dict.fromkeys(names))
    given = {name: (known or {})[name] for name in distinct if name in (known or {})}
    free = (
        one for number in count() if (one := line_style(number)) not in given.values() or number >= 4 * len(_PALETTE)
    )
    return {name: given[name] if name in given else next(free) for name in distinct}


def require_matplotlib(extra: str) -> None:
    """To be called before the work begins, not after it.

    Args:
        extra: the extra of this package that installs it.

    Raises:
        ImportError: matplotlib is not installed; the message says how to install it.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ImportError(f"The figures need matplotlib: pip install 'qwen3emb-train[{extra}]'.") from None


def draw(
    name: str,
    caption: str,
    size: tuple[float, float],
    paint: Callable[[Any], None],
    tooltips: Mapping[str, Sequence[str]] | None = None,
) -> Drawing:
    """Draws one figure, as SVG and as PNG.

    Args:
        name: file name, without the ending.
        caption: what it shows, below it.
        size: width and height in inches.
        paint: draws on the figure it is given.
        tooltips: gid of a line of markers -> the text shown when a pointer rests on each of them.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot, which keeps every figure and looks for a display

    with rc_context({**_SETTINGS, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        paint(figure)
        vector, pixels = io.StringIO(), io.BytesIO()
        figure.savefig(vector, format="svg", metadata={"Date": None, "Creator": None})
        figure.savefig(pixels, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return Drawing(name, caption, _for_the_page(vector.getvalue(), name, caption, tooltips or {}), pixels.getvalue())


def panels(figure: Any, number: int, columns: int, **shared: Any) -> list[Any]:
    """``number`` axes in rows of at most ``columns``; the rest of the last row stays empty.

    Args:
        figure: matplotlib's.
        number: of axes.
        columns: at most, of a row.
        shared: keyword arguments of ``Figure.subplots``, such as ``sharey``.
    """
    columns = min(columns, number)
    rows = -(-number // columns)
    axes = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for unused in axes[number:]:
        unused.set_visible(False)
    return axes[:number]


def num_rows(number: int, columns: int) -> int:
    """How many rows ``panels`` makes."""
    return -(-number // min(columns, number))


def legend_above(figure: Any, handles: Mapping[str, Any]) -> None:
    """One legend for all panels, in rows above them."""
    names = [label(name) for name in handles]
    fits = sum(len(name) + 8 for name in names) < 110  # characters in a figure's width, a handle counted as 8
    columns = len(names) if fits else max(1, 110 // (max(len(name) for name in names) + 8))
    figure.legend(list(handles.values()), names, loc="outside upper left", ncols=columns)


def label(text: str, max_characters: int = 40) -> str:
    """A name as a figure can show it: on one line, of bounded length.

    matplotlib keeps labels that begin with an underscore out of legends; a space before it hides it from that rule.
    """
    text = shortened(" ".join(readable(text).split()), max_characters)
    return f" {text}" if text.startswith("_") else text


def _for_the_page(svg: str, name: str, caption: str, tooltips: Mapping[str, Sequence[str]]) -> Markup:
    """The drawing as part of a page: tooltips at its points, the page's colours, and ids that no other figure has.

    Only attributes are changed, never a text: a text may look like an id or a colour.
    """
    root = ElementTree.fromstring(svg)
    for child in list(root):  # the style would reach out of the drawing
        if child.tag == f"{_SVG}metadata" or child.find(f"{_SVG}style") is not None:
            root.remove(child)
    by_id = {element.get("id"): element for element in root.iter()}
    for gid, texts in tooltips.items():
        for marker, text in zip(list(by_id[gid].iter(f"{_SVG}use")), texts, strict=True):
            ElementTree.SubElement(marker, "title").text = readable(text)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        element.attrib = {
            key if key != _XLINK_HREF else "href": _attribute(key, value, name) for key, value in element.items()
        }
    width = float(root.attrib["width"].removesuffix("pt")) / 72 / WIDTH  # of the page's column
    root.attrib = {
        "xmlns": _SVG.strip("{}"), "viewBox": root.attrib["viewBox"], "class": "drawing", "role": "img",
        "style": f"max-width: {width:.0%}",
    }  # fmt: skip
    title = ElementTree.Element("title")
    title.text = readable(caption)
    root.insert(0, title)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _attribute(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == _XLINK_HREF:
        return f"#{name}-{value.removeprefix('#')}"
    value = value.replace("url(#", f"url(#{name}-")
    for colour, variable in _VARIABLES.items():
        value = value.replace(colour, f"var(--{variable})")
    return value
