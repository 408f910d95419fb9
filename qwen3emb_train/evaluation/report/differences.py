"""Which of two models is better, and how certain that is: differences from the baseline, and query by query."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from qwen3emb_train.evaluation.report.page import Section
from qwen3emb_train.evaluation.report.systems import Measured, Score, System, Units, interval_of
from qwen3emb_train.pages.figures import FAINT, WIDTH, Drawing, LineStyle, draw, label, num_rows, panels
from qwen3emb_train.pages.page import Cell, Table, formatted, interval, shortened

_MOST_PANELS = 6
_MOST_IDS = 5  # named in a tooltip

Pair = tuple[Units, Units]


def differences_section(measured: Measured, styles: Mapping[str, LineStyle]) -> Section | None:
    """The table of differences, and scatter plots of the scores by query; None where there is only one system."""
    compared = [score for score in measured.scores if score.against is not None]
    pairs = _pairs(measured)
    if len(measured.systems) < 2:
        return None
    content = {"differences": _table(measured, compared) if compared else None, "without_units": measured.without_units}
    return Section("differences", "Differences", [_scatter(pairs, styles)] if pairs else [], content)


def _table(measured: Measured, compared: Sequence[Score]) -> Table:
    rows: list[list[Cell | str]] = []
    for score in compared:
        against = score.against
        assert against is not None
        difference, bounds = against.number("difference"), interval_of(against)
        mark = "better" if bounds and bounds[0] > 0 else "worse" if bounds and bounds[1] < 0 else ""
        rows.append([
            measured.label(score.system),
            against.text("baseline"),
            f"{score.set}, {score.metric}",
            f"{score.value:.4f}",
            Cell(f"{difference:+.4f}", interval(bounds, "+.4f"), mark),
            formatted(against.number("p_value") if against.has("p_value") else None),
        ])  # fmt: skip
    return Table(["model", "baseline", "set", "score", "difference", "p"], rows, num_names=3)


def _pairs(measured: Measured) -> list[Pair]:
    """Baseline and model where evaluate compared them, otherwise the first model and each other; on common ids."""
    full = measured.full()
    by_place = {(units.system, units.set): units for units in measured.units}
    names = list(
        dict.fromkeys(
            (score.against.text("baseline"), score.system.model)
            for score in measured.scores
            if score.against is not None and score.system.model != score.against.text("baseline")
        )
    ) or [(full[0].model, other.model) for other in full[1:]]
    system_of: dict[str, System] = {system.model: system for system in full}
    found = []
    for set_name in measured.sets:
        for first, second in names:
            one = by_place.get((system_of.get(first, full[0]), set_name)) if first in system_of else None
            other = by_place.get((system_of[second], set_name)) if second in system_of else None
            if one and other and one.metric == other.metric and one.values.keys() & other.values.keys():
                found.append((one, other))
    return found


def _scatter(pairs: Sequence[Pair], styles: Mapping[str, LineStyle]) -> Drawing:
    shown = pairs[:_MOST_PANELS]
    tooltips: dict[str, list[str]] = {}
    columns = 3 if len(shown) > 2 else 2

    def paint(figure: Any) -> None:
        for number, (axis, (one, other)) in enumerate(zip(panels(figure, len(shown), columns), shown, strict=True)):
            points = _points(one, other)
            colour = styles[other.system.model].colour
            axis.axline((0, 0), slope=1, color=FAINT, linewidth=0.8, linestyle=":")
            for size, (low, high) in enumerate(((1, 2), (2, 5), (5, 20), (20, 10**9))):  # bigger where more coincide
                chosen = {point: ids for point, ids in points.items() if low <= len(ids) < high}
                if not chosen:
                    continue
                gid = f"pairs{number}size{size}"
                axis.plot(
                    [x for x, _ in chosen], [y for _, y in chosen], linestyle="", marker="o", color=colour, gid=gid,
                    markersize=3.5 + 2.5 * size, alpha=0.55, markeredgewidth=0, clip_on=False,
                )  # fmt: skip
                tooltips[gid] = [_tooltip(point, ids) for point, ids in chosen.items()]
            axis.set_title(label(f"{one.set}, {one.metric}", 34))
            axis.set_xlabel(f"{label(one.system.model, 30)}\n{_comparison(one, other)}")
            axis.set_ylabel(label(other.system.model, 30))
            axis.set_aspect("equal", adjustable="datalim")

    caption = "Score of each query (pair, text) under two models; above the diagonal the upper model is better. "
    caption += "Bigger points: several with the same scores."
    if len(pairs) > len(shown):
        caption += f" The first {len(shown)} of {len(pairs)} comparisons."
    size = (WIDTH if len(shown) > 1 else 0.55 * WIDTH, (3.1 if columns == 3 else 3.9) * num_rows(len(shown), columns))
    return draw("pairs", caption, size, paint, tooltips)


def _points(one: Units, other: Units) -> dict[tuple[float, float], list[str]]:
    points: dict[tuple[float, float], list[str]] = {}
    for unit, value in one.values.items():
        if unit in other.values:
            points.setdefault((round(value, 3), round(other.values[unit], 3)), []).append(unit)
    return points


def _tooltip(point: tuple[float, float], ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _MOST_IDS} more" if len(ids) > _MOST_IDS else ""
    named = ", ".join(shortened(one, 60) for one in ids[:_MOST_IDS])
    return f"{named}{more}: {point[0]:.3f} and {point[1]:.3f}"


def _comparison(one: Units, other: Units) -> str:
    signs = Counter(
        (other.values[unit] > value) - (other.values[unit] < value)
        for unit, value in one.values.items()
        if unit in other.values
    )
    return f"{signs[1]:,} better, {signs[0]:,} equal, {signs[-1]:,} worse"
