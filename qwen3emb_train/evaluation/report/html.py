"""Markup that cannot forget to escape: what is not ``Html`` already is text, and text is made harmless.

Queries and documents come from anywhere. ``element`` escapes each child that is a plain string, and replaces characters
that no page can hold, so the pages are also well-formed XML, which a test uses to see that nothing breaks out.
"""

import re
from collections.abc import Iterable
from html import escape

_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Html(str):
    """Finished markup: ``element`` takes it as it is."""


def readable(text: str) -> str:
    """The text without control characters and lone surrogates, which neither XML nor UTF-8 can hold."""
    return _UNPRINTABLE.sub("\ufffd", text)


def shortened(text: str, max_characters: int) -> str:
    """At most so many characters, the last an ellipsis where something was cut."""
    return text if len(text) <= max_characters else text[: max_characters - 1].rstrip() + "…"


def element(name: str, *children: str, **attributes: str) -> Html:
    """``<name attributes>children</name>``.

    Args:
        children: ``Html`` stays, any other string is escaped.
        attributes: values are escaped; ``class_`` is written class, ``data_value`` data-value.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(readable(value))}"' for key, value in attributes.items()
    )
    return Html(f"<{name}{written}>{joined(children)}</{name}>")


def joined(children: Iterable[str], between: str = "") -> Html:
    """The children one after another, those escaped that are no ``Html``."""
    done = (child if isinstance(child, Html) else escape(readable(child)) for child in children)
    return Html(between.join(done))


def number_cell(shown: str, value: float | None = None, *, best: bool = False, note: str = "") -> Html:
    """A cell of a table, aligned right.

    Args:
        shown: the number as people read it.
        value: the number as sorting compares it.
        best: printed bold.
        note: a small line below, e.g. an interval.
    """
    content = [element("b" if best else "span", shown)]
    if note:
        content.append(element("small", note))
    sorting = {} if value is None else {"data_value": repr(value)}
    return element("td", *content, class_="number", **sorting)


def table(head: Iterable[str], rows: Iterable[Iterable[Html]], *, num_names: int = 1) -> Html:
    """A table whose columns sort on a click.

    Args:
        head: names of the columns; the first ``num_names`` stand left, the others right, over their numbers.
        rows: cells.
    """
    titles = [
        element("th", title, class_="name" if position < num_names else "number", scope="col")
        for position, title in enumerate(head)
    ]
    body = joined((element("tr", *row) for row in rows), "\n")
    written = element("table", element("thead", element("tr", *titles)), element("tbody", body), class_="sortable")
    return element("div", written, class_="scroll")


def name_cell(text: str) -> Html:
    """The cell that says what a row is."""
    return element("th", text, class_="name", scope="row")


def text_cell(text: str) -> Html:
    """A cell of words."""
    return element("td", text)
