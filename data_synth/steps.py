"""Progress of the steps that ask no teacher: preparing and publishing."""

import sys
import time


class StepProgress:
    """Says on standard error how far a step is, with the time left, at intervals.

    Args:
        name: of what is done, put before each line.
        seconds_between_lines: at least; a step shorter than that says nothing.
    """

    def __init__(self, name: str, seconds_between_lines: float = 10.0) -> None:
        self._name, self._seconds = name, seconds_between_lines
        self._step, self._first, self._started = "", 0, 0.0
        self._last = time.perf_counter()

    def show(self, step: str, done: int, total: int | None = None) -> None:
        """Prints a line if it is time.

        Args:
            step: its name.
            done: how much is done.
            total: how much there is; None if unknown, then no time is told.
        """
        now = time.perf_counter()
        if step != self._step:
            self._step, self._first, self._started = step, done, now
        if now - self._last < self._seconds:
            return
        self._last = now
        line = f"{self._name}: {step} {done:,}" + ("" if total is None else f"/{total:,}")
        if total is not None and done > self._first:
            left = round((total - done) * (now - self._started) / (done - self._first))
            line += f"  ETA {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
        print(line, file=sys.stderr, flush=True)
