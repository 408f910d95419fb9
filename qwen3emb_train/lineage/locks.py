"""One writer for each directory, on one machine or on several that share a file system.

A lock is a file that names its holder. It is created whole (a hard link to a finished file, or O_EXCL where there are
no links), so it needs nothing that NFS lacks. A killed holder leaves it behind: on the same machine that is recognised
by its process, which is gone or began at another time; on another one by the modification time, which a living holder
renews.
"""

import json
import os
import platform
import subprocess
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

_POLL_SECONDS = 0.1
_TAKEOVER_SECONDS = 30.0  # what a kill during a takeover costs the next one


class OccupiedError(ValueError):
    """Another process is writing to the directory."""


class DirectoryLock:
    """Held inside ``with``; a stale lock is taken over.

    Args:
        path: of the lock file.
        of: what it protects, for the message; default: the directory that ``path`` is in.
        wait: until a living holder ends, instead of raising.
        heartbeat_s: seconds between two renewals of the modification time.
        stale_s: age of the last renewal from which a holder on another machine counts as gone.

    Raises:
        OccupiedError: on entering; a living process holds it.
    """

    def __init__(
        self,
        path: Path,
        of: Path | None = None,
        *,
        wait: bool = False,
        heartbeat_s: float = 15.0,
        stale_s: float = 180.0,
    ) -> None:
        self.path, self.of, self.wait = path, of or path.parent, wait
        self.heartbeat_s, self.stale_s = heartbeat_s, stale_s
        self._text, self._made_parent = "", False
        self._released = threading.Event()

    def __enter__(self) -> "DirectoryLock":
        self._made_parent = not self.path.parent.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._text = json.dumps({**_identity(os.getpid()), "since": since, "token": uuid.uuid4().hex})
        while not self._create():
            found = _read(self.path)
            if found is None:
                continue  # released just now
            if self._is_stale(found):
                self._remove_stale(found)
            elif not self.wait:
                raise OccupiedError(f"{self.of}: {_holder(found)}. Wait until it ends, or give another output_dir.")
            else:
                time.sleep(_POLL_SECONDS)
        self._released.clear()
        threading.Thread(target=self._renew, daemon=True, name=f"heartbeat of {self.path}").start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        if _read(self.path) == self._text:
            self.path.unlink(missing_ok=True)
        if self._made_parent:
            with suppress(OSError):  # not empty, as a rule
                self.path.parent.rmdir()

    def _create(self) -> bool:
        whole = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex[:12]}.tmp")
        whole.write_text(self._text, encoding="utf-8")
        try:
            os.link(whole, self.path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            with suppress(FileExistsError), self.path.open("x", encoding="utf-8") as file:
                file.write(self._text)
                return True
            return False
        finally:
            whole.unlink()
        return True

    def _is_stale(self, text: str) -> bool:
        holder, own = _parse(text), _identity(os.getpid())
        if (holder.get("host"), holder.get("pids")) == (own["host"], own["pids"]):
            now = _identity(int(holder["pid"]))["started"]
            return now is None or holder.get("started") not in (None, now)
        return self._stands_still()

    def _stands_still(self) -> bool:
        """Whether the modification time stays the same until it is too old; both times are the file system's."""
        try:
            first = self.path.stat().st_mtime
            age, began = _file_system_time(self.path) - first, time.monotonic()
            while age + (time.monotonic() - began) < self.stale_s:
                time.sleep(min(_POLL_SECONDS, self.heartbeat_s))
                if self.path.stat().st_mtime != first:
                    return False
        except FileNotFoundError:
            return False  # released; the caller looks again
        return True

    def _remove_stale(self, text: str) -> None:
        """One process at a time removes: another might remove the lock that a third one has just created."""
        guard = self.path.with_name(f"{self.path.name}.takeover")
        try:
            guard.touch(exist_ok=False)
        except FileExistsError:
            with suppress(FileNotFoundError):
                if _file_system_time(guard) - guard.stat().st_mtime > _TAKEOVER_SECONDS:
                    guard.unlink()
            time.sleep(_POLL_SECONDS)
            return
        try:
            if _read(self.path) == text:
                self.path.unlink(missing_ok=True)
        finally:
            guard.unlink(missing_ok=True)

    def _renew(self) -> None:
        while not self._released.wait(self.heartbeat_s):
            try:
                os.utime(self.path)
            except FileNotFoundError:
                return
            except OSError:
                continue  # a file system that is unreachable for a while


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _parse(text: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except ValueError:
        return {}  # being written


def _holder(text: str) -> str:
    holder = _parse(text)
    if not holder:
        return "another process writes there"
    return f"process {holder['pid']} on {holder['host']} has been writing there since {holder['since']}"


def _identity(pid: int) -> dict[str, Any]:
    """Host, number space of its processes (a container has its own), and a process with its start; None: it is gone."""
    try:
        pids = os.readlink("/proc/self/ns/pid")
    except OSError:
        pids = ""
    return {"host": platform.node(), "pids": pids, "pid": pid, "started": process_start(pid)}


def process_start(pid: int) -> str | None:
    """When a process began, in a form that no later process of its number has; None if it is gone."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # another user's
    try:
        # The name, in brackets, may hold anything; the state and the 20th field follow it (proc(5), stat).
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return None if fields[0] in ("Z", "X") else f"{boot} {fields[19]}"
    except OSError:
        pass
    try:
        found = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip() or "unknown"


def _file_system_time(beside: Path) -> float:
    """The current time of the file system's clock: a server's may differ from this machine's."""
    probe = beside.with_name(f"{beside.name}.{uuid.uuid4().hex[:12]}.tmp")
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()
