"""Statistics of ``clean``, as numbers and as text."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from qwen3emb_train.curation.cleaning.checks import Drop, shorten
from qwen3emb_train.data.readers import SourceLine
from qwen3emb_train.texts.overlap import OverlapRule

_NUM_SHOWN = 5  # drops of each reason
_NUM_LISTED = 20  # values of a column
_COLUMNS = ("source", "language", "task")
MALFORMED = "malformed"


@dataclass
class CleaningReport:
    """Counts, gathered line by line.

    Attributes:
        num_read: lines that are examples.
        num_malformed: lines that are not.
        dropped: lines by reason.
        found: contaminated lines by (evaluation set, rule).
        evaluation_texts: different texts of each evaluation set.
        columns: for each source, language and task: lines read, lines kept.
        shown: the first drops of each reason.
        splits: rows, queries and documents of each split.
        num_groups, largest_group: number of groups of rows that must be in one split, and rows of the largest; 0
            without a split.
        num_removed_negatives: negatives that are documents of another split.
    """

    num_read: int = 0
    num_malformed: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    found: Counter[tuple[str, str]] = field(default_factory=Counter)
    evaluation_texts: dict[str, int] = field(default_factory=dict)
    columns: dict[str, dict[str, list[int]]] = field(
        default_factory=lambda: {column: defaultdict(lambda: [0, 0]) for column in _COLUMNS}
    )
    shown: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    splits: dict[str, dict[str, int]] = field(default_factory=dict)
    num_groups: int = 0
    largest_group: int = 0
    num_removed_negatives: int = 0

    @property
    def num_kept(self) -> int:
        return self.num_read - self.dropped.total()

    def add(self, line: SourceLine, drop: Drop | None) -> None:
        """Adds a line, with the reason if it is dropped."""
        self.num_read += 1
        for column, values in self.columns.items():
            counts = values[getattr(line.example, column)]
            counts[0] += 1
            counts[1] += drop is None
        if drop is not None:
            self.dropped[drop.reason] += 1
            if drop.found is not None:
                self.found[drop.found] += 1
            if len(self.shown[drop.reason]) < _NUM_SHOWN:
                self.shown[drop.reason].append(f"{line.file.name}:{line.number}: {drop.detail}")

    def as_json(self) -> dict[str, Any]:
        """For ``report.json``."""
        contamination: dict[str, dict[str, int]] = {name: {} for name in self.evaluation_texts}
        for (name, rule), count in sorted(self.found.items()):
            contamination[name][rule] = count
        return {
            "read": self.num_read,
            "malformed": self.num_malformed,
            "kept": self.num_kept,
            "dropped": dict(self.dropped),
            "contamination": contamination,
            "evaluation_texts": self.evaluation_texts,
            "columns": {
                column: {value: {"read": read, "kept": kept} for value, (read, kept) in values.items()}
                for column, values in self.columns.items()
            },
            "splits": self.splits,
            "groups": self.num_groups,
            "largest_group": self.largest_group,
            "removed_negatives": self.num_removed_negatives,
            "shown": dict(self.shown),
        }

    def as_text(self) -> str:
        """For ``report.txt``."""
        lines = [f"{'lines':<20}{self.num_read + self.num_malformed:>10}"]
        lines.append(_row("kept", self.num_kept, self.num_read + self.num_malformed))
        dropped = self.dropped + Counter({MALFORMED: self.num_malformed})
        lines += [_row(f"  {reason}", count, self.num_read + self.num_malformed) for reason, count in dropped.items()]
        if self.evaluation_texts:
            rules = [rule.value for rule in OverlapRule]
            lines += ["", "contaminated lines  " + "".join(f"{title:>16}" for title in ("its texts", *rules))]
            for name, num_texts in self.evaluation_texts.items():
                figures = (num_texts, *(self.found[name, rule] for rule in rules))
                lines.append(f"{name:<20}" + "".join(f"{figure:>16}" for figure in figures))
            if 2 * self.found.total() > self.num_read:
                lines.append(
                    "Most lines have a text of these sets. Where training and evaluation share one corpus on purpose, "
                    "keep out only what is judged: evaluation_sets.NAME.documents=relevant."
                )
        if self.splits:
            titles = ("rows", "queries", "documents")
            lines += ["", f"{'split':<20}" + "".join(f"{title:>10}" for title in titles)]
            for name, counts in self.splits.items():
                lines.append(f"{name:<20}" + "".join(f"{counts.get(title, ''):>10}" for title in titles))
            if self.num_groups:
                lines.append(f"{self.num_groups} groups of rows, the largest of {self.largest_group} rows")
            if self.num_removed_negatives:
                lines.append(f"{self.num_removed_negatives} negatives removed: documents of another split")
        for column, values in self.columns.items():
            if len(values) > 1:
                lines += ["", f"by {column}"]
                ordered = sorted(values.items(), key=lambda item: -item[1][0])
                lines += [
                    _row(f"  {shorten(value) or '(none)'}", kept, n) for value, (n, kept) in ordered[:_NUM_LISTED]
                ]
                lines += [f"  and {len(ordered) - _NUM_LISTED} more"] if len(ordered) > _NUM_LISTED else []
        for reason, details in self.shown.items():
            lines += ["", f"{reason}, the first {len(details)}:", *(f"  {detail}" for detail in details)]
        return "\n".join(lines) + "\n"


def _row(title: str, count: int, total: int) -> str:
    return f"{title:<20}{count:>10}  {count / total if total else 0:.1%}"
