"""docs/architecture.md lists the files that a text enters from JSONL to the gradient; a real run is compared."""

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from qwen3emb_train.cli.front_door import main

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "qwen3emb_train"
# Where each leg of the way begins: function and file. What runs below them counts, and nothing else.
ENTRIES = {
    ("open_token_store", "data/token_store.py"): "read",
    ("open_training_data", "data/training_data.py"): "batch",
    ("batch", "data/training_data.py"): "batch",
    ("prepare", "training/objectives.py"): "gradient",
    ("forward_backward", "training/objectives.py"): "gradient",
    ("finish_backward", "training/engines/engine.py"): "gradient",
    ("update", "training/engines/engine.py"): "gradient",
}
MOST_FILES = 35
# They share out work, publish and lock directories.
NEVER_SEE_A_TEXT = ("lineage/", "data/store_writing.py", "data/shared_work.py")


def documented() -> dict[str, set[str]]:
    """The leg's name stands before its files: ``read:`` and then one path a line."""
    block = re.search(r"```text title=\"files\"\n(.*?)```", (ROOT / "docs/architecture.md").read_text(), re.DOTALL)
    assert block
    legs: dict[str, set[str]] = {}
    for line in block[1].splitlines():
        if line.endswith(":"):
            leg = legs.setdefault(line[:-1], set())
        elif line.strip():
            leg.add(line.split()[0])
    return legs


@contextmanager
def watched() -> Iterator[dict[str, set[str]]]:
    """Files whose functions run below an entry, by its leg, in any thread; the first leg that enters a file has it."""
    entered: dict[str, set[str]] = {}
    state = threading.local()

    def see(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if not code.co_filename.startswith(f"{PACKAGE}/") or not code.co_flags & 1:  # 1: a function, not a class body
            return
        stack = state.__dict__.setdefault("stack", [])
        file = code.co_filename[len(str(PACKAGE)) + 1 :]
        if event == "call":
            leg = ENTRIES.get((code.co_name, file))
            if leg:
                stack.append((frame, leg))
            if stack and not file.startswith(NEVER_SEE_A_TEXT):
                entered.setdefault(stack[-1][1], set()).add(file)
        elif event == "return" and stack and stack[-1][0] is frame:
            stack.pop()

    threading.setprofile(see)
    sys.setprofile(see)
    try:
        yield entered
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_way_of_a_text_is_the_documented_one(tiny_qwen3: Path, tmp_path: Path) -> None:
    arguments = ["train_embedding", "--config-dir", str(ROOT / "recipes/tiny"), "--config-name", "1_pretrain"]
    settings = {
        "model.path": tiny_qwen3,
        "data.pairs.path": ROOT / "recipes/tiny/data/pairs.jsonl",
        "output_dir": tmp_path / "run",
        "cache_dir": tmp_path / "cache",
        "steps": 2,
    }
    with watched() as entered:
        assert main([*arguments, *(f"{key}={value}" for key, value in settings.items())]) == 0
    listed = documented()
    for leg, files in _first_only(entered).items():
        assert sorted(files - listed[leg]) == [], f"{leg}: not in docs/architecture.md"
        assert sorted(listed[leg] - files) == [], f"{leg}: not entered"
    assert sum(map(len, listed.values())) <= MOST_FILES  # more only for a good reason: a reader has to know them all


def _first_only(entered: dict[str, set[str]]) -> dict[str, set[str]]:
    known: set[str] = set()
    found = {}
    for leg in ("read", "batch", "gradient"):
        found[leg] = entered[leg] - known
        known |= entered[leg]
    return found
