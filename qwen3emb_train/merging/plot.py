"""The search in one picture: every set's score against the weight of each model. A PNG, and a page with all points."""

from collections.abc import Sequence
from pathlib import Path

from qwen3emb_train.lineage import write_text
from qwen3emb_train.merging.search import TriedPoint
from qwen3emb_train.pages.merge_curve import MEAN, merge_curve
from qwen3emb_train.pages.page import Cell, Table, render

PLOT_FILE = "merge_search.png"
PAGE_FILE = "merge_search.html"
_TEMPLATE = Path(__file__).parent / "merge_search.html.jinja"


def plot_search(directory: Path, points: Sequence[TriedPoint], chosen: TriedPoint, metric: str) -> None:
    """Writes both files.

    Args:
        directory: receives them.
        points: what was tried.
        chosen: one of them.
        metric: what the scores are, e.g. "ndcg@10".
    """
    caption = f"{len(points)} merges scored on the dev sets."
    drawing = merge_curve("merge_search", caption, points, chosen, metric)
    (directory / PLOT_FILE).write_bytes(drawing.png)
    best_first = sorted(points, key=lambda point: point.mean, reverse=True)
    page = render(
        _TEMPLATE,
        program="merge_search",
        title=f"Merge search, {metric}",
        lead="The best first; the chosen merge is marked.",
        drawing=drawing,
        png=PLOT_FILE,
        points=Table(["weights", *chosen.scores, MEAN], [_row(point, point == chosen) for point in best_first]),
    )
    write_text(directory / PAGE_FILE, page)


def _row(point: TriedPoint, is_chosen: bool) -> list[Cell | str]:
    mark = "best" if is_chosen else ""
    weights = Cell(" / ".join(f"{weight:.3f}" for weight in point.weights), mark=mark)
    return [weights, *(f"{score:.4f}" for score in point.scores.values()), Cell(f"{point.mean:.4f}", mark=mark)]
