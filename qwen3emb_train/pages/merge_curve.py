"""The scores of merged models over the merge weights, for the page of merge_search and for the report."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from qwen3emb_train.pages.figures import INK, WIDTH, Drawing, draw, label, legend_above, line_style, num_rows, panels

MEAN = "mean"


@runtime_checkable
class MergePoint(Protocol):
    """A merge that was scored: a weight for each model, the score by set, and the mean over sets."""

    @property
    def weights(self) -> Sequence[float]: ...

    @property
    def scores(self) -> Mapping[str, float]: ...

    @property
    def mean(self) -> float: ...


def merge_curve(name: str, caption: str, points: Sequence[MergePoint], chosen: MergePoint, metric: str) -> Drawing:
    """Every set's score, and the mean, against the merge weights.

    With two models: against t, the second model's weight. With more: a panel for each model's weight, and the points
    without lines, because they lie on no line.

    Args:
        name: of the drawing, also of its PNG file.
        caption: what it shows.
        points: at least one; all have as many weights, and the same sets.
        chosen: the point to mark.
        metric: name of the scores, e.g. "ndcg@10".
    """
    num_models, sets = len(chosen.weights), list(chosen.scores)
    shown = [1] if num_models == 2 else list(range(num_models))
    line = "-" if num_models == 2 else ""

    def paint(figure: Any) -> None:
        handles: dict[str, Any] = {}
        for axis, model in zip(panels(figure, len(shown), 3, sharey=True), shown, strict=True):
            ordered = sorted(points, key=lambda point: point.weights[model])
            weights = [point.weights[model] for point in ordered]
            for position, set_name in enumerate(sets):
                style, values = line_style(position), [point.scores[set_name] for point in ordered]
                (handles[set_name],) = axis.plot(
                    weights, values, linestyle=line, marker=style.marker, color=style.colour, alpha=0.85
                )
            if len(sets) > 1:
                means = [point.mean for point in ordered]
                (handles[MEAN],) = axis.plot(weights, means, linestyle=line, marker="s", color=INK, markersize=3.5)
            (handles["chosen"],) = axis.plot(
                [chosen.weights[model]], [chosen.mean], linestyle="", marker="o", markersize=11,
                markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.5,
            )  # fmt: skip
            axis.set_xlabel("t (weight of model_1)" if num_models == 2 else f"weight of model_{model}")
            axis.margins(y=0.12)
        figure.axes[0].set_ylabel(label(metric))
        legend_above(figure, handles)

    return draw(name, caption, (WIDTH, 0.6 + 2.6 * num_rows(len(shown), 3)), paint)
