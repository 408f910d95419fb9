"""Writing a ledger: in batches, synced to the disk, by one process per share of the work."""

import asyncio
import fcntl
import logging
import os
from pathlib import Path
from typing import Any, BinaryIO

from data_synth.ledger.lines import encode_line
from data_synth.ledger.reader import LedgerReader

log = logging.getLogger(__name__)


class LedgerWriter:
    """Appends lines to a new file and syncs them to the disk in batches; lives in one event loop.

    Args:
        directory: the process's own directory.
        commit_seconds: how long a batch gathers lines. An item waits that long for its end to be on the disk, nobody
            else does.
    """

    def __init__(self, directory: Path, *, commit_seconds: float = 0.02) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(directory)
        self.path = directory / f"{_next_number(directory.parent):06d}.log"
        self._file: BinaryIO | None = None
        self._commit_seconds = commit_seconds
        self._batch: list[bytes] = []
        self._committed: asyncio.Future[None] | None = None
        self._committing: asyncio.Task[None] | None = None
        self._broken: OSError | None = None

    def append(self, kind: bytes, key: bytes, body: dict[str, Any]) -> asyncio.Future[None]:
        """Adds a line to the next batch.

        Returns:
            A future that is done when the line is on the disk. It is shared by the batch: await it through
            ``asyncio.shield``.

        Raises:
            OSError: an earlier batch could not be written (the disk is full, ...).
        """
        if self._broken is not None:
            raise self._broken
        self._batch.append(encode_line(kind, key, body))
        if self._committed is None:
            self._committed = asyncio.get_running_loop().create_future()
            # Retrieved here, as not every line has somebody who waits for it.
            self._committed.add_done_callback(lambda future: future.exception())
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_batches())
        return self._committed

    async def close(self) -> None:
        """Writes what is left."""
        try:
            while self._committing is not None:
                self._commit_seconds = 0.0
                await asyncio.shield(self._committing)
        finally:
            if self._file is not None:
                self._file.close()
            os.close(self._lock)

    async def _commit_batches(self) -> None:
        loop = asyncio.get_running_loop()
        while self._batch:
            await asyncio.sleep(self._commit_seconds)
            lines, committed = self._batch, self._committed
            self._batch, self._committed = [], None
            assert committed is not None
            try:
                await loop.run_in_executor(None, self._write, b"".join(lines))
            except OSError as error:
                self._broken = error
                committed.set_exception(error)
                if self._committed is not None:
                    self._committed.set_exception(error)
                self._batch = []
            else:
                committed.set_result(None)
        self._committing = None

    def _write(self, data: bytes) -> None:
        if self._file is None:
            self._file = self.path.open("xb", buffering=0)
            _sync_directory(self.path.parent)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        os.fsync(self._file.fileno())


def open_ledger(
    ledger: Path, process_index: int, num_processes: int, *, retry_failed: bool, commit_seconds: float = 0.02
) -> tuple[LedgerReader, LedgerWriter]:
    """What this process has done already, and where it goes on.

    Raises:
        ValueError: another process does the same share of the work, or shares are cut differently.
    """
    share = f"{process_index:04d}-of-{num_processes:04d}"
    writer = LedgerWriter(ledger / share, commit_seconds=commit_seconds)
    # A process reads its own files only; but if the work was once divided otherwise, its items may lie anywhere.
    only = None if _other_shares(ledger, f"{num_processes:04d}") else share
    return LedgerReader(ledger, only=only, keep_failed=not retry_failed), writer


def _next_number(ledger: Path) -> int:
    """Above all that exist, whichever process wrote them: a later start has the larger number."""
    return 1 + max((int(path.stem) for path in ledger.glob("*/*.log") if path.stem.isdigit()), default=0)


def _locked(directory: Path) -> int:
    """Two processes with one share of the work would both pay for it; the lock goes with the process that holds it."""
    for other in _other_shares(directory.parent, directory.name.partition("-of-")[2]):
        os.close(_lock(other))
    return _lock(directory)


def _lock(directory: Path) -> int:
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ValueError(
            f"{directory}: another process is at work here. Wait for it; processes that run together need the same "
            "num_processes and a process_index of their own."
        ) from None
    except OSError as error:
        log.warning("%s: this file system cannot lock files (%s); start each process_index once only", directory, error)
    return descriptor


def _other_shares(ledger: Path, num_processes: str) -> list[Path]:
    """Directories of runs that divided the work among another number of processes."""
    return [path for path in ledger.glob("*-of-*") if path.is_dir() and path.name.partition("-of-")[2] != num_processes]


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
