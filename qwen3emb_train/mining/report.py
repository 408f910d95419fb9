"""What mining found, as figures and as text."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_BINS = 20
_BAR = 40  # characters


@dataclass
class MiningStatistics:
    """Counts and cosines, gathered example by example.

    Attributes:
        num_negatives: wanted for each example.
        num_queries: different queries that were searched.
        num_candidates: documents in the corpus.
        num_left_out: examples whose positives score too low.
        num_short: examples with fewer negatives than wanted.
        num_without: examples without any.
        num_positive_first: examples whose best positive scores at least as high as every document of the corpus.
        positive_scores, negative_scores: all cosines.
    """

    num_negatives: int
    num_queries: int
    num_candidates: int
    num_left_out: int = 0
    num_short: int = 0
    num_without: int = 0
    num_positive_first: int = 0
    num_examples: int = 0
    positive_scores: list[float] = field(default_factory=list)
    negative_scores: list[float] = field(default_factory=list)

    def add(self, positive_scores: Sequence[float], negative_scores: Sequence[float], best_score: float) -> None:
        """One example: cosines of its positives and negatives, and of the corpus's best document."""
        self.num_examples += 1
        self.num_short += len(negative_scores) < self.num_negatives
        self.num_without += not negative_scores
        # A little slack: the two products of the same vectors may be rounded differently.
        self.num_positive_first += max(positive_scores) >= best_score - 1e-6
        self.positive_scores.extend(positive_scores)
        self.negative_scores.extend(negative_scores)

    @property
    def counts(self) -> dict[str, Any]:
        """For ``run.json``."""
        return {
            "num_examples": self.num_examples,
            "num_queries": self.num_queries,
            "num_candidates": self.num_candidates,
            "num_left_out": self.num_left_out,
            "num_short": self.num_short,
            "num_without": self.num_without,
            "num_positive_first": self.num_positive_first,
            "mean_positive_score": _mean(self.positive_scores),
            "mean_negative_score": _mean(self.negative_scores),
        }

    def as_text(self) -> str:
        """The report, for people."""
        lines = [
            f"examples mined                           {self.num_examples}",
            f"  with fewer than {self.num_negatives} negatives{'':<14} {self.num_short}",
            f"  with none                              {self.num_without}",
            f"  whose positive ranks first             {self.num_positive_first}",
            f"examples left out (positive scores low)  {self.num_left_out}",
            f"different queries                        {self.num_queries}",
            f"documents searched                       {self.num_candidates}",
            "",
            *histogram("positive cosines", self.positive_scores),
            "",
            *histogram("negative cosines", self.negative_scores),
        ]
        return "\n".join(lines) + "\n"


def histogram(title: str, values: Sequence[float]) -> list[str]:
    """Lines of a bar chart over -1 .. 1 in steps of 0.1, the empty ends left out."""
    if not values:
        return [f"{title}: none"]
    counts = [0] * _BINS
    for value in values:
        counts[min(_BINS - 1, max(0, int((value + 1) / 2 * _BINS)))] += 1
    filled = [index for index, count in enumerate(counts) if count]
    lines = [f"{title}: {len(values)}, mean {_mean(values):.3f}, {min(values):.3f} .. {max(values):.3f}"]
    for index in range(filled[0], filled[-1] + 1):
        low = -1 + index * 2 / _BINS
        bar = "#" * -(-counts[index] * _BAR // max(counts))
        lines.append(f"  {low:+.1f} .. {low + 2 / _BINS:+.1f} {counts[index]:>9} {bar}".rstrip())
    return lines


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
