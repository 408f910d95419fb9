"""The page that a person reads after a run: one HTML file, with its pictures inside and nothing from elsewhere.

Every text of a document or a teacher passes Jinja's autoescaping, after control characters and lone surrogates are
replaced; the template holds no script. It is also well-formed XML, which a test uses to see that nothing breaks out.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_TEMPLATE = Path(__file__).parent / "report.html.jinja"
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_MAX_TEXT = 1200  # characters of a text on the page


class Bar(NamedTuple):
    """One bar of a chart: label, number, share of all, width relative to the longest."""

    label: str
    num: int
    share: float
    width: float


def render_report(
    title: str,
    overview: Mapping[str, object],
    funnel: Mapping[str, int],
    statistics: Mapping[str, Any],
    samples: Sequence[Mapping[str, Any]],
    rejected: Mapping[str, Sequence[Mapping[str, Any]]],
) -> str:
    """The page.

    Args:
        title: of the page.
        overview: name -> value, for the table at the top.
        funnel: step -> count, in order.
        statistics: as ``Statistics.to_json`` gives them.
        samples: published rows, with their facts.
        rejected: reason -> a few rows that were set aside for it.
    """
    from jinja2 import Environment, StrictUndefined

    charts = {
        "What became of the items": funnel,
        "Reasons of rejection": statistics["rejection_reasons"],
        "Words in a query": statistics["query_words"],
        "Words in a document": statistics["document_words"],
        "Languages of queries": statistics["languages"],
        "Tasks": statistics["rows"],
        "Sources": statistics["sources"],
        **{name.replace("_", " ").capitalize(): counts for name, counts in statistics["facts"].items()},
    }
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["readable"] = _readable
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        overview=overview,
        charts={name: bars(counts, of_first=counts is funnel) for name, counts in charts.items() if counts},
        samples=samples,
        rejected=rejected,
    )


def bars(counts: Mapping[str, int], *, of_first: bool = False) -> list[Bar]:
    """Bars in the order given; shares of the sum, or of the first count (a funnel)."""
    longest = max(counts.values()) or 1
    whole = next(iter(counts.values())) if of_first else sum(counts.values())
    return [Bar(name, num, num / (whole or 1), num / longest) for name, num in counts.items()]


def _readable(value: object) -> str:
    text = _UNPRINTABLE.sub("\ufffd", str(value))
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]} … ({len(text):,} characters)"
