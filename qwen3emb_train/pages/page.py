"""Pages from Jinja2 templates and plain data; every printed value is escaped.

Queries and documents are untrusted. The templates hold no script, and each printed value is escaped and freed of
characters that no page can hold, so a page is also well-formed XML; tests check that no value becomes markup.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

_SHARED = Path(__file__).parent / "templates"
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
MISSING = "–"


@dataclass(frozen=True)
class Cell:
    """A cell of a table; a plain string is a cell without mark and note.

    Attributes:
        text: its content.
        note: a small line below, e.g. a confidence interval.
        mark: class of the text: "best", "better", "worse" or "code".
    """

    text: str
    note: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        head: names of the columns.
        rows: cells; the first of a row names it.
        num_names: the first so many columns are words, aligned left; the others are numbers, aligned right.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    num_names: int = 1


def render(template: Path, **context: object) -> str:
    """The page.

    Args:
        template: file that extends ``base.html.jinja``; templates beside it and those of this room are found by name.
        context: variables of the template; ``base.html.jinja`` needs ``title`` and ``lead``.

    Raises:
        jinja2.UndefinedError: the template reads a variable or field that is not in the context.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, _SHARED]), autoescape=True, undefined=StrictUndefined,
        finalize=_inert, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["shortened"] = shortened
    return environment.get_template(template.name).render(context)


def formatted(value: float | None, spec: str = ".4f") -> str:
    """The number, or a dash where there is none."""
    return MISSING if value is None or value != value else format(value, spec)


def interval(bounds: Iterable[float] | None, spec: str = ".4f") -> str:
    """Lower and upper bound; empty without."""
    return " – ".join(format(bound, spec) for bound in bounds or ())


def readable(text: str) -> str:
    """The text without control characters and lone surrogates, which neither XML nor UTF-8 can hold."""
    return _UNPRINTABLE.sub("\ufffd", text)


def shortened(text: str, max_characters: int) -> str:
    """At most ``max_characters``, the last an ellipsis where something was cut."""
    return text if len(text) <= max_characters else text[: max_characters - 1].rstrip() + "…"


def _inert(value: object) -> Markup:
    return Markup(readable(escape(value)))
