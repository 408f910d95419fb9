"""The page around the sections: head, table of contents, style and the one small script, all of it inside the file."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qwen3emb_train.evaluation.report.drawing import Drawing
from qwen3emb_train.evaluation.report.html import Html, element, joined

_HERE = Path(__file__).parent
FIGURES = "figures"


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it.

    Attributes:
        anchor: name of the place, for links.
        title: the heading.
        body: markup below it.
        drawings: the figures in the body, which are also written as PNG files.
    """

    anchor: str
    title: str
    body: Html
    drawings: list[Drawing] = field(default_factory=list)


def figure_of(drawing: Drawing) -> Html:
    """The drawing with its caption, and the way to the PNG file beside the page."""
    png = element("a", "PNG", href=f"{FIGURES}/{drawing.name}.png")
    return element("figure", drawing.svg, element("figcaption", drawing.caption, " ", png))


def note(*children: str, warning: bool = False) -> Html:
    """A note to the reader, set apart."""
    return element("p", *children, class_="note warning" if warning else "note")


def write_page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The page.

    Nothing may be loaded from anywhere, and of scripts only this one runs: the content policy names its digest.
    """
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    # Inside <script> HTML knows no escapes and XML does: this keeps the page readable for both.
    script = f"//<![CDATA[\n{script}//]]>"
    script_digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{script_digest}'"
    contents = [element("a", section.title, href=f"#{section.anchor}") for section in sections]
    body = [element("section", element("h2", section.title), section.body, id=section.anchor) for section in sections]
    main = element(
        "main",
        element("header", element("h1", title), element("p", lead, class_="lead")),
        joined(body, "\n"),
        element("footer", "Written by qwen3emb_train report. Click on a column to sort by it; hover over points."),
    )
    layout = element("div", element("nav", element("p", "Contents"), *contents), main, class_="layout")
    head = joined(
        [
            Html('<meta charset="utf-8"/>'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1"/>'),
            Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}"/>'),
            element("title", title),
            Html(f"<style>\n{style}</style>"),
        ],
        "\n",
    )
    end = Html(f"<script>{script}</script>")
    return f"<!doctype html>\n{element('html', element('head', head), element('body', layout, end), lang='en')}\n"
