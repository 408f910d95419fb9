"""A small slice of three long checks: ``scripts/fuzz_front_door.py``, ``double_starts.py`` and ``kills.py``."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.chaos.world import Result
from scripts.fuzz_front_door import faults_of

ROOT = Path(__file__).resolve().parent.parent.parent


def run(directory: Path, script: str, *arguments: str) -> str:
    command = [sys.executable, f"scripts/{script}", str(directory), *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout


def test_spoilt_commands_end_well_and_touch_nothing(tmp_path: Path) -> None:
    assert "0 of 15 cases failed" in run(tmp_path, "fuzz_front_door.py", "--cases", "15", "--seed", "20")


def test_two_starts_end_as_one(tmp_path: Path) -> None:
    told = run(tmp_path, "double_starts.py", "--rounds", "2", "--only", "clean", "merge", "one token store")
    assert told.count(" 0 faults") == 3, told


def test_what_was_killed_continues(tmp_path: Path) -> None:
    assert "FAULT" not in run(tmp_path, "kills.py", "--kills", "2", "--only", "merge", "clean")


@pytest.mark.parametrize(
    ("result", "after", "fault"),
    [
        (Result(0, "fine", False, 1.0), {"out": "directory", "mine/thesis": "a"}, None),
        (Result(1, "Traceback (most recent call last)", False, 1.0), {"mine/thesis": "a"}, "traceback"),
        (Result(-11, "", False, 1.0), {"mine/thesis": "a"}, "exit code -11"),
        (Result(2, "\x1b]0;x", False, 1.0), {"mine/thesis": "a"}, "prints control characters"),
        (Result(0, "", False, 1.0), {}, "touched ['mine/thesis']"),
        (Result(0, "", False, 1.0), {"mine/thesis": "a", "LEAKED": "b"}, "touched ['LEAKED']"),
    ],
)
def test_the_fuzz_sees_what_it_looks_for(result: Result, after: dict[str, str], fault: str | None) -> None:
    assert faults_of(result, {"mine/thesis": "a"}, after, "out", []) == ([] if fault is None else [fault])
