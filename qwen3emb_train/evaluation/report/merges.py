"""What merge_search tried: the score over the share of each model, and the test scores of what it chose."""

from collections.abc import Sequence
from typing import Any

from qwen3emb_train.evaluation.report.drawing import INK, WIDTH, Drawing, draw, label, legend_above, line_style, panels
from qwen3emb_train.evaluation.report.drawing import rows_of as num_rows
from qwen3emb_train.evaluation.report.fields import Entry
from qwen3emb_train.evaluation.report.html import Html, element, joined, name_cell, number_cell, table
from qwen3emb_train.evaluation.report.inputs import MergeSearch
from qwen3emb_train.evaluation.report.page import Section, figure_of

_OWN = ("shares", "mean")  # of a tried point; its other fields are scores by set


def merges_section(merges: Sequence[MergeSearch]) -> Section | None:
    """A figure and tables for each search; None without any."""
    if not merges:
        return None
    drawings = [_drawing(number, merge) for number, merge in enumerate(merges)]
    parts = [
        joined([element("h3", merge.name), _models(merge), figure_of(drawing), _test(merge)])
        for merge, drawing in zip(merges, drawings, strict=True)
    ]
    return Section("merges", "Merge search", joined(parts), drawings)


def _points(merge: MergeSearch) -> list[Entry]:
    points = Entry(f"run.json of merges.{merge.name}, metrics", merge.figures).entries("tried")
    lengths = {len(point.numbers("shares")) for point in points}
    if len(lengths) != 1:
        raise ValueError(
            f"run.json of merges.{merge.name}: points of {sorted(lengths)} models. Run merge_search again."
        )
    return points


def _drawing(number: int, merge: MergeSearch) -> Drawing:
    points = _points(merge)
    chosen = max(points, key=lambda point: point.number("mean"))
    sets = [name for name in chosen.content if name not in _OWN]
    num_models = len(chosen.numbers("shares"))
    shown = [1] if num_models == 2 else list(range(num_models))
    line = "-" if num_models == 2 else ""  # with more models the points lie on no line

    def paint(figure: Any) -> None:
        handles: dict[str, Any] = {}
        for axis, model in zip(panels(figure, len(shown), 3, sharey=True), shown, strict=True):
            ordered = sorted(points, key=lambda point: point.numbers("shares")[model])
            shares = [point.numbers("shares")[model] for point in ordered]
            for position, name in enumerate(sets):
                one = line_style(position)
                values = [point.number(name) for point in ordered]
                (handles[name],) = axis.plot(
                    shares, values, linestyle=line, marker=one.marker, color=one.colour, alpha=0.85
                )
            if len(sets) > 1:
                values = [point.number("mean") for point in ordered]
                (handles["mean"],) = axis.plot(shares, values, linestyle=line, marker="s", color=INK, markersize=3.5)
            (handles["chosen"],) = axis.plot(
                [chosen.numbers("shares")[model]], [chosen.number("mean")], linestyle="", marker="o", markersize=11,
                markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.5,
            )  # fmt: skip
            axis.set_xlabel("t, share of model_1" if num_models == 2 else f"share of model_{model}")
            axis.margins(y=0.12)
        figure.axes[0].set_ylabel(label(str(merge.figures.get("metric", "score"))))
        legend_above(figure, handles)

    caption = f"{len(points)} merges scored on the dev sets"
    caption += "; test scores chose nothing." if merge.figures.get("test") else "."
    return draw(f"merge_{number}", caption, (WIDTH, 0.6 + 2.6 * num_rows(len(shown), 3)), paint)


def _models(merge: MergeSearch) -> Html:
    weights = list((merge.figures.get("weights") or {}).values())
    lines = [
        element("li", f"model_{position}: ", element("code", str(path)), f", share {share:.3f}")
        for position, (path, share) in enumerate(zip(merge.figures.get("models") or [], weights, strict=False))
    ]
    return element("ul", *lines, class_="lead")


def _test(merge: MergeSearch) -> Html:
    test = merge.figures.get("test") or {}
    if not test:
        return element("p", "No test sets: what chose the merge is all that judged it.", class_="lead")
    sets = list(dict.fromkeys(name for scores in test.values() for name in scores))
    best = {name: max(scores.get(name, float("-inf")) for scores in test.values()) for name in sets}
    rows = [
        [name_cell(model), *(
            number_cell(f"{scores[name]:.4f}", scores[name], best=scores[name] == best[name])
            if name in scores else number_cell("–")
            for name in sets
        )]
        for model, scores in test.items()
    ]  # fmt: skip
    return joined([element("p", "On the test sets:", class_="lead"), table(["model", *sets], rows)])
