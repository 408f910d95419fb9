"""The score of every system on every set, with confidence intervals; as a table and as a figure."""

from collections.abc import Mapping
from typing import Any

from qwen3emb_train.evaluation.report.fields import Entry
from qwen3emb_train.evaluation.report.page import Section
from qwen3emb_train.evaluation.report.systems import Measured, Score, System
from qwen3emb_train.pages.figures import INK, WIDTH, Drawing, LineStyle, draw, label, legend_above
from qwen3emb_train.pages.page import MISSING, Cell, Table, formatted, interval

_MOST_SETS = 24  # in the figure; the table has all


def scores_section(measured: Measured, styles: Mapping[str, LineStyle]) -> Section:
    """The table of main metrics, the figure, and the table of all metrics."""
    content = {
        "has_intervals": any(score.interval for score in measured.scores),
        "main_metrics": _main_metrics(measured),
        "all_metrics": _all_metrics(measured),
    }
    return Section("scores", "Scores", [_drawing(measured, styles)], content)


def best_systems(measured: Measured, set_name: str) -> set[System]:
    """The systems with the highest score on a set, equal to four digits."""
    shown = {score.system: round(score.value, 4) for score in measured.scores if score.set == set_name}
    real = [value for value in shown.values() if value == value]
    return {system for system, value in shown.items() if real and value == max(real)}


def _main_metrics(measured: Measured) -> Table:
    found = {(score.system, score.set): score for score in measured.scores}
    systems, sets = measured.systems, measured.sets
    best = {set_name: best_systems(measured, set_name) for set_name in sets}
    metrics = {name: _metric(measured, name) for name in sets}

    def cell(system: System, set_name: str) -> Cell:
        return _cell(found.get((system, set_name)), system in best[set_name])

    if len(systems) >= len(sets):  # the longer list becomes the rows
        rows: list[list[Cell | str]] = [
            [measured.label(system), *(cell(system, name) for name in sets)] for system in systems
        ]
        return Table(["model", *(f"{name}, {metrics[name]}" for name in sets)], rows)
    head = ["set", "metric", *(measured.label(system) for system in systems)]
    by_set: list[list[Cell | str]] = [
        [name, metrics[name], *(cell(system, name) for system in systems)] for name in sets
    ]
    return Table(head, by_set, num_names=2)


def _metric(measured: Measured, set_name: str) -> str:
    return " / ".join(dict.fromkeys(score.metric for score in measured.scores if score.set == set_name))


def _cell(score: Score | None, is_best: bool) -> Cell:
    if score is None or score.value != score.value:
        return Cell(MISSING)
    return Cell(f"{score.value:.4f}", interval(score.interval), "best" if is_best else "")


def _all_metrics(measured: Measured) -> Table:
    metrics = list(dict.fromkeys(name for score in measured.scores for name in score.row.entry("scores").content))
    rows = []
    for score in measured.scores:
        row, values = score.row, score.row.entry("scores")
        rows.append([
            score.system.model,
            score.set,
            _count(row, "dim"),
            score.system.quantization or "float32",
            _count(row, "num_queries"),
            _count(row, "num_documents"),
            *(formatted(values.number(name) if values.has(name) else None) for name in metrics),
            formatted(row.number("pairs_per_second") if row.has("pairs_per_second") else None, ",.1f"),
        ])  # fmt: skip
    head = ["model", "set", "dim", "vectors", "queries", "documents", *metrics, "pairs/s"]
    return Table(head, rows, num_names=2)


def _tick(name: str, metric: str) -> str:
    return label(name, 30) if metric == name else f"{label(name, 30)}\n{label(metric, 30)}"


def _count(row: Entry, field: str) -> str:
    return f"{row.integer(field):,}" if row.has(field) else MISSING


def _drawing(measured: Measured, styles: Mapping[str, LineStyle]) -> Drawing:
    systems, sets = measured.full(), measured.sets[-_MOST_SETS:]
    found = {(score.system, score.set): score for score in measured.scores}
    step = 1.0 / (len(systems) + 1)

    def paint(figure: Any) -> None:
        axis = figure.subplots()
        handles: dict[str, Any] = {}
        for number, system in enumerate(systems):
            one = styles[system.model]
            for place, set_name in enumerate(sets):
                score = found.get((system, set_name))
                if score is None or score.value != score.value:
                    continue
                height = place + (number - (len(systems) - 1) / 2) * step
                bar = axis.barh(height, score.value, step * 0.82, color=one.colour, alpha=0.75)
                handles.setdefault(system.model, bar)
                if score.interval:
                    axis.plot(score.interval, [height, height], color=INK, linewidth=1.1, solid_capstyle="butt")
        axis.set_yticks(range(len(sets)), [_tick(name, _metric(measured, name)) for name in sets])
        axis.set_ylim(len(sets) - 0.5, -0.5)
        axis.grid(visible=False, axis="y")
        axis.tick_params(axis="y", length=0)
        legend_above(figure, handles)

    caption = "The main metric of every set"
    caption += "; lines are confidence intervals." if any(score.interval for score in measured.scores) else "."
    if len(systems) < len(measured.systems):
        caption += " Each model with its longest vectors."
    if len(sets) < len(measured.sets):
        caption += f" The last {len(sets)} of {len(measured.sets)} sets; the table has all."
    height = 0.8 + len(sets) * max(0.5, 0.16 * len(systems) + 0.16)
    return draw("scores", caption, (WIDTH, height), paint)
