"""A histogram of scores, as counts and as a bar chart in text: for the reports of mining and selection."""

from collections.abc import Iterable

NUM_BINS = 40
_BAR = 40  # characters


class Histogram:
    """Counts of scores from -1 to 1 (cosines, and probabilities), in bins of 0.05."""

    def __init__(self) -> None:
        self.counts = [0] * NUM_BINS
        self.total = 0.0
        self.lowest, self.highest = float("inf"), float("-inf")

    def add(self, values: Iterable[float]) -> None:
        for value in values:
            self.counts[min(NUM_BINS - 1, max(0, int((value + 1) / 2 * NUM_BINS)))] += 1
            self.total += value
            if value < self.lowest:
                self.lowest = value
            if value > self.highest:
                self.highest = value

    def __len__(self) -> int:
        return sum(self.counts)

    @property
    def mean(self) -> float | None:
        return self.total / len(self) if len(self) else None

    def lines(self, title: str) -> list[str]:
        """A bar chart in text, without the empty bins at both ends."""
        if not len(self):
            return [f"{title}: none"]
        filled = [index for index, count in enumerate(self.counts) if count]
        lines = [f"{title}: {len(self)}, mean {self.mean:.3f}, {self.lowest:.3f} .. {self.highest:.3f}"]
        for index in range(filled[0], filled[-1] + 1):
            bar = "#" * -(-self.counts[index] * _BAR // max(self.counts))
            lines.append(
                f"  {bin_edge(index):+.2f} .. {bin_edge(index + 1):+.2f} {self.counts[index]:>9} {bar}".rstrip()
            )
        return lines


def bin_edge(index: int) -> float:
    """The lower edge of a bin."""
    return -1 + index * 2 / NUM_BINS
