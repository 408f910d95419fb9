"""The progress line."""

import asyncio
import io
import sys
from collections import Counter

import pytest

from data_synth.progress import PricesConfig, Progress
from data_synth.run_summary import RunSummary

SUMMARY = RunSummary(
    num_done_before=40, num_accepted=45, num_rejected=5, num_failed=10, num_rows=90, num_calls=120,
    prompt_tokens=9_000_000, completion_tokens=1_000_000, reasons=Counter(dull=5),
)  # fmt: skip


def test_a_line_says_how_far_how_fast_how_good_how_dear_and_how_long() -> None:
    progress = Progress("retrieval", num_items=1_000, prices=PricesConfig(prompt=0.5, completion=2.0))
    assert progress.line(SUMMARY, 50.0) == (
        "retrieval  100/1,000 items  90 rows (1.8/s)  200,000 tokens/s  accepted 90.0%  failed 10  spent about 6.50  "
        "ETA 0:12:30"
    )


def test_what_nobody_knows_is_not_shown() -> None:
    line = Progress("retrieval").line(RunSummary(), 0.0)
    assert line == "retrieval  0 items  0 rows (0.0/s)  0 tokens/s  accepted -"


class Stream(io.StringIO):
    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


def shown(monkeypatch: pytest.MonkeyPatch, is_terminal: bool, seconds: float) -> str:
    stream = Stream(is_terminal)
    monkeypatch.setattr(sys, "stderr", stream)

    async def show() -> None:
        showing = asyncio.create_task(Progress("sts", seconds_between_lines=0.05).show(SUMMARY))
        await asyncio.sleep(seconds)
        showing.cancel()
        await asyncio.wait([showing])

    asyncio.run(show())
    return stream.getvalue()


def test_a_log_file_gets_plain_lines_now_and_then_and_a_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, False, 0.18)
    assert 3 <= len(text.splitlines()) <= 5
    assert all(line.startswith("sts  100 items") for line in text.splitlines())
    assert "\x1b" not in text


def test_a_terminal_gets_one_live_line(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, True, 0.1)
    assert "sts  100 items" in text
    assert "\x1b[" in text
