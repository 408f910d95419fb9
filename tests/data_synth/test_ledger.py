"""The ledger: what is on the disk is found again, whatever else is there."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from data_synth.ledger.lines import CALL, FAILED, OK, REJECTED, decode_line, encode_line, item_key, whole_lines
from data_synth.ledger.reader import LedgerReader
from data_synth.ledger.writer import LedgerWriter, open_ledger

KEYS = [item_key("model", str(number)) for number in range(8)]


def call(text: str, request: str = "asked") -> dict[str, Any]:
    return {
        "request": request,
        "prompt": "p@1",
        "text": text,
        "finish_reason": "stop",
        "prompt_tokens": 1,
        "completion_tokens": 2,
    }


LINES = [
    (CALL, KEYS[0], call("first")),
    (OK, KEYS[0], {"rows": [], "text": "line\nend, \x00, é, \ud800"}),
    (CALL, KEYS[1], call("second")),
    (REJECTED, KEYS[2], {"reason": "dull"}),
]


def written(path: Path, lines: list[tuple[bytes, bytes, dict[str, Any]]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(encode_line(*line) for line in lines))
    return path


def write(directory: Path, *lines: tuple[bytes, bytes, dict[str, Any]]) -> Path:
    async def write_all() -> Path:
        writer = LedgerWriter(directory)
        for line in lines:
            writer.append(*line)
        await writer.close()
        return writer.path

    return asyncio.run(write_all())


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    path = write(tmp_path / "0000-of-0001", *LINES)
    assert [(line.kind, line.key, json.loads(line.body)) for line in whole_lines(path)] == LINES


def test_a_file_cut_at_any_byte_keeps_every_line_before_the_cut(tmp_path: Path) -> None:
    """S3: also the next start's lines are read, which a torn line must not swallow."""
    whole = [encode_line(*line) for line in LINES]
    data = b"".join(whole)
    ends = [sum(map(len, whole[: number + 1])) for number in range(len(whole))]
    directory = tmp_path / "0000-of-0001"
    directory.mkdir()
    written(directory / "000002.log", [(OK, KEYS[7], {})])
    for cut in range(len(data) + 1):
        path = directory / "000001.log"
        path.write_bytes(data[:cut])
        num_whole = sum(end <= cut for end in ends)
        assert len(list(whole_lines(path))) == num_whole, cut
        reader = LedgerReader(tmp_path)
        assert reader.has_ended(KEYS[7])
        assert reader.has_ended(KEYS[0]) == (num_whole >= 2)
        assert reader.has_ended(KEYS[2]) == (num_whole >= 4)
        assert len(reader.take_calls(KEYS[0])) == (num_whole == 1)
        assert len(reader.take_calls(KEYS[1])) == (num_whole >= 3)


def test_a_byte_changed_anywhere_costs_its_line_only(tmp_path: Path) -> None:
    whole = [encode_line(*line) for line in LINES]
    start, end = len(whole[0]), len(whole[0]) + len(whole[1])
    for place in range(start, end):
        for bit in (1, 128):
            data = bytearray(b"".join(whole))
            data[place] ^= bit
            path = tmp_path / "000001.log"
            path.write_bytes(data)
            lost = 2 if place == end - 1 else 1  # without its line end it takes the next line with it
            assert len(list(whole_lines(path))) == len(LINES) - lost, (place, bit)


def test_zeros_and_a_line_after_them_as_a_power_cut_leaves_them(tmp_path: Path) -> None:
    path = tmp_path / "000001.log"
    path.write_bytes(encode_line(*LINES[0]) + bytes(4096) + b"\n" + encode_line(*LINES[1]))
    assert [line.kind for line in whole_lines(path)] == [CALL, OK]


def test_each_start_writes_a_file_of_its_own_with_a_larger_number(tmp_path: Path) -> None:
    first = write(tmp_path / "0000-of-0002", LINES[0])
    second = write(tmp_path / "0001-of-0002", LINES[1])
    third = write(tmp_path / "0000-of-0002", LINES[2])
    assert [path.name for path in (first, second, third)] == ["000001.log", "000002.log", "000003.log"]
    assert decode_line(first.read_bytes(), 0) is not None
    assert LedgerReader(tmp_path).paths == [first, second, third]


