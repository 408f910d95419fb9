"""What merge_search tried: the scores over the merge weights, and the test scores of what was chosen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qwen3emb_train.evaluation.report.fields import Entry
from qwen3emb_train.evaluation.report.inputs import MergeSearch
from qwen3emb_train.evaluation.report.page import Section
from qwen3emb_train.pages.figures import Drawing
from qwen3emb_train.pages.merge_curve import MEAN, merge_curve
from qwen3emb_train.pages.page import MISSING, Cell, Table

_OTHERS = ("weights", MEAN)  # of a tried point; its other fields are scores by set


@dataclass(frozen=True)
class _Point:
    weights: list[float]
    scores: dict[str, float]
    mean: float


def merges_section(merges: Sequence[MergeSearch]) -> Section | None:
    """A figure and the test scores of each search; None without any."""
    if not merges:
        return None
    drawings = [_drawing(number, merge) for number, merge in enumerate(merges)]
    shown = [{"name": merge.name, "models": _models(merge), "test": _test(merge)} for merge in merges]
    return Section("merges", "Merge search", drawings, {"merges": shown})


def _points(merge: MergeSearch) -> list[_Point]:
    entries = Entry(f"run.json of merges.{merge.name}, metrics", merge.metrics).entries("tried")
    sets = [name for name in entries[0].content if name not in _OTHERS]
    points = [
        _Point(entry.numbers("weights"), {name: entry.number(name) for name in sets}, entry.number(MEAN))
        for entry in entries
    ]
    lengths = {len(point.weights) for point in points}
    if len(lengths) != 1:
        raise ValueError(
            f"run.json of merges.{merge.name}: points of {sorted(lengths)} models. Run merge_search again."
        )
    return points


def _drawing(number: int, merge: MergeSearch) -> Drawing:
    points = _points(merge)
    caption = f"{len(points)} merges scored on the dev sets"
    caption += "; the test scores had no part in the choice." if merge.metrics.get("test") else "."
    chosen = max(points, key=lambda point: point.mean)
    return merge_curve(f"merge_{number}", caption, points, chosen, str(merge.metrics.get("metric", "score")))


def _models(merge: MergeSearch) -> list[tuple[Any, Any]]:
    weights = (merge.metrics.get("weights") or {}).values()
    return list(zip(merge.metrics.get("models") or [], weights, strict=False))


def _test(merge: MergeSearch) -> Table | None:
    test: dict[str, dict[str, float]] = merge.metrics.get("test") or {}
    if not test:
        return None
    sets = list(dict.fromkeys(name for scores in test.values() for name in scores))
    best = {name: max(scores[name] for scores in test.values() if name in scores) for name in sets}

    def cell(score: float | None, name: str) -> Cell:
        return Cell(MISSING) if score is None else Cell(f"{score:.4f}", mark="best" if score == best[name] else "")

    rows: list[list[Cell | str]] = [
        [model, *(cell(scores.get(name), name) for name in sets)] for model, scores in test.items()
    ]
    return Table(["model", *sets], rows)
