"""A program replaces only what a run of the same program wrote; everything else is refused, and left as it was."""

import errno
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from qwen3emb_train import lineage
from qwen3emb_train.lineage import publishing
from qwen3emb_train.lineage.publishing import Place


def tree_digest(directory: Path) -> str:
    """Names, kinds and contents of all that is below a directory."""
    lines = []
    for path in sorted(directory.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        kind = "link" if path.is_symlink() else "dir" if path.is_dir() else "file"
        lines.append(f"{path.relative_to(directory)} {kind} {hashlib.sha256(content).hexdigest()}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def make(output: Path, source: Path, *, program: str = "p", text: str = "new", **settings: Any) -> bool:
    def write(made: lineage.Output) -> Mapping[str, Any]:
        (made.directory / "inner").mkdir()
        (made.directory / "inner" / "b").write_text(text)
        (made.directory / "a").write_text(text)
        (made.directory / "a").chmod(0o600)  # as safetensors writes its files
        return {"figure": 1}

    return lineage.produce(program, output, {"text": text, **settings}, {"in": source}, write)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "inputs" / "in.txt"
    path.parent.mkdir()
    path.write_text("x")
    return path


def test_a_run_is_made_once_and_replaced_by_one_of_other_settings(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert make(out, source)
    record = lineage.read_record(out)
    assert record is not None
    assert (record.files, record.metrics) == (["a", "inner/b"], {"figure": 1})
    assert not make(out, source)
    assert capsys.readouterr().out == f"{out}: up to date\n"
    assert make(out, source, text="other")
    assert (out / "a").read_text() == "other"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inputs", "out"]  # no lock, nothing half-written


def test_an_empty_directory_is_fine_and_files_follow_the_umask(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    before = os.umask(0o027)
    try:
        assert make(out, source, text="1")
    finally:
        os.umask(before)
    assert (out / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("where", ["is", "holds", "lies in", "is by a link", "holds by a link"])
def test_an_output_that_touches_an_input_is_refused(tmp_path: Path, where: str) -> None:
    model = tmp_path / "runs" / "model"
    model.mkdir(parents=True)
    (model / "weights").write_text("w")
    (tmp_path / "link").symlink_to(model if where == "is by a link" else tmp_path / "runs")
    output = {
        "is": model, "holds": tmp_path / "runs", "lies in": model / "export",
        "is by a link": tmp_path / "link", "holds by a link": tmp_path / "link",
    }[where]  # fmt: skip
    before = tree_digest(tmp_path)
    with pytest.raises(ValueError, match=f"{where.split(' by')[0]} the input in .*Give another output_dir"):
        make(output, model)
    assert tree_digest(tmp_path) == before


@pytest.mark.parametrize("foreign", ["thesis.txt", "inner/notes.txt", "empty", "link"])
@pytest.mark.parametrize("has_record", [False, True])
def test_foreign_files_keep_a_directory_from_being_replaced(
    tmp_path: Path, source: Path, foreign: str, has_record: bool
) -> None:
    out = tmp_path / "out"
    if has_record:
        make(out, source, text="old")
    (out / foreign).parent.mkdir(parents=True, exist_ok=True)
    if foreign == "empty":
        (out / foreign).mkdir()
    elif foreign == "link":
        (out / foreign).symlink_to(source.parent)
    else:
        (out / foreign).write_text("mine")
    before = tree_digest(tmp_path)
    with pytest.raises(ValueError, match=rf"out holds what p did not write \({foreign}/?\).*Give another output_dir"):
        make(out, source)
    assert tree_digest(tmp_path) == before


def test_another_program_and_a_file_are_not_replaced(tmp_path: Path, source: Path) -> None:
    make(tmp_path / "out", source, program="q")
    (tmp_path / "file").write_text("mine")
    before = tree_digest(tmp_path)
    with pytest.raises(ValueError, match="was written by q, and p does not replace it"):
        make(tmp_path / "out", source)
    with pytest.raises(ValueError, match="is a file"):
        make(tmp_path / "file", source)
    assert tree_digest(tmp_path) == before


def test_a_link_stays_a_link_and_its_target_receives_the_result(tmp_path: Path, source: Path) -> None:
    target, out = tmp_path / "big_disk" / "out", tmp_path / "out"
    target.mkdir(parents=True)
    out.symlink_to(target)
    for text in ("first", "second"):
        assert make(out, source, text=text)
        assert out.is_symlink()
        assert (target / "a").read_text() == text
    assert [path.name for path in target.parent.iterdir()] == ["out"]


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that says it is a mount point, and cannot be renamed."""
    out = tmp_path / "mount"
    out.mkdir()
    monkeypatch.setattr(publishing, "_is_mount_point", lambda directory: directory == out)
    return out


def test_a_mount_point_is_filled_and_refilled_from_within(mount: Path, source: Path) -> None:
    inode = mount.stat().st_ino
    for text in ("first", "second"):
        assert make(mount, source, text=text)
        assert (mount / "inner" / "b").read_text() == text
    assert not make(mount, source, text="second")
    assert mount.stat().st_ino == inode
    assert sorted(path.name for path in mount.iterdir()) == ["a", "inner", "run.json"]
    (mount / "thesis.txt").write_text("mine")
    before = tree_digest(mount)
    with pytest.raises(ValueError, match=r"thesis\.txt"):
        make(mount, source, text="third")
    assert tree_digest(mount) == before


def test_a_kill_at_any_point_inside_a_mount_point_leaves_a_whole_or_an_absent_result(
    mount: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    original = {name: getattr(Path, name) for name in ("rename", "replace", "unlink", "rmdir")}
    left = [0]

    def counted(name: str) -> Any:
        def call(path: Path, *arguments: Any, **options: Any) -> Any:
            if mount in path.parents and ".lock" not in path.name:
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
            return original[name](path, *arguments, **options)

        return call

    make(mount, source, text="old")
    kill_at = 0
    while True:
        left[0] = kill_at
        with monkeypatch.context() as patched:
            for name in original:
                patched.setattr(Path, name, counted(name))
            try:
                make(mount, source, text=f"new {kill_at}")
                break
            except Killed:
                pass
        if (mount / "run.json").is_file():  # whole: the former one or the new one, no mixture
            record = json.loads((mount / "run.json").read_text())
            assert {(mount / name).read_text() for name in record["files"]} == {record["config"]["text"]}
        make(mount, source, text=f"after {kill_at}")  # the next start always gets through
        assert sorted(path.name for path in mount.iterdir()) == ["a", "inner", "run.json"]
        assert (mount / "inner" / "b").read_text() == f"after {kill_at}"
        kill_at += 1
    assert kill_at > 8


def test_a_directory_that_refuses_to_be_renamed_without_warning_is_filled_as_well(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, rename = tmp_path / "out", Path.rename
    make(out, source, text="old")

    def refuse(path: Path, target: Path) -> Path:
        if path == out:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    assert make(out, source, text="new")
    assert (out / "inner" / "b").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inputs", "out"]


def test_the_working_directory_is_filled_not_replaced(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert Place.of(Path()).is_inside
    make(Path(), source, text="1")
    make(Path(), source, text="2")
    assert Path("a").read_text() == "2"


_HOLD = """
import sys, time
from pathlib import Path
from qwen3emb_train.lineage import DirectoryLock
with DirectoryLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(lock: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-c", _HOLD, str(lock)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_of_two_processes_the_second_is_refused_and_a_killed_one_is_succeeded(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out"
    first = hold(Place.of(out).lock)
    try:
        before = tree_digest(tmp_path)
        with pytest.raises(lineage.OccupiedError, match=rf"out: process {first.pid} on .* since .*another output_dir"):
            make(out, source)
        assert tree_digest(tmp_path) == before
    finally:
        first.kill()
    assert make(out, source)  # not waited for: a dead process, though it still has its number
    first.wait()


def test_a_lock_of_a_reused_process_number_is_stale(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with lineage.DirectoryLock(lock):
        held = json.loads(lock.read_text())
        with pytest.raises(lineage.OccupiedError), lineage.DirectoryLock(lock):
            pass
    lock.write_text(json.dumps({**held, "started": "an earlier boot 1"}))
    with lineage.DirectoryLock(lock):
        assert json.loads(lock.read_text())["started"] == held["started"]
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_another_machine_lives_as_long_as_it_is_renewed(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    remote = {"host": "elsewhere", "pids": "", "pid": 1, "started": "then", "since": "today"}
    lock.write_text(json.dumps(remote))
    began = time.monotonic()
    with lineage.DirectoryLock(lock, stale_s=0.6):  # nobody renews it
        assert time.monotonic() - began > 0.4
    living = subprocess.Popen(
        [sys.executable, "-c", f"import os, time\nwhile True: os.utime({str(lock)!r}); time.sleep(0.1)"],
        stderr=subprocess.DEVNULL,
    )
    lock.write_text(json.dumps(remote))
    try:
        time.sleep(0.5)
        living = living if living.poll() is None else subprocess.Popen(living.args)
        with (
            pytest.raises(lineage.OccupiedError, match="process 1 on elsewhere"),
            lineage.DirectoryLock(lock, stale_s=20.0),
        ):
            pass
    finally:
        living.kill()
        living.wait()


def test_a_lock_can_be_waited_for_and_is_renewed(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    first = hold(lock)
    began = time.monotonic()
    subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {first.pid}"])
    with lineage.DirectoryLock(lock, wait=True, heartbeat_s=0.05):
        assert time.monotonic() - began > 0.3
        os.utime(lock, (1, 1))
        time.sleep(0.3)
        assert lock.stat().st_mtime > 1
    first.wait()
