"""The diagnostics as a table for a terminal, and as ``health.json``."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from qwen3emb_train.lineage import write_text
from qwen3emb_train.training.health.alerts import Alerts
from qwen3emb_train.training.health.vectors import HISTOGRAM_EDGES

_BLOCKS = " ▁▂▃▄▅▆▇█"
_COSINES = (
    ("positives", "health/positive_cosine", "health/positive_histogram"),
    ("hardest in batch", "health/hardest_cosine", "health/hardest_histogram"),
    ("own hard negatives", "health/own_negative_cosine", "health/own_negative_histogram"),
)
_PROBABILITIES = (
    ("P(yes) of relevant documents", "health/relevant_probability", "health/relevant_histogram"),
    ("P(yes) of the others", "health/other_probability", "health/other_histogram"),
)
_LINES = (
    ("AUC of relevant against others", "health/auc", ".3f"),
    ("answered yes", "health/yes_share", ".1%"),
    ("   relevant", "health/relevant_share", ".1%"),
    ("best document is relevant", "health/best_is_relevant", ".1%"),
    ("calibration error", "health/calibration_error", ".3f"),
    ("first places (accuracy@1)", "health/accuracy_at_1", ".1%"),
    ("negatives masked", "masked_share", ".1%"),
    ("effective negatives", "effective_negatives", ",.1f"),
    ("repeated queries", "health/duplicate_queries", ".1%"),
    ("repeated positives", "health/duplicate_positives", ".1%"),
    ("directions in use", "health/effective_rank", ".1f"),
    ("   of at most", "health/largest_rank", ".0f"),
    ("uniformity (lower: spread out)", "health/uniformity", ".2f"),
    ("alignment (lower: closer)", "health/alignment", ".2f"),
    ("vector norm", "health/norm", ".3g"),
    ("   standard deviation", "health/norm_std", ".2g"),
    ("weights moved", "weights/moved_share", ".1%"),
    ("   relative change", "weights/relative_change", ".1e"),
    ("LoRA beside its base", "lora/relative_update", ".1e"),
)


def format_health(step: int, metrics: Mapping[str, object], alerts: Alerts) -> str:
    """The recorded metrics, a line each, and the active alerts.

    Args:
        step: steps done.
        metrics: of that step.
        alerts: of the run.
    """
    lines = [f"health after step {step}"]
    for lowest, named in (("-1", _COSINES), ("0", _PROBABILITIES)):
        for label, name, counts in named:
            value, histogram = metrics.get(name), metrics.get(counts)
            if isinstance(value, float) and isinstance(histogram, list):
                lines.append(f"  {label:<32}{value:>8.3f}  {lowest:>2} |{sparkline(histogram)}| 1")
    for label, name, form in _LINES:
        value = metrics.get(name)
        if isinstance(value, int | float):
            lines.append(f"  {label:<32}{value:>8{form}}")
    norms = {name.removeprefix("gradient_norm/"): value for name, value in metrics.items() if "gradient_norm/" in name}
    if norms:
        lines.append("  gradient norms: " + ", ".join(f"{group} {norm:.2g}" for group, norm in norms.items()))
    lines += [f"  ! {alert}" for alert in alerts.active] or ["  no alert"]
    return "\n".join(lines)


def sparkline(counts: list[float]) -> str:
    """A histogram in one line of text; every bin that is not empty is visible."""
    highest = max(counts) or 1.0
    return "".join(_BLOCKS[-(-int(count * 1000) * 8 // int(highest * 1000))] for count in counts)


def write_health(path: Path, step: int, metrics: Mapping[str, object], alerts: Alerts) -> None:
    """Writes the newest metrics, the active alerts, and all alerts so far.

    Args:
        path: replaced as a whole.
        step: steps done.
        metrics: of that step.
        alerts: of the run.
    """
    content = {"step": step, "metrics": without_nan(metrics), "histogram_edges": HISTOGRAM_EDGES} | alerts.to_json()
    write_text(path, json.dumps(content) + "\n")


def without_nan(metrics: Mapping[str, object]) -> dict[str, object]:
    """None for numbers that are not finite: JSON knows no NaN, and strict readers refuse it."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in metrics.items()
    }
