"""How good: the score of every system on every set, with intervals; as a table and as a picture."""

from collections.abc import Mapping
from typing import Any

from qwen3emb_train.evaluation.report.drawing import WIDTH, Drawing, LineStyle, draw, label, legend_above
from qwen3emb_train.evaluation.report.html import Html, element, joined, name_cell, number_cell, table, text_cell
from qwen3emb_train.evaluation.report.page import Section, figure_of
from qwen3emb_train.evaluation.report.systems import Measured, Score, System

_MOST_SETS = 24  # in the picture; the table has all


def scores_section(measured: Measured, styles: Mapping[str, LineStyle]) -> Section:
    """The table of main metrics, the picture, and all metrics below a fold."""
    drawings = [_picture(measured, styles)]
    everything = element("details", element("summary", "All metrics"), _all_metrics(measured))
    body = joined([_main_metrics(measured), figure_of(drawings[0]), everything])
    return Section("scores", "Scores", body, drawings)


def best_systems(measured: Measured, set_name: str) -> set[System]:
    """Who shares the highest score on a set, as far as four digits tell."""
    shown = {score.system: round(score.value, 4) for score in measured.scores if score.set == set_name}
    real = [value for value in shown.values() if value == value]
    return {system for system, value in shown.items() if real and value == max(real)}


def _main_metrics(measured: Measured) -> Html:
    found = {(score.system, score.set): score for score in measured.scores}
    systems, sets = measured.systems, measured.sets
    best = {set_name: best_systems(measured, set_name) for set_name in sets}
    metrics = {name: _metric(measured, name) for name in sets}

    def cell(system: System, set_name: str) -> Html:
        return _cell(found.get((system, set_name)), system in best[set_name])

    has_intervals = any(score.interval for score in measured.scores)
    lead = "Main metric of each set, the best in bold" + ("; below, its confidence interval." if has_intervals else ".")
    if len(systems) >= len(sets):  # the longer list goes down the page
        head = ["model", *(f"{name}, {metrics[name]}" for name in sets)]
        rows = [[name_cell(measured.label(s)), *(cell(s, name) for name in sets)] for s in systems]
        return joined([element("p", lead, class_="lead"), table(head, rows)])
    head = ["set", "metric", *(measured.label(system) for system in systems)]
    rows = [[name_cell(name), text_cell(metrics[name]), *(cell(system, name) for system in systems)] for name in sets]
    return joined([element("p", lead, class_="lead"), table(head, rows, num_names=2)])


def _metric(measured: Measured, set_name: str) -> str:
    return " / ".join(dict.fromkeys(score.metric for score in measured.scores if score.set == set_name))


def _cell(score: Score | None, best: bool) -> Html:
    if score is None or score.value != score.value:
        return number_cell("–")
    interval = f"{score.interval[0]:.4f} – {score.interval[1]:.4f}" if score.interval else ""
    return number_cell(f"{score.value:.4f}", score.value, best=best, note=interval)


def _all_metrics(measured: Measured) -> Html:
    metrics = list(dict.fromkeys(name for score in measured.scores for name in score.row.entry("scores").content))
    rows = []
    for score in measured.scores:
        row, values = score.row, score.row.entry("scores")
        cells = [name_cell(score.system.model), text_cell(score.set)]
        cells += [_count(row, "dim"), text_cell(score.system.quantization or "float32")]
        cells += [_count(row, "num_queries"), _count(row, "num_documents")]
        for name in metrics:
            value = values.number(name) if values.has(name) else None
            cells.append(number_cell("–") if value is None else number_cell(f"{value:.4f}", value))
        speed = row.number("pairs_per_second") if row.has("pairs_per_second") else None
        cells.append(number_cell("–") if speed is None else number_cell(f"{speed:,.1f}", speed))
        rows.append(cells)
    head = ["model", "set", "dim", "vectors", "queries", "documents", *metrics, "pairs/s"]
    return table(head, rows, num_names=2)


def _tick(name: str, metric: str) -> str:
    return label(name, 30) if metric == name else f"{label(name, 30)}\n{label(metric, 30)}"


def _count(row: Any, field: str) -> Html:
    if not row.has(field):
        return number_cell("–")
    value = row.integer(field)
    return number_cell(f"{value:,}", float(value))


def _picture(measured: Measured, styles: Mapping[str, LineStyle]) -> Drawing:
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
                    axis.plot(score.interval, [height, height], color="#1f2328", linewidth=1.1, solid_capstyle="butt")
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
