"""A model's vectors: cosines of relevant and of random pairs, and a map of queries and documents."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from qwen3emb_train.evaluation.report.fields import Entry
from qwen3emb_train.evaluation.report.inputs import is_number
from qwen3emb_train.evaluation.report.page import Section
from qwen3emb_train.pages.figures import WIDTH, Drawing, draw, label, num_rows, panels
from qwen3emb_train.pages.page import shortened

_MOST_HISTOGRAMS, _MOST_MAPS = 12, 6
_POSITIVE, _RANDOM = "#0072b2", "#d55e00"
_KINDS = {"document": ("#e69f00", "o"), "query": ("#0072b2", "^")}

ModelDiagnostics = Sequence[tuple[str, Entry]]  # (model, entry of diagnostics.json)


def similarities_section(diagnostics: ModelDiagnostics, max_characters: int) -> Section | None:
    """Histograms and maps; None where no entry has either."""
    histograms = [(name, _histogram(entry)) for name, entry in _titled(diagnostics) if entry.has("histogram")]
    maps = [(name, _map(entry)) for name, entry in _titled(diagnostics) if entry.has("map")]
    drawings: list[Drawing] = []
    headings: list[str] = []
    if histograms:
        drawings.append(_draw_histograms(histograms))
        headings.append("Cosines")
    if maps:
        drawings.append(_draw_maps(maps, max_characters))
        headings.append("Map of a sample")
    return Section("similarities", "Similarities", drawings, {"headings": headings}) if drawings else None


def chance_above(positives: Sequence[float], others: Sequence[float]) -> float:
    """The AUC: how likely a positive pair scores above a random one, from counts in the same bins; ties count half."""
    below, favourable = 0.0, 0.0
    for positive, other in zip(positives, others, strict=True):
        favourable += positive * (below + other / 2)
        below += other
    return favourable / (sum(positives) * sum(others))


def _titled(diagnostics: ModelDiagnostics) -> list[tuple[str, Entry]]:
    several = len({entry.text("set") for _, entry in diagnostics}) > 1
    return [(f"{model} on {entry.text('set')}" if several else model, entry) for model, entry in diagnostics]


def _histogram(entry: Entry) -> tuple[list[float], list[float], list[float]]:
    histogram = entry.entry("histogram")
    edges, positives, random = (histogram.numbers(field) for field in ("edges", "positives", "random"))
    histogram.require_equal_lengths("positives", "random")
    if len(edges) != len(positives) + 1 or any(high <= low for low, high in pairwise(edges)):
        raise ValueError(f"{histogram.where}: edges must rise, one more of them than bins. Run evaluate again.")
    return edges, positives, random


def _map(entry: Entry) -> dict[str, list[tuple[float, float, str]]]:
    found = entry.entry("map")
    texts, kinds = found.texts("texts"), found.texts("kinds")
    across, up = found.content.get("x"), found.content.get("y")
    if not isinstance(across, list) or not isinstance(up, list):
        raise ValueError(f"{found.where}: x and y are no lists. Run evaluate again.")
    found.require_equal_lengths("texts", "kinds", "x", "y")
    points: dict[str, list[tuple[float, float, str]]] = {}
    for text, kind, x, y in zip(texts, kinds, across, up, strict=True):
        if kind not in _KINDS:
            raise ValueError(f"{found.where}: kinds holds {kind!r}; it knows {', '.join(_KINDS)}.")
        if is_number(x) and is_number(y):
            points.setdefault(kind, []).append((x, y, text))
    return points


def _draw_histograms(named: Sequence[tuple[str, tuple[list[float], list[float], list[float]]]]) -> Drawing:
    shown = named[:_MOST_HISTOGRAMS]
    columns = 3 if len(shown) > 4 else 2

    def paint(figure: Any) -> None:
        for number, (axis, (name, (edges, positives, random))) in enumerate(
            zip(panels(figure, len(shown), columns), shown, strict=True)
        ):
            filled = []
            for title, counts, colour in (("relevant", positives, _POSITIVE), ("random", random, _RANDOM)):
                if total := sum(counts):
                    shares = [count / total for count in counts]
                    axis.stairs(shares, edges, fill=True, color=colour, alpha=0.22)
                    axis.stairs(shares, edges, color=colour, linewidth=1.4, label=f"{title} pairs")
                    filled += [bin for bin, count in enumerate(counts) if count]
            if filled:
                axis.set_xlim(edges[max(min(filled) - 1, 0)], edges[min(max(filled) + 2, len(edges) - 1)])
            if sum(positives) and sum(random):
                chance = chance_above(positives, random)
                axis.set_xlabel(f"cosine; relevant above random: {chance:.1%}")
            axis.set_title(label(name, 26 if columns == 3 else 40))
            if number % columns == 0:
                axis.set_ylabel("share of pairs")
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=2)

    caption = "Cosines of queries with their relevant documents, and with documents drawn at random."
    if len(named) > len(shown):
        caption += f" The first {len(shown)} of {len(named)}."
    return draw("cosines", caption, (WIDTH, 0.4 + 2.4 * num_rows(len(shown), columns)), paint)


def _draw_maps(named: Sequence[tuple[str, dict[str, list[tuple[float, float, str]]]]], max_characters: int) -> Drawing:
    shown = named[:_MOST_MAPS]
    tooltips: dict[str, list[str]] = {}
    columns = min(2, len(shown))

    def paint(figure: Any) -> None:
        handles: dict[str, Any] = {}
        for number, (axis, (name, points)) in enumerate(zip(panels(figure, len(shown), columns), shown, strict=True)):
            for kind, (colour, marker) in _KINDS.items():
                if found := points.get(kind):
                    gid = f"map{number}{kind}"
                    (handles[kind],) = axis.plot(
                        [x for x, _, _ in found], [y for _, y, _ in found], linestyle="", marker=marker, color=colour,
                        markersize=4.0, alpha=0.7, markeredgewidth=0, gid=gid, clip_on=False,
                    )  # fmt: skip
                    tooltips[gid] = [f"{kind}: {shortened(text, max_characters)}" for _, _, text in found]
            axis.set_title(label(name))
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(True)
            axis.set_aspect("equal", adjustable="datalim")
        figure.legend(list(handles.values()), list(handles), loc="outside upper left", ncols=2)

    caption = (
        "The two directions of greatest variance of a sample; each panel has its own. Hover over a point to read it."
    )
    if len(named) > len(shown):
        caption += f" The first {len(shown)} of {len(named)}."
    height = 0.4 + (3.8 if columns == 2 else 5.2) * num_rows(len(shown), columns)
    return draw("map", caption, (WIDTH, height), paint, tooltips)
