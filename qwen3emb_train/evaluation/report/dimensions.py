"""The Matryoshka curve: the score over the number of dimensions kept."""

from collections.abc import Mapping
from typing import Any

from qwen3emb_train.evaluation.report.page import Section
from qwen3emb_train.evaluation.report.systems import MEAN, Measured
from qwen3emb_train.pages.figures import WIDTH, LineStyle, draw, label, legend_above, num_rows, panels

_MOST_PANELS = 6
_STYLES = ("-", "--", ":", "-.")


def dimensions_section(measured: Measured, styles: Mapping[str, LineStyle]) -> Section | None:
    """Main metric over dimensions, one panel per set; None where no model was measured at several."""
    curves: dict[str, dict[tuple[str, str], dict[int, float]]] = {}
    for score in measured.scores:
        dim = score.system.dim
        if dim is not None and score.value == score.value:
            key = (score.system.model, score.system.quantization)
            curves.setdefault(score.set, {}).setdefault(key, {})[dim] = score.value
    drawn = {name: found for name, found in curves.items() if any(len(points) > 1 for points in found.values())}
    if not drawn:
        return None
    names = sorted(drawn, key=lambda name: name != MEAN)  # the mean first
    shown = names[:_MOST_PANELS]
    quantizations = list(dict.fromkeys(quantization for found in drawn.values() for _, quantization in found))
    dims = sorted({dim for found in drawn.values() for points in found.values() for dim in points})
    metrics = {score.set: score.metric for score in measured.scores}

    def paint(figure: Any) -> None:
        handles: dict[str, Any] = {}
        for axis, name in zip(panels(figure, len(shown), 2), shown, strict=True):
            axis.set_xscale("log", base=2)
            for (model, quantization), points in drawn[name].items():
                one = styles[model]
                (line,) = axis.plot(
                    sorted(points), [points[dim] for dim in sorted(points)], color=one.colour, marker=one.marker,
                    linestyle=_STYLES[quantizations.index(quantization) % len(_STYLES)],
                )  # fmt: skip
                handles.setdefault(" · ".join(filter(None, (model, quantization))), line)
            axis.set_xticks(_apart(dims), [str(dim) for dim in _apart(dims)])
            axis.set_xticks([], minor=True)
            axis.set_title(label(name if metrics[name] == name else f"{name}, {metrics[name]}"))
            axis.set_xlabel("dimensions kept")
        legend_above(figure, handles)

    caption = "Main metric over the dimensions that are kept; quantised vectors in other line styles."
    if len(names) > len(shown):
        caption += f" The first {len(shown)} of {len(names)} sets."
    size = (WIDTH if len(shown) > 1 else 5.5, 0.4 + 2.6 * num_rows(len(shown), 2))
    drawing = draw("dimensions", caption, size, paint)
    return Section("dimensions", "Matryoshka dimensions", [drawing])


def _apart(dims: list[int]) -> list[int]:
    """The dimensions, without those whose numbers would overlap on a logarithmic axis; the largest stays."""
    kept: list[int] = []
    for dim in sorted(dims, reverse=True):
        if not kept or dim * 1.35 <= kept[-1]:
            kept.append(dim)
    return kept
