"""The ledger: every reply that was paid for and the end of every item, in SQLite databases that survive a crash.

    ledger/TASK/0000-of-0002.sqlite        written by process 0 of 2 and by no other
    ledger/TASK/0000-of-0002.sqlite.lock   locked while a process has that database open; names the process

An item ends once, which the primary key enforces. A database is in write-ahead mode while it is written, and a single
file after a clean close; what a crash leaves in ``-wal`` is recovered when it is next opened. Write-ahead mode with
several processes needs memory that they share, hence one machine; therefore each process has a database of its own, and
opens it with exclusive locking. Keys stay on disk: memory does not grow with the number of items.
"""

import fcntl
import hashlib
import logging
import os
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from data_synth.ledger_file import FAILED, End, LedgerFile, RecordedCall
from data_synth.work import WorkItem

log = logging.getLogger(__name__)


class Ledger:
    """The ledger of one task, as a context manager.

    A process that works opens its own share for writing and, if the work was divided among another number of processes
    before, those shares for reading. Whoever only reads opens all shares.

    Args:
        directory: of the whole synthesis.
        task: name of the task.
        model: the teacher's ``model``; an item that another model did is other work.
        process_index, num_processes: the share to work on; None to read all shares.
        retry_failed: for a process that works: items that failed before have not ended.

    Raises:
        ValueError: another process has a share open, or a database is damaged or has another schema version.
        OSError: a database cannot be opened.
    """

    def __init__(
        self,
        directory: Path,
        task: str,
        model: str,
        *,
        process_index: int | None = None,
        num_processes: int = 1,
        retry_failed: bool = False,
    ) -> None:
        self._model, self._retry_failed = model, retry_failed
        self._files: dict[tuple[int, int], LedgerFile] = {}  # by process_index, num_processes
        self._own: LedgerFile | None = None
        own = None if process_index is None else (process_index, num_processes)
        with ExitStack() as opened:
            self._open(directory / "ledger" / task, own, opened)
            self._opened = opened.pop_all()

    def _open(self, directory: Path, own: tuple[int, int] | None, opened: ExitStack) -> None:
        shares = {_share_of(path): path for path in sorted(directory.glob("*-of-*.sqlite"))}
        if own is not None:
            directory.mkdir(parents=True, exist_ok=True)
            # Of its own division of the work, a process needs its own share only.
            shares = {share: path for share, path in shares.items() if share[1] != own[1]}
            shares[own] = directory / f"{own[0]:04d}-of-{own[1]:04d}.sqlite"
        if not shares:
            return
        # One process at a time opens: no two recover the same database.
        with _locked(directory / "opening", fcntl.LOCK_EX):
            for share, path in shares.items():
                is_shared = own is not None and share != own  # processes of a new division all read the old one
                kind = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
                opened.enter_context(_locked(path, kind | fcntl.LOCK_NB))
                if share != own and not LedgerFile.is_closed(path):
                    LedgerFile(path, is_writable=True).close()  # recovers it
        for share, path in shares.items():
            self._files[share] = LedgerFile(path, is_writable=share == own)
            opened.callback(self._files[share].close)
        if own is not None:
            self._own = self._files[own]
            if self._retry_failed:
                self._own.reopen_failed()

    def has_ended(self, item: WorkItem) -> bool:
        key = item_key(self._model, item)
        # In the own share no failure of an earlier run is left, if those are tried again.
        return any(
            file.has_ended(key, unless_failed=self._retry_failed and file is not self._own)
            for file in self._files_of(item)
        )

    def end(self, item: WorkItem) -> End | None:
        """The item's end; None while it has none. Of a failure and a later success elsewhere, the success."""
        key = item_key(self._model, item)
        ends = [end for file in self._files_of(item) if (end := file.end(key)) is not None]
        return min(ends, key=lambda end: end.kind == FAILED, default=None)

    def calls(self, item: WorkItem) -> list[RecordedCall]:
        """The replies recorded for the item, in the order they came."""
        key = item_key(self._model, item)
        return [call for file in self._files_of(item) for call in file.calls(key)]

    def write(self, calls: Sequence[tuple[WorkItem, RecordedCall]], ends: Sequence[tuple[WorkItem, End]]) -> None:
        """Adds records to the own share, all or none, and returns when they are on the disk.

        Raises:
            OSError: they could not be written (the disk is full, ...).
            sqlite3.IntegrityError: an item ended twice.
        """
        assert self._own is not None, "opened for reading"
        self._own.write(
            [(item_key(self._model, item), call) for item, call in calls],
            [(item_key(self._model, item), end) for item, end in ends],
        )

    def totals(self) -> Counter[str]:
        """ "calls", "prompt_tokens" and "completion_tokens" of all open shares, by any model."""
        totals: Counter[str] = Counter()
        for file in self._files.values():
            totals.update(file.totals())
        return totals

    def close(self) -> None:
        self._opened.close()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _files_of(self, item: WorkItem) -> list[LedgerFile]:
        """Where the item's records can be: in each division of the work, it belongs to one process."""
        divisions = {num_processes for _, num_processes in self._files}
        shares = [(process_of(item, num_processes), num_processes) for num_processes in sorted(divisions)]
        return [self._files[share] for share in shares if share in self._files]


def process_of(item: WorkItem, num_processes: int) -> int:
    """Which process does the item: the same on every machine, and one for all items of a group."""
    return int.from_bytes(hashlib.sha256((item.group or item.key).encode()).digest()[:8]) % num_processes


def item_key(model: str, item: WorkItem) -> bytes:
    """16 bytes that identify an item's work by this model."""
    return hashlib.sha256(f"{model}\0{item.key}".encode()).digest()[:16]


def _share_of(path: Path) -> tuple[int, int]:
    index, _, count = path.stem.partition("-of-")
    return int(index), int(count)


@contextmanager
def _locked(path: Path, kind: int) -> Iterator[None]:
    """Holds a lock beside the file; the system releases it with the process, however that ends."""
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, kind)
        except BlockingIOError:
            holder = os.pread(descriptor, 256, 0).decode(errors="replace") or "another process"
            raise ValueError(
                f"{path}: {holder} is at work here. Wait for it; processes that run together need the same "
                "num_processes and a process_index of their own."
            ) from None
        except OSError as error:
            log.warning("%s: this file system cannot lock files (%s); start each process_index once only", path, error)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(descriptor)