def test_the_lines_of_a_batch_are_on_the_disk_when_its_future_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: (synced.append(os.fstat(descriptor).st_size), fsync(descriptor))
    )

    async def check() -> None:
        writer = LedgerWriter(tmp_path / "0000-of-0001")
        futures = [writer.append(*line) for line in LINES]
        assert not writer.path.exists()
        await asyncio.shield(futures[-1])
        assert synced[-1] == writer.path.stat().st_size == sum(len(encode_line(*line)) for line in LINES)
        assert all(future.done() for future in futures)
        await writer.close()

    asyncio.run(check())
    assert len(synced) == 2  # the directory and one batch


def test_a_full_disk_stops_the_run_and_harms_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        writer = LedgerWriter(tmp_path / "0000-of-0001")
        await asyncio.shield(writer.append(*LINES[0]))
        monkeypatch.setattr(
            os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )
        with pytest.raises(OSError, match="No space"):
            await asyncio.shield(writer.append(*LINES[2]))
        with pytest.raises(OSError, match="No space"):
            writer.append(*LINES[3])
        await writer.close()

    asyncio.run(check())
    assert len(LedgerReader(tmp_path).take_calls(KEYS[0])) == 1


def test_calls_come_back_in_order_once_and_go_with_the_items_end(tmp_path: Path) -> None:
    written(
        tmp_path / "a-of-b" / "000001.log",
        [(CALL, KEYS[0], call("one")), (CALL, KEYS[0], call("two", "again")), *LINES[2:]],
    )
    reader = LedgerReader(tmp_path)
    assert [(each.request, each.reply.text) for each in reader.take_calls(KEYS[0])] == [
        ("asked", "one"),
        ("again", "two"),
    ]
    assert reader.take_calls(KEYS[0]) == []
    assert reader.take_calls(KEYS[2]) == []


def test_a_failed_item_is_ended_or_open_as_asked_and_its_calls_are_kept(tmp_path: Path) -> None:
    written(
        tmp_path / "a-of-b" / "000001.log",
        [(CALL, KEYS[0], call("paid")), (FAILED, KEYS[0], {"reason": "refused", "detail": ""})],
    )
    assert LedgerReader(tmp_path).has_ended(KEYS[0])
    reader = LedgerReader(tmp_path, keep_failed=False)
    assert not reader.has_ended(KEYS[0])
    assert len(reader.take_calls(KEYS[0])) == 1


@pytest.mark.parametrize("failed_first", [True, False])
def test_an_end_reached_after_a_failure_counts(tmp_path: Path, failed_first: bool) -> None:
    lines = [(FAILED, KEYS[0], {"reason": "unavailable"}), (OK, KEYS[0], {"rows": []})]
    written(tmp_path / "a-of-b" / "000001.log", lines if failed_first else lines[::-1])
    end = LedgerReader(tmp_path).end(KEYS[0])
    assert end is not None
    assert end[0] == OK


def test_a_share_is_written_by_one_process_and_cut_one_way_at_a_time(tmp_path: Path) -> None:
    async def check() -> None:
        _, writer = open_ledger(tmp_path, 0, 2, retry_failed=False)
        with pytest.raises(ValueError, match="another process is at work"):
            open_ledger(tmp_path, 0, 2, retry_failed=False)
        with pytest.raises(ValueError, match="same num_processes"):
            open_ledger(tmp_path, 2, 3, retry_failed=False)
        _, neighbour = open_ledger(tmp_path, 1, 2, retry_failed=False)
        await writer.close()
        await neighbour.close()
        _, other = open_ledger(tmp_path, 2, 3, retry_failed=False)
        await other.close()

    asyncio.run(check())


def test_work_divided_otherwise_before_is_still_known(tmp_path: Path) -> None:
    """With one division a process reads its own files; after another, all of them."""
    written(tmp_path / "0000-of-0002" / "000001.log", [(OK, KEYS[0], {})])
    written(tmp_path / "0001-of-0002" / "000002.log", [(OK, KEYS[1], {})])

    async def known(index: int, num_processes: int) -> list[bool]:
        reader, writer = open_ledger(tmp_path, index, num_processes, retry_failed=False)
        await writer.close()
        return [reader.has_ended(key) for key in KEYS[:2]]

    assert asyncio.run(known(1, 2)) == [False, True]
    assert asyncio.run(known(0, 3)) == [True, True]


def test_a_changed_line_is_named_when_it_is_wanted(tmp_path: Path) -> None:
    path = written(tmp_path / "a-of-b" / "000001.log", [(OK, KEYS[0], {"rows": []})])
    reader = LedgerReader(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"rows", b"cows"))
    with pytest.raises(ValueError, match="byte 0 has changed"):
        reader.end(KEYS[0])
