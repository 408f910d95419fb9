"""How figures look, and their two forms: an SVG whose colours follow the page, light or dark, and a PNG on white.

The same inputs give the same bytes: no dates, no random identifiers.
"""

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from qwen3emb_train.evaluation.report.html import Html, element, readable, shortened

# Okabe and Ito's colours, which people of all colour visions tell apart; yellow, too pale for lines, gave way to grey.
_PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8a8f98")
_LINES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, FAINT, _RULE = "#1f2328", "#656d76", "#d8dee4"
# What the page's style calls them: it has a second set for dark screens.
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
    svg: Html = field(repr=False)
    png: bytes = field(repr=False)


@dataclass(frozen=True)
class LineStyle:
    """How one run or model is drawn in all figures: distinct in colour, and beyond seven also in line."""

    colour: str
    line: str
    marker: str


def line_style(number: int) -> LineStyle:
    """The ``number``-th of the looks, from 0."""
    cycle = len(_PALETTE)
    return LineStyle(_PALETTE[number % cycle], _LINES[number // cycle % len(_LINES)], _MARKERS[number % len(_MARKERS)])


def line_styles(names: Iterable[str], known: Mapping[str, LineStyle] | None = None) -> dict[str, LineStyle]:
    """A look for each name: the known one where it has one, otherwise the next that none of them has."""
    distinct = list(dict.fromkeys(names))
    given = {name: (known or {})[name] for name in distinct if name in (known or {})}
    free = (
        one for number in count() if (one := line_style(number)) not in given.values() or number >= 4 * len(_PALETTE)
    )
    return {name: given[name] if name in given else next(free) for name in distinct}


def require_matplotlib() -> None:
    """Raises ImportError, saying how to install it, where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ImportError("The figures of a report need matplotlib: pip install 'qwen3emb-train[report]'.") from None


def draw(
    name: str,
    caption: str,
    size: tuple[float, float],
    paint: Callable[[Any], None],
    tooltips: Mapping[str, Sequence[str]] | None = None,
) -> Drawing:
    """Draws on an empty matplotlib figure.

    Args:
        name: file name, without the ending.
        caption: said below it.
        size: width and height in inches.
        paint: draws on the figure it is given.
        tooltips: gid of a line of markers -> what to say when a pointer rests on each of them.
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
    """``number`` axes in rows of at most ``columns``; the rest of the last row stays empty."""
    columns = min(columns, number)
    rows = -(-number // columns)
    axes = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for unused in axes[number:]:
        unused.set_visible(False)
    return axes[:number]


def rows_of(number: int, columns: int) -> int:
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


def _for_the_page(svg: str, name: str, caption: str, tooltips: Mapping[str, Sequence[str]]) -> Html:
    """Without what would reach out of the drawing: the style for all elements, and names that other figures use too."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    for gid, texts in tooltips.items():  # last: nothing above may touch what they say
        svg = _with_titles(svg, f"{name}-{gid}", texts)
    opening, rest = svg.split(">", 1)
    opening = re.sub(r' (width|height)="[^"]*"', "", opening)
    return Html(f'{opening} class="drawing" role="img">{element("title", caption)}{rest.rstrip()}')


def _with_titles(svg: str, gid: str, texts: Sequence[str]) -> str:
    start = svg.index(f'<g id="{gid}"')
    end = svg.index("</g>", svg.index("<use", start))
    pieces = re.split(r"(<use [^>]*)/>", svg[start:end])
    markers, between = pieces[1::2], pieces[2::2]
    titled = (
        f"{marker}>{element('title', text)}</use>{after}"
        for marker, after, text in zip(markers, between, texts, strict=True)
    )
    return svg[:start] + pieces[0] + "".join(titled) + svg[end:]
