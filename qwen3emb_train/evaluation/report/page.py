"""The page of a report: sections of plain data, rendered by ``report.html.jinja``."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwen3emb_train.pages.figures import Drawing
from qwen3emb_train.pages.page import render

_TEMPLATE = Path(__file__).parent / "report.html.jinja"
FIGURES = "figures"


@dataclass(frozen=True)
class Section:
    """A heading and its content.

    Attributes:
        anchor: id for links; it also selects the template's branch for the section.
        title: the heading.
        drawings: the figures of the section, which are also written as PNG files.
        content: other values that the template shows.
    """

    anchor: str
    title: str
    drawings: list[Drawing] = field(default_factory=list)
    content: dict[str, Any] = field(default_factory=dict)


def render_report(title: str, lead: str, sections: Sequence[Section], max_characters: int) -> str:
    """The page.

    Args:
        title: heading and title of the page.
        lead: the line below the heading.
        sections: in their order on the page.
        max_characters: of a query's or document's text.
    """
    return render(
        _TEMPLATE, program="report", title=title, lead=lead, sections=sections, max_characters=max_characters,
        png=f"{FIGURES}/{{}}.png",
    )  # fmt: skip
