"""The ledger: acknowledged records survive crashes; damage and second writers are reported."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data_synth import ledger_database
from data_synth.ledger import Ledger, item_key, process_of
from data_synth.ledger_database import FAILED, OK, REJECTED, End, RecordedCall
from data_synth.ledger_writer import LedgerWriter
from data_synth.work import Reply, WorkItem

ITEMS = [WorkItem(f"{number:064x}", "task", {}, f"group {number}") for number in range(200)]
KEYS = [item_key("model", item) for item in ITEMS]
NAME = "0000-of-0001.sqlite"


def call(text: str, request: str = "asked") -> RecordedCall:
    return RecordedCall(request, "p@1", Reply(text, "stop", 1, 2))


def opened(directory: Path, index: int | None = 0, count: int = 1, **options: Any) -> Ledger:
    return Ledger(directory, "task", "model", process_index=index, num_processes=count, **options)


def path_of(directory: Path) -> Path:
    return directory / "ledger" / "task" / NAME


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    end = End(OK, {"rows": [], "text": "line\nend, \x00, é, \ud800"})
    calls = [call("one \ud800 \x00"), call("two")]
    with opened(tmp_path) as ledger:
        ledger.write(calls, [(ITEMS[1], end)])
        ledger.write([call("many", item.key) for item in ITEMS[2:]], [(item, End(REJECTED, {})) for item in ITEMS[2:]])
    assert [path.name for path in path_of(tmp_path).parent.iterdir()] == [NAME]
    for index in (None, 0):
        with opened(tmp_path, index) as ledger:
            assert ledger.calls(ITEMS[0], "asked") == calls
            assert ledger.end(ITEMS[1]) == end
            assert [ledger.has_ended(item) for item in ITEMS] == [False] + [True] * 199
            assert ledger.totals() == {"calls": 200, "prompt_tokens": 200, "completion_tokens": 400}


def test_a_log_cut_at_any_place_keeps_every_batch_before_the_cut(tmp_path: Path) -> None:
    """S3: whole batches up to the cut, and the next start writes behind them."""
    with opened(tmp_path / "whole") as ledger:
        wal = path_of(tmp_path / "whole").with_name(f"{NAME}-wal")
        lengths = []
        for item in ITEMS[:3]:
            ledger.write([call("bought", item.key)], [(item, End(OK, {}))])
            lengths.append(wal.stat().st_size)
        database, log = path_of(tmp_path / "whole").read_bytes(), wal.read_bytes()
    assert lengths[-1] == len(log)
    edges = {length + delta for length in lengths for delta in (-1, 0, 1) if length + delta <= len(log)}
    cut_path = path_of(tmp_path)
    cut_path.parent.mkdir(parents=True)
    for cut in sorted(edges | set(range(lengths[0] - 300, len(log), 101))):
        cut_path.write_bytes(database)
        cut_path.with_name(f"{NAME}-wal").write_bytes(log[:cut])
        num_whole = sum(length <= cut for length in lengths)
        with opened(tmp_path) as ledger:
            assert [ledger.has_ended(item) for item in ITEMS[:3]] == [number < num_whole for number in range(3)], cut
            assert [len(ledger.calls(item, item.key)) for item in ITEMS[:3]] == [
                int(number < num_whole) for number in range(3)
            ]
            ledger.write([], [(ITEMS[7], End(OK, {}))])
        assert [path.name for path in cut_path.parent.iterdir()] == [NAME]
        with opened(tmp_path, None) as reader:
            assert reader.has_ended(ITEMS[7])


def test_a_crashed_database_is_recovered_by_a_reader_and_by_another_division(tmp_path: Path) -> None:
    with opened(tmp_path / "whole") as ledger:
        ledger.write([call("bought")], [(ITEMS[0], End(OK, {}))])
        for name in ("reader", "writer"):  # what a kill at this moment would leave
            path_of(tmp_path / name).parent.mkdir(parents=True)
            for suffix in ("", "-wal"):
                shutil.copy(f"{path_of(tmp_path / 'whole')}{suffix}", f"{path_of(tmp_path / name)}{suffix}")
    for name, index, count in (("reader", None, 1), ("writer", process_of(ITEMS[0], 3), 3)):
        with opened(tmp_path / name, index, count) as ledger:
            assert ledger.has_ended(ITEMS[0])
            assert ledger.calls(ITEMS[0], "asked") == [call("bought")]
        assert not path_of(tmp_path / name).with_name(f"{NAME}-wal").exists()


def test_an_item_ends_once(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.write([], [(ITEMS[0], End(OK, {}))])
        with pytest.raises(sqlite3.IntegrityError):
            ledger.write([call("lost")], [(ITEMS[0], End(REJECTED, {}))])
        assert ledger.end(ITEMS[0]) == End(OK, {})
        assert ledger.calls(ITEMS[1], "asked") == [], "all of a batch or nothing"


def test_one_transaction_serves_many_items_and_is_durable_when_they_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(ledger: Ledger) -> None:
        writes: list[int] = []
        write = ledger.write
        monkeypatch.setattr(ledger, "write", lambda calls, ends: (writes.append(len(ends)), write(calls, ends)))
        writer = LedgerWriter(ledger)
        writer.record_call(call("first"))
        await asyncio.gather(*(writer.record_end(item, End(OK, {})) for item in ITEMS[:100]))
        assert writes == [100]
        path_of(tmp_path / "copy").parent.mkdir(parents=True)
        for suffix in ("", "-wal"):  # what a kill at this moment would leave
            shutil.copy(f"{path_of(tmp_path / 'a')}{suffix}", f"{path_of(tmp_path / 'copy')}{suffix}")
        writer.record_call(call("last", "later"))
        await writer.close()
        assert writes == [100, 0]

    with opened(tmp_path / "a") as ledger:
        assert ledger._own is not None
        execute = ledger._own._connection.execute
        assert execute("PRAGMA synchronous").fetchone() == (2,)  # FULL: each commit is synced
        assert execute("PRAGMA journal_mode").fetchone() == (b"wal",)
        asyncio.run(check(ledger))
        assert ledger.calls(ITEMS[100], "later") == [call("last", "later")]
    with opened(tmp_path / "copy") as copy:
        assert all(copy.has_ended(item) for item in ITEMS[:100])
        assert copy.calls(ITEMS[0], "asked") == [call("first")]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads resident memory from /proc")
def test_memory_does_not_grow_with_the_number_of_batch_sizes(tmp_path: Path) -> None:
    """A statement that SQLite keeps prepared keeps its last values: all sizes would hold 64 * 32 * 16 kB = 33 MB."""

    def resident_mb() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    with opened(tmp_path) as ledger:
        for size in [64, 64, *range(1, 65)]:
            ledger.write([call(str(size) * 8000) for _ in range(size)], [])
            if size == 1:
                before = resident_mb()
        assert resident_mb() - before < 12


def test_a_full_disk_stops_the_run_and_harms_no_record(tmp_path: Path) -> None:
    async def check(ledger: Ledger) -> None:
        writer = LedgerWriter(ledger)
        await writer.record_end(ITEMS[0], End(OK, {}))
        assert ledger._own is not None
        ledger._own._connection.execute("PRAGMA max_page_count = 8")
        with pytest.raises(OSError, match=f"No space left.*{NAME}"):
            await writer.record_end(ITEMS[1], End(OK, {"text": "x" * 100_000}))
        with pytest.raises(OSError, match="No space left"):
            writer.record_call(call("more"))
        await writer.close()

    with opened(tmp_path) as ledger:
        asyncio.run(check(ledger))
    with opened(tmp_path) as ledger:
        assert [ledger.has_ended(item) for item in ITEMS[:3]] == [True, False, False]


def test_failed_items_end_or_are_tried_again_as_asked_and_their_calls_are_kept(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.write([call("paid")], [(ITEMS[0], End(FAILED, {"reason": "refused"}))])
    with opened(tmp_path) as ledger:
        assert ledger.has_ended(ITEMS[0])
    with opened(tmp_path, retry_failed=True) as ledger:
        assert not ledger.has_ended(ITEMS[0])
        assert ledger.calls(ITEMS[0], "asked") == [call("paid")]
        ledger.write([], [(ITEMS[0], End(FAILED, {}))])
        assert ledger.has_ended(ITEMS[0]), "it failed in this run"


@pytest.mark.parametrize("count", [1, 3])
def test_a_rejected_item_is_open_again_by_its_reason_and_its_last_reply_is_not_used(tmp_path: Path, count: int) -> None:
    """Also where another division of the work rejected it. The replies are kept and counted."""

    def rejected(reason: str) -> End:
        return End(REJECTED, {"reason": reason, "detail": "", "rows": [], "prompts": [], "requests": ["first", "last"]})

    with opened(tmp_path) as ledger:
        calls = [call("chosen", "first"), call("cut", "last")]
        ledger.write(calls, [(ITEMS[0], rejected("reply_cut")), (ITEMS[1], rejected("schema"))])
    index = process_of(ITEMS[0], count)
    with opened(tmp_path, index, count, retry_rejected=["reply_cut"]) as ledger:
        assert not ledger.has_ended(ITEMS[0])
        assert ledger.has_ended(ITEMS[1]) or process_of(ITEMS[1], count) != index
        assert ledger.calls(ITEMS[0], "first") == [call("chosen", "first")]
        assert ledger.calls(ITEMS[0], "last") == []
        assert ledger.totals()["calls"] == 2
        ledger.write([call("whole", "last")], [(ITEMS[0], End(OK, {"rows": []}))])
    with opened(tmp_path, None) as ledger:
        assert ledger.calls(ITEMS[0], "last") == [call("whole", "last")]
        assert ledger.end(ITEMS[0]) == End(OK, {"rows": []})
        assert ledger.end(ITEMS[1]) == rejected("schema")


@pytest.mark.parametrize(
    ("finish", "limit", "asked", "serves"),
    [
        ("stop", 64, 512, True), ("stop", None, 1, True), ("length", 64, 64, True), ("length", 64, 32, True),
        ("length", 64, 65, False), ("length", 64, None, False), ("length", None, 64, False),
        ("length", None, None, True),
    ],
)  # fmt: skip
def test_a_cut_reply_serves_as_long_as_there_is_no_more_room(
    finish: str, limit: int | None, asked: int | None, serves: bool
) -> None:
    assert RecordedCall("asked", "p@1", Reply("text", finish), limit).serves(asked) == serves


@pytest.mark.parametrize("failed_first", [True, False])
def test_a_success_counts_whichever_division_of_the_work_failed(tmp_path: Path, failed_first: bool) -> None:
    ends = [End(FAILED, {}), End(OK, {"rows": []})]
    for count, end in zip((1, 2), ends if failed_first else ends[::-1], strict=True):
        with opened(tmp_path, process_of(ITEMS[0], count), count) as ledger:
            ledger.write([], [(ITEMS[0], end)])
    with opened(tmp_path, None) as ledger:
        assert ledger.end(ITEMS[0]) == ends[1]


def test_a_share_is_written_by_one_process_and_the_other_is_named(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from data_synth.ledger import Ledger\n"
        "with Ledger(Path(sys.argv[1]), 'task', 'model', process_index=0, num_processes=2):\n"
        "    print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        for index, count in ((0, 2), (2, 3), (None, 1)):
            with pytest.raises(ValueError, match=rf"process {other.pid} on .* different process_index"):
                opened(tmp_path, index, count)
        opened(tmp_path, 1, 2).close()
        other.kill()  # the lock goes with the process
    opened(tmp_path, 0, 2).close()
    opened(tmp_path, 2, 3).close()


def test_work_divided_otherwise_before_is_known_to_all_processes_at_once(tmp_path: Path) -> None:
    for index in range(2):
        with opened(tmp_path, index, 2) as ledger:
            ledger.write([], [(item, End(OK, {})) for item in ITEMS[:20] if process_of(item, 2) == index])
    with opened(tmp_path, 0, 3) as one, opened(tmp_path, 1, 3) as two:
        for item in ITEMS[:20]:
            assert one.has_ended(item)
            assert two.has_ended(item)
        with pytest.raises(ValueError, match=f"process {os.getpid()} "):
            opened(tmp_path, 0, 2)


def test_a_damaged_record_is_named_when_it_is_read(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.write([call("first reply")], [(ITEMS[1], End(OK, {"rows": "intact"}))])
    path = path_of(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"first reply", b"worst reply").replace(b"intact", b"inFact"))
    with opened(tmp_path) as ledger:
        with pytest.raises(ValueError, match=rf"{NAME}: the record of (item )?\w+ is damaged"):
            ledger.calls(ITEMS[0], "asked")
        with pytest.raises(ValueError, match=KEYS[1].hex()):
            ledger.end(ITEMS[1])


@pytest.mark.parametrize("damage", ["cut", "garbage", "page"])
def test_a_damaged_file_is_named_and_refused_before_any_work(tmp_path: Path, damage: str) -> None:
    with opened(tmp_path) as ledger:
        ledger.write([], [(item, End(OK, {"text": "x" * 1000})) for item in ITEMS])
    path = path_of(tmp_path)
    data = path.read_bytes()
    page = 4096 * 10
    damaged = {
        "cut": data[: len(data) // 2],
        "garbage": b"nothing of the kind " * 1000,
        "page": data[:page] + bytes(range(256)) * 16 + data[page + 4096 :],
    }
    path.write_bytes(damaged[damage])
    with pytest.raises(ValueError, match=f"{NAME}: damaged.*bought again"):
        opened(tmp_path)


def test_another_schema_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(tmp_path).close()
    monkeypatch.setattr(ledger_database, "SCHEMA_VERSION", 3)
    for index in (0, None):
        with pytest.raises(ValueError, match=f"{NAME}: schema version 2, and this program knows version 3"):
            opened(tmp_path, index)
