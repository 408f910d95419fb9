"""The health of a run: diagnostics recorded in training, and the alerts they raised."""

from collections.abc import Mapping, Sequence
from typing import Any

from qwen3emb_train.evaluation.report.curves import Panel, curves, keys_of
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
from qwen3emb_train.pages.page import MISSING

# Of two keys the one recorded more often is drawn: diagnostics may have been taken only once or twice.
_COSINES = {
    "positives": (("health/positive_cosine", "positive_cosine"), "-"),
    "hardest negatives": (("health/hardest_cosine", "hardest_negative_cosine"), "--"),
    "all negatives": (("health/negative_cosine",), ":"),
}
_PROBABILITIES = {
    "relevant": (("health/relevant_probability",), "-"),
    "others": (("health/other_probability",), "--"),
}
_METRICS = {
    "health/accuracy_at_1": "accuracy@1 in the batch",
    "health/effective_rank": "directions in use (effective rank)",
    "health/query_cosine": "cosine between different queries",
    "masked_share": "share of negatives masked as false",
    "health/uniformity": "uniformity (lower: spread out)",
    "health/alignment": "alignment (lower: closer)",
    "health/auc": "AUC, relevant against others",
    "health/best_is_relevant": "queries whose best document is relevant",
    "health/calibration_error": "calibration error",
    "health/yes_share": "share answered yes",
    "weights/relative_change": "relative change of the weights",
    "lora/relative_update": "LoRA beside its base",
}
# key of a histogram -> its name, and the range of its bins.
_HISTOGRAMS = {
    "health/positive_histogram": ("positives", (-1.0, 1.0)),
    "health/hardest_histogram": ("hardest in batch", (-1.0, 1.0)),
    "health/own_negative_histogram": ("own hard negatives", (-1.0, 1.0)),
    "health/relevant_histogram": ("P(yes), relevant", (0.0, 1.0)),
    "health/other_histogram": ("P(yes), others", (0.0, 1.0)),
}


def health_section(runs: Sequence[TrainingRun], styles: Mapping[str, LineStyle]) -> Section | None:
    """Alerts, curves and the newest histograms; None where no run has any of it."""
    recorded = {key for run in runs for key in keys_of(run)}
    several = [
        _several("cosine", _COSINES, runs),
        _several("P(yes)", _PROBABILITIES, runs),
    ]
    drawn = [panel for panel in several if panel is not None]
    drawn += [Panel(title, {key: None}) for key, title in _METRICS.items() if key in recorded]
    drawings = []
    if drawn:
        caption = (
            "Diagnostics of the batch. Cosines: positives solid, hardest negatives dashed, all negatives dotted; "
            "P(yes): relevant documents solid, others dashed. What is learned is the gap, not the height."
        )
        drawings.append(curves("health", caption, runs, styles, drawn))
    if any(_histograms(run) for run in runs):
        drawings.append(_draw_histograms([run for run in runs if _histograms(run)]))
    if not drawings:
        return None
    return Section("health", "Health", drawings, {"runs": [_alerts(run) for run in runs]})


def _several(title: str, named: Mapping[str, tuple[tuple[str, ...], str]], runs: Sequence[TrainingRun]) -> Panel | None:
    lines: dict[str, str | None] = {}
    for keys, style in named.values():
        lengths = {key: max(len(run.series(key)[0]) for run in runs) for key in keys}
        best = max(lengths, key=lambda key: lengths[key])
        if lengths[best]:
            lines[best] = style
    return Panel(title, lines) if lines else None


def _alerts(run: TrainingRun) -> dict[str, Any]:
    health = run.health or {}
    active, alerts = health.get("active") or [], health.get("alerts") or []
    shown = [{"step": alert.get("step"), "text": alert.get("text")} for alert in alerts or active]
    step = health.get("step", MISSING) if run.health is not None else None
    return {"name": run.name, "active": len(active), "alerts": shown, "step": step}


def _histograms(run: TrainingRun) -> dict[str, list[float]]:
    newest = {key: run.last(key) for key in _HISTOGRAMS} | {
        key: value for key, value in ((run.health or {}).get("metrics") or {}).items() if key in _HISTOGRAMS
    }
    return {
        key: [float(count) for count in counts]
        for key, counts in newest.items()
        if isinstance(counts, list) and sum(counts) > 0
    }


def _draw_histograms(runs: Sequence[TrainingRun]) -> Drawing:
    colours = dict(zip(_HISTOGRAMS, ("#0072b2", "#d55e00", "#e69f00", "#0072b2", "#8a8f98"), strict=True))

    def paint(figure: Any) -> None:
        handles: dict[str, Any] = {}
        for axis, run in zip(panels(figure, len(runs), 2), runs, strict=True):
            lows, highs = [], []
            for key, counts in _histograms(run).items():
                title, (low, high) = _HISTOGRAMS[key]
                edges = [low + (high - low) * bin / len(counts) for bin in range(len(counts) + 1)]
                shares = [count / sum(counts) for count in counts]
                axis.stairs(shares, edges, fill=True, color=colours[key], alpha=0.22)
                handles[title] = axis.stairs(shares, edges, color=colours[key], linewidth=1.4)
                filled = [bin for bin, count in enumerate(counts) if count]
                lows.append(edges[max(filled[0] - 1, 0)])
                highs.append(edges[min(filled[-1] + 2, len(counts))])
            axis.set_xlim(min(lows), max(highs))
            axis.set_title(label(run.name))
            axis.set_xlabel(
                "P(yes)" if min(lows) >= 0 and "health/relevant_histogram" in _histograms(run) else "cosine"
            )
            axis.set_ylabel("share")
        legend_above(figure, handles)

    caption = "Distributions in the batch of the newest diagnostics."
    return draw("health_histograms", caption, (WIDTH, 0.3 + 2.5 * num_rows(len(runs), 2)), paint)
