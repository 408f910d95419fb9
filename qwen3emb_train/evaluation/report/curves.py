"""Metrics of training and validation over the steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from qwen3emb_train.evaluation.report.inputs import TrainingRun
from qwen3emb_train.evaluation.report.page import Section
from qwen3emb_train.pages.figures import (
    WIDTH,
    Drawing,
    LineStyle,
    draw,
    label,
    legend_above,
    num_rows,
    panels,
)

_STANDARD = {"loss": "loss", "grad_norm": "gradient norm (before clipping)", "lr": "learning rate",
             "tokens_per_second": "tokens a second"}  # fmt: skip
_VALIDATION = "validation/"


@dataclass(frozen=True)
class Panel:
    """One set of axes.

    Attributes:
        title: what is drawn.
        lines: key of metrics.jsonl -> line style; None = the run's own.
        smoothing: window of the moving average, in recorded steps; the recorded values are drawn faintly; 1 = none.
    """

    title: str
    lines: dict[str, str | None]
    smoothing: int = 1


def training_section(
    runs: Sequence[TrainingRun], styles: Mapping[str, LineStyle], metrics: Sequence[str], smoothing: int
) -> Section:
    """Loss, gradient norm, learning rate and speed, and the ``metrics`` of the config.

    Args:
        runs: at least one.
        styles: by the runs' names.
        metrics: further keys of metrics.jsonl to draw.
        smoothing: window of the moving average, in recorded steps.

    Raises:
        ValueError: no run recorded one of ``metrics`` as a number.
    """
    recorded = {key for run in runs for key in keys_of(run)}
    for key in metrics:
        if key not in recorded:
            raise ValueError(f"metrics has {key!r}, which no run recorded. They have: {', '.join(sorted(recorded))}.")
    shown = {key: title for key, title in _STANDARD.items() if key in recorded}
    loss = shown.pop("loss", None)
    drawings = []
    if loss:
        caption = f"Loss of the batch. Bold: mean over up to {smoothing} recorded steps; faint: as recorded."
        drawings.append(curves("loss", caption, runs, styles, [Panel(loss, {"loss": None}, smoothing)]))
    if shown:
        drawn = [Panel(title, {key: None}, 1 if key == "lr" else smoothing) for key, title in shown.items()]
        drawings.append(curves("training", "Optimizer and speed, smoothed likewise.", runs, styles, drawn))
    if metrics:
        drawn = [Panel(key, {key: None}, smoothing) for key in metrics]
        drawings.append(curves("metrics", "The metrics listed in metrics=.", runs, styles, drawn))
    return Section("training", "Training", drawings)


def validation_section(runs: Sequence[TrainingRun], styles: Mapping[str, LineStyle]) -> Section | None:
    """Metrics on held-out rows, each the mean over sources; None where no run has any."""
    keys = dict.fromkeys(key for run in runs for key in keys_of(run) if key.startswith(_VALIDATION))
    means = [key for key in keys if key.count("/") == 1]
    if not means:
        return None
    drawn = [Panel(key.removeprefix(_VALIDATION), {key: None}) for key in means]
    caption = "On held-out rows; with several sources, the mean over them."
    drawings = [curves("validation", caption, runs, styles, drawn)]
    return Section("validation", "Validation", drawings)


def keys_of(run: TrainingRun) -> list[str]:
    """The metrics that a run recorded as numbers, in the order in which they first appear."""
    numbers = (key for line in run.lines for key, value in line.items() if isinstance(value, int | float))
    return [key for key in dict.fromkeys(numbers) if run.series(key)[0]]


def curves(
    name: str,
    caption: str,
    runs: Sequence[TrainingRun],
    styles: Mapping[str, LineStyle],
    drawn: Sequence[Panel],
) -> Drawing:
    """Small multiples over the steps, every run in each of them.

    Args:
        name: of the drawing, also of its PNG file.
        caption: what it shows.
        runs: drawn in every panel.
        styles: by the runs' names.
        drawn: the panels.
    """
    columns = 1 if len(drawn) == 1 else 2

    def paint(figure: Any) -> None:
        handles: dict[str, Any] = {}
        for axis, panel in zip(panels(figure, len(drawn), columns), drawn, strict=True):
            for run in runs:
                for key, style in panel.lines.items():
                    steps, values = run.series(key)
                    if steps:
                        drawing = _line(axis, steps, values, styles[run.name], style, panel.smoothing)
                        handles.setdefault(run.name, drawing)
            axis.set_title(label(panel.title))
            axis.set_xlabel("step")
        if len(runs) > 1:
            legend_above(figure, handles)

    height = 2.9 if columns == 1 else (2.3 if len(drawn) <= 4 else 2.0) * num_rows(len(drawn), columns)
    return draw(name, caption, (WIDTH, height + 0.3 * (len(runs) > 1)), paint)


def moving_average(values: Sequence[float], window: int) -> list[float]:
    """The mean of each value and its neighbours, ``window`` or ``window`` + 1 together; fewer, evenly, at both ends.

    Centred: a mean of past values only would draw a falling loss above the recorded one.
    """
    reach = [min(window // 2, place, len(values) - 1 - place) for place in range(len(values))]
    return [fmean(values[place - near : place + near + 1]) for place, near in enumerate(reach)]


def _line(
    axis: Any, steps: list[int], values: list[float], drawn_as: LineStyle, style: str | None, smoothing: int
) -> Any:
    marker = drawn_as.marker if len(steps) < 30 and smoothing == 1 else None  # a lone point is no line
    line = style or drawn_as.line
    if smoothing == 1:
        (drawn,) = axis.plot(steps, values, color=drawn_as.colour, linestyle=line, marker=marker)
        return drawn
    window = max(1, min(smoothing, len(values) // 4))
    axis.plot(steps, values, color=drawn_as.colour, linestyle=line, linewidth=0.8, alpha=0.35)
    (drawn,) = axis.plot(
        steps, moving_average(values, window), color=drawn_as.colour, linestyle=line, linewidth=2.0,
        marker=drawn_as.marker if len(steps) == 1 else None,
    )  # fmt: skip
    return drawn
