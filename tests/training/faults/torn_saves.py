"""Every file operation of one checkpoint, each failing or dying in turn.

Runs in a rank, in place of the checkpoint that the job names. Python announces file operations to audit hooks, whatever
library asks for them; fsync and safetensors' own writing are added by hand. An operation fails with ENOSPC *before* it
is done, or the process is killed there (a file just written by safetensors is cut in half first).
"""

import errno
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist

from qwen3emb_train.training.checkpoints import Checkpoints
from tests.training.faults.launcher import contents

_WATCHED = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate"}


@dataclass
class _Operations:
    """Counts the operations under a directory while it is set, and strikes at one."""

    root: str | None = None
    strike_at: int | None = None
    dies: bool = False
    seen: list[str] = field(default_factory=list)

    def see(self, name: str, path: object, half_written: Path | None = None) -> None:
        if self.root is None or not str(path).startswith(self.root):
            return
        self.seen.append(f"{name} {Path(str(path)).name}")
        if self.strike_at != len(self.seen) - 1:
            return
        if self.dies:
            if half_written is not None:
                self.root = None
                os.truncate(half_written, half_written.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, "No space left on device (planted)", str(path))


_operations = _Operations()


def _watch() -> None:
    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _WATCHED or _operations.root is None:
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        path = arguments[0]
        if event in ("os.remove", "os.rmdir") and arguments[1] >= 0:  # named relative to an open directory
            path = f"{os.readlink(f'/proc/self/fd/{arguments[1]}')}/{path}"
        _operations.see(event, path)

    sys.addaudithook(audit)
    save_file = safetensors.torch.save_file

    def watched_fsync(descriptor: Any) -> None:
        _operations.see("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))  # seen, not done: that takes time

    def watched_save(tensors: Any, filename: Any, *arguments: Any, **named: Any) -> None:
        _operations.see("write", filename)
        save_file(tensors, filename, *arguments, **named)
        _operations.see("written", filename, Path(filename))

    os.fsync = watched_fsync  # type: ignore[assignment]
    safetensors.torch.save_file = watched_save


def try_every_fault(settings: dict[str, Any], rank: int, directory: Path) -> None:
    """Patches the stage: when the checkpoint of ``settings["step"]`` is due, the trials are made and the run ends.

    Args:
        settings: ``step``; ``rank``: where operations fail; ``fork``: trials in forks of this process, where they can
            die (one rank only); else one after the other, failing only.
    """
    original = Checkpoints.save

    def save(self: Checkpoints, engine: Any, tokenizer: Any, state: Any, record: Any) -> Path:
        if state.step != settings["step"]:
            return original(self, engine, tokenizer, state, record)

        def attempt(target: Path) -> None:
            original(replace(self, directory=target), engine, tokenizer, state, record)

        if settings.get("fork"):
            _in_forks(self.directory, attempt, directory)
        else:
            _one_after_the_other(self.directory, attempt, directory, rank, settings["rank"])
        raise SystemExit(0)

    _watch()
    Checkpoints.save = save  # type: ignore[method-assign]


@contextmanager
def _armed(root: Path, strike_at: int | None, dies: bool) -> Iterator[list[str]]:
    _operations.seen, _operations.strike_at, _operations.dies = [], strike_at, dies
    _operations.root = str(root)
    try:
        yield _operations.seen
    finally:
        _operations.root = None


def _count(saved: Path, attempt: Callable[[Path], None], directory: Path) -> list[str]:
    target = _copy(saved, directory / "counting")
    with _armed(target, None, dies=False) as seen:
        attempt(target)
    return list(seen)


def _copy(saved: Path, target: Path) -> Path:
    shutil.copytree(saved, target)
    return target


def _in_forks(saved: Path, attempt: Callable[[Path], None], directory: Path) -> None:
    operations = _count(saved, attempt, directory)
    outcomes: list[dict[str, Any]] = []
    for dies in (False, True):
        for number, operation in enumerate(operations):
            target = _copy(saved, directory / f"{'dies' if dies else 'fails'}_{number:03d}")
            pid = os.fork()
            if pid == 0:
                code = 0
                try:
                    with _armed(target, number, dies):
                        attempt(target)
                except OSError:
                    code = 3
                finally:
                    os._exit(code)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            outcomes.append({"operation": operation, "dies": dies, "directory": str(target), "code": code})
    for outcome in outcomes:  # and the next attempt mends it
        shutil.copytree(outcome["directory"], outcome["directory"] + "_again")
        attempt(Path(outcome["directory"] + "_again"))
    (directory / "outcomes.json").write_text(json.dumps(outcomes))


def _one_after_the_other(saved: Path, attempt: Callable[[Path], None], directory: Path, rank: int, struck: int) -> None:
    counting, target = saved.parent / "counting", saved.parent / "trials"
    with _armed(counting, None, dies=False) as seen:
        attempt(counting)
    numbers = torch.tensor([len(seen) if rank == struck else 0])
    dist.all_reduce(numbers)
    outcomes = []
    for number in range(int(numbers)):
        if rank == 0:
            shutil.rmtree(target, ignore_errors=True)
            _copy(saved, target)
        dist.barrier()
        error = ""
        try:
            with _armed(target, number if rank == struck else None, dies=False):
                attempt(target)
        except OSError as raised:
            error = str(raised)
        dist.barrier()
        published = {path.name: contents(path) for path in target.glob("step_*")}
        dist.barrier()
        outcomes.append({"operation": seen[number] if rank == struck else "", "error": error, "published": published})
    attempt(target)
    (directory / f"outcomes_{rank}.json").write_text(json.dumps(outcomes))
