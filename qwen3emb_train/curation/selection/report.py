"""Statistics of selection, as numbers and as text."""

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from qwen3emb_train.curation.cleaning.checks import shorten
from qwen3emb_train.data.records import TrainingExample
from qwen3emb_train.index.score_histogram import Histogram

_NUM_SHOWN = 10  # pairs on each side of the threshold
_NUM_LISTED = 20  # values of a column
_COLUMNS = ("source", "language", "task")
_LEVELS = " ▁▂▃▄▅▆▇█"
_SPARK_BINS = 20  # from 0 to 1
_TEXT = 160  # characters of an example


@dataclass
class PairCounts:
    """Statistics of a set of pairs.

    Attributes:
        num_pairs, num_kept: pairs scored, pairs kept.
        total: sum of the cosines.
        bins: pairs with a cosine of 0 to 0.05, 0.05 to 0.1, ...; negative ones count in the first.
    """

    num_pairs: int = 0
    num_kept: int = 0
    total: float = 0.0
    bins: list[int] = field(default_factory=lambda: [0] * _SPARK_BINS)

    def add(self, score: float, is_kept: bool) -> None:
        self.num_pairs += 1
        self.num_kept += is_kept
        self.total += score
        self.bins[min(_SPARK_BINS - 1, max(0, int(score * _SPARK_BINS)))] += 1

    def sparkline(self) -> str:
        """The histogram in one line of block characters; a non-empty bin shows at least the lowest."""
        most = max(self.bins)
        return "".join(_LEVELS[-(-count * (len(_LEVELS) - 1) // most)] for count in self.bins)

    def as_json(self) -> dict[str, Any]:
        share = self.num_kept / self.num_pairs
        return {
            "pairs": self.num_pairs, "kept": self.num_kept, "kept_share": share, "mean": self.total / self.num_pairs,
        }  # fmt: skip


@dataclass
class SelectionReport:
    """Counts and cosines, gathered pair by pair.

    Attributes:
        min_score: the threshold; None where only ranks count.
        num_examples, num_kept: examples read, examples kept (with at least one positive).
        num_unscored: examples of other tasks, kept unchanged.
        num_malformed: lines that are not examples.
        rejected: examples by reason.
        all_pairs: all pairs that were scored.
        columns: pairs by source, language and task.
        histogram: of all cosines.
    """

    min_score: float | None
    num_examples: int = 0
    num_kept: int = 0
    num_unscored: int = 0
    num_malformed: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    all_pairs: PairCounts = field(default_factory=PairCounts)
    columns: dict[str, dict[str, PairCounts]] = field(
        default_factory=lambda: {column: defaultdict(PairCounts) for column in _COLUMNS}
    )
    histogram: Histogram = field(default_factory=Histogram)
    # Heaps of (closeness, index, cosine, query, document): those closest to the threshold are kept.
    _above: list[tuple[float, int, float, str, str]] = field(default_factory=list)
    _below: list[tuple[float, int, float, str, str]] = field(default_factory=list)

    def add(self, example: TrainingExample, scores: Sequence[float], is_kept: Sequence[bool]) -> None:
        """Adds a scored example.

        Args:
            example: with one positive or more.
            scores: the cosine of each positive.
            is_kept: whether each is kept.
        """
        self.histogram.add(scores)
        for document, score, kept in zip(example.positives, scores, is_kept, strict=True):
            self.all_pairs.add(score, kept)
            for column, values in self.columns.items():
                values[getattr(example, column)].add(score, kept)
            if self.min_score is not None:
                heap = self._above if score > self.min_score else self._below
                number = self.all_pairs.num_pairs  # of equally close ones the first is kept
                item = (-abs(score - self.min_score), -number, score, example.query, document)
                (heapq.heappush if len(heap) < _NUM_SHOWN else heapq.heappushpop)(heap, item)

    def near_threshold(self) -> list[tuple[float, str, str]]:
        """Cosine, query, document of the pairs closest to the threshold, the highest cosine first."""
        return sorted((item[2:] for item in (*self._above, *self._below)), key=lambda shown: -shown[0])

    def as_json(self) -> dict[str, Any]:
        """For ``report.json``."""
        return {
            "examples": self.num_examples,
            "kept": self.num_kept,
            "unscored": self.num_unscored,
            "malformed": self.num_malformed,
            "rejected": self.rejected,
            "min_score": self.min_score,
            "pairs": self.all_pairs.as_json(),
            "histogram": self.histogram.counts,
            "columns": {
                column: {value: share.as_json() for value, share in values.items()}
                for column, values in self.columns.items()
            },
            "near_threshold": [
                {"cosine": score, "query": query, "positive": document}
                for score, query, document in self.near_threshold()
            ],
        }

    def as_text(self) -> str:
        """For ``report.txt``."""
        lines = [
            f"examples                 {self.num_examples:>10}",
            f"kept                     {self.num_kept:>10}  {self.num_kept / max(1, self.num_examples):.1%}",
        ]
        lines += [f"  {reason:<23}{count:>10}" for reason, count in self.rejected.items()]
        lines += [f"  of other tasks, kept   {self.num_unscored:>10}"] if self.num_unscored else []
        lines += [f"malformed lines          {self.num_malformed:>10}"] if self.num_malformed else []
        lines += ["", f"{'':<32}{'pairs':>10}{'kept':>10}{'share':>8}{'mean':>8}  cosines from 0 to 1"]
        lines.append(_row("all", self.all_pairs))
        for column, values in self.columns.items():
            if len(values) > 1:
                lines.append(f"by {column}")
                ordered = sorted(values.items(), key=lambda item: -item[1].num_pairs)
                lines += [_row(f"  {shorten(value, 29) or '(none)'}", share) for value, share in ordered[:_NUM_LISTED]]
                lines += [f"  and {len(ordered) - _NUM_LISTED} more"] if len(ordered) > _NUM_LISTED else []
        lines += ["", *self.histogram.lines("cosines")]
        if self.min_score is not None:
            lines += ["", f"To read: the pairs nearest to the threshold of {self.min_score}"]
            is_above = True
            for score, query, document in self.near_threshold():
                if is_above and score <= self.min_score:
                    lines.append(f"  {'-' * 20} below: rejected")
                    is_above = False
                lines += [f"  {score:.3f}  {shorten(query, _TEXT)}", f"         {shorten(document, _TEXT)}"]
        return "\n".join(lines) + "\n"


def _row(title: str, share: PairCounts) -> str:
    figures = share.as_json()
    counts = f"{share.num_pairs:>10}{share.num_kept:>10}{figures['kept_share']:>8.1%}{figures['mean']:>8.3f}"
    return f"{title:<32}{counts}  {share.sparkline()}"
