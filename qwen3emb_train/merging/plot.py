"""The search in one picture: every set's score against the weight of each model. A PNG, and a page with an SVG."""

import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from qwen3emb_train.merging.search import TriedPoint

PLOT_FILE = "merge_search.png"
PAGE_FILE = "merge_search.html"
_MEAN = "mean"


def require_matplotlib() -> None:
    """Before hours of evaluation, not after.

    Raises:
        ImportError: matplotlib is not installed; the message says how to install it.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ImportError("The plot of a merge search needs matplotlib: pip install 'qwen3emb-train[merge]'.") from None


def plot_search(directory: Path, points: Sequence[TriedPoint], chosen: TriedPoint, metric: str) -> None:
    """Writes both files.

    With two models: score against t, the second model's weight. With more: a panel for each model's weight, and the
    points as they are, because they lie on no line.

    Args:
        metric: what the scores are, e.g. "ndcg@10".
    """
    from matplotlib import rc_context

    figure = _figure(points, chosen, metric)
    figure.savefig(directory / PLOT_FILE, dpi=144, metadata={"Software": None})
    drawing = io.StringIO()
    with rc_context({"svg.hashsalt": "merge_search"}):  # equal searches, equal files
        figure.savefig(drawing, format="svg", metadata={"Date": None, "Creator": None})
    svg = drawing.getvalue()
    rows = "\n".join(_row(point, point == chosen) for point in sorted(points, key=lambda p: p.mean, reverse=True))
    head = "".join(f"<th>{escape(name)}</th>" for name in ("weights", *points[0].scores, _MEAN))
    page = (
        f"<!doctype html>\n<meta charset='utf-8'>\n<title>merge search, {escape(metric)}</title>\n"
        "<style>body{font-family:sans-serif;margin:2em}td,th{padding:.2em 1em;text-align:right}"
        "tr.chosen{font-weight:bold}</style>\n"
        f"<h1>Merge search, {escape(metric)}</h1>\n{svg[svg.index('<svg') :]}\n"
        f"<table>\n<tr>{head}</tr>\n{rows}\n</table>\n"
    )
    (directory / PAGE_FILE).write_text(page, encoding="utf-8")


def _figure(points: Sequence[TriedPoint], chosen: TriedPoint, metric: str) -> Any:
    from matplotlib.figure import Figure  # not pyplot, which keeps every figure and looks for a display

    num_models = len(chosen.weights)
    panels = [1] if num_models == 2 else list(range(num_models))
    line = "-" if num_models == 2 else ""
    figure = Figure(figsize=(max(6.0, 4.0 * len(panels)), 4.5), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for model, axis in zip(panels, axes, strict=True):
        ordered = sorted(points, key=lambda point, model=model: point.weights[model])  # type: ignore[misc]
        weights = [point.weights[model] for point in ordered]
        for name in chosen.scores:
            scores = [point.scores[name] for point in ordered]
            axis.plot(weights, scores, f"o{line}", label=name, alpha=0.6, markersize=4)
        if len(chosen.scores) > 1:
            axis.plot(weights, [point.mean for point in ordered], f"ks{line}", label=_MEAN, markersize=4)
        axis.plot([chosen.weights[model]], [chosen.mean], "*", color="red", markersize=14, label="chosen")
        axis.set_xlabel("t (weight of the second model)" if num_models == 2 else f"weight of model {model}")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(metric)
    axes[0].legend()
    return figure


def _row(point: TriedPoint, is_chosen: bool) -> str:
    cells = [" / ".join(f"{weight:.3f}" for weight in point.weights), *(f"{s:.4f}" for s in point.scores.values())]
    cells.append(f"{point.mean:.4f}")
    return f"<tr{' class=chosen' if is_chosen else ''}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
