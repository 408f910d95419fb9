"""The HTML report of a run: charts of the counts, and sample rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qwen3emb_train.pages.page import Table, render, shortened

_TEMPLATE = Path(__file__).parent / "report.html.jinja"
_MAX_CHARACTERS = 1200  # of a text on the page


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
    """Renders the page.

    Args:
        title: of the page.
        overview: name -> value, for the table at the top.
        funnel: step -> count, in order.
        statistics: as ``Statistics.to_json`` gives them.
        samples: published rows with their facts.
        rejected: reason -> a few rejected rows.
    """
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
    return render(
        _TEMPLATE, program="synthesize", title=shortened(title, 200), lead="Read some rows before you train on them.",
        overview=Table([], [list(map(_short, fact)) for fact in overview.items()], num_names=2),
        charts={name: bars(counts, of_first=counts is funnel) for name, counts in charts.items() if counts},
        samples=samples, rejected=rejected, max_characters=_MAX_CHARACTERS,
    )  # fmt: skip


def bars(counts: Mapping[str, int], *, of_first: bool = False) -> list[Bar]:
    """Bars in the order given; shares of the sum, or of the first count (a funnel)."""
    longest = max(counts.values()) or 1
    whole = next(iter(counts.values())) if of_first else sum(counts.values())
    return [Bar(name, num, num / (whole or 1), num / longest) for name, num in counts.items()]


def _short(value: object) -> str:
    return shortened(str(value), _MAX_CHARACTERS)
