"""Progress display: one live line on a terminal, a plain line at intervals in a log file."""

import asyncio
import sys
import time
from dataclasses import dataclass

from data_synth.run_summary import RunSummary


@dataclass
class PricesConfig:
    """Prices of the teacher.

    Attributes:
        prompt: per million prompt tokens.
        completion: per million completion tokens.
    """

    prompt: float = 0.0
    completion: float = 0.0

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """The price of so many tokens."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


class Progress:
    """Shows a run's summary on standard error.

    Args:
        name: of the task.
        num_items: of this process's share, including those done before; None if unknown, then there is no ETA.
        prices: for the cost estimate.
        seconds_between_lines: interval if standard error is not a terminal.
    """

    def __init__(
        self,
        name: str,
        *,
        num_items: int | None = None,
        prices: PricesConfig | None = None,
        seconds_between_lines: float = 30.0,
    ) -> None:
        self.name, self.num_items, self.prices = name, num_items, prices or PricesConfig()
        self._seconds_between_lines = seconds_between_lines

    async def show(self, summary: RunSummary) -> None:
        """Shows the summary repeatedly until cancelled, and once more at the end."""
        started = time.perf_counter()
        if sys.stderr.isatty():
            await self._show_live(summary, started)
            return
        try:
            while True:
                await asyncio.sleep(self._seconds_between_lines)
                print(self.line(summary, time.perf_counter() - started), file=sys.stderr, flush=True)
        finally:
            print(self.line(summary, time.perf_counter() - started), file=sys.stderr, flush=True)

    async def _show_live(self, summary: RunSummary, started: float) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        with Live(console=Console(file=sys.stderr), auto_refresh=False) as live:
            try:
                while True:
                    live.update(Text(self.line(summary, time.perf_counter() - started)), refresh=True)
                    await asyncio.sleep(0.5)
            finally:
                live.update(Text(self.line(summary, time.perf_counter() - started)), refresh=True)

    def line(self, summary: RunSummary, seconds: float) -> str:
        """One line: items, rows and tokens per second, acceptance, spend, ETA."""
        ended, done = summary.num_ended, summary.num_ended + summary.num_done_before
        per_second = 1.0 / max(seconds, 1e-9)
        judged = summary.num_accepted + summary.num_rejected
        parts = [
            f"{self.name}  {done:,}" + (f"/{self.num_items:,}" if self.num_items is not None else "") + " items",
            f"{summary.num_rows:,} rows ({summary.num_rows * per_second:,.1f}/s)",
            f"{(summary.prompt_tokens + summary.completion_tokens) * per_second:,.0f} tokens/s",
            f"accepted {summary.num_accepted / judged:.1%}" if judged else "accepted -",
        ]
        if summary.num_failed:
            parts.append(f"failed {summary.num_failed:,}")
        if spend := self.prices.of(summary.prompt_tokens, summary.completion_tokens):
            parts.append(f"spent about {spend:,.2f}")
        if self.num_items is not None and ended:
            parts.append(f"ETA {_duration((self.num_items - done) * seconds / ended)}")
        return "  ".join(parts)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
