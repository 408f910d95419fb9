"""The ledger: every paid reply and the end of every item, in SQLite databases that survive a crash.

    ledger/TASK/0000-of-0002.sqlite        written by process 0 of 2 only
    ledger/TASK/0000-of-0002.sqlite.lock   present while a process has that database open; names the process

A reply is found by its request's content, not by its item: an item that changes, because a judge or negatives are added
to it, asks for what is new only. An item ends once, which the primary key enforces. Where a rejected item is to be
asked again, its end is removed and the reply that led to it is *retired*: kept, counted, and not used.

A database is in write-ahead mode; a clean close leaves a single file, and what a crash leaves in ``-wal`` is recovered
when the database is next opened. Write-ahead mode with several writers needs shared memory, hence one machine;
therefore each process writes a database of its own, opened with exclusive locking. Keys stay on disk: memory does not
grow with the number of items.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path

from data_synth.ledger_database import (
    FAILED,
    OK,
    REJECTED,
    End,
    RecordedCall,
    ShareDatabase,
    call_row,
    digest_of_request,
    end_row,
    is_named,
)
from data_synth.work import WorkItem
from qwen3emb_train.lineage.locks import DirectoryLock, OccupiedError

Share = tuple[int, int]  # process_index, num_processes


class Ledger:
    """The ledger of one task, as a context manager.

    A process that synthesizes opens its own share for writing and, if the work was divided among another number of
    processes before, the shares of that division for reading. A process that only reads opens all shares.

    Args:
        directory: of the whole synthesis.
        task: name of the task.
        model: the teacher's ``model``; the same item by another model is other work.
        process_index, num_processes: the share to write; None to read all shares.
        retry_failed: for a process that writes: items that failed in earlier runs count as not ended.
        retry_rejected: likewise for items rejected for one of these reasons; "all" stands for every reason. Their
            replies are retired.
        is_locked: a parent process that reads has all shares open; they are opened for reading without locks.

    Raises:
        OccupiedError: another process has a share open.
        ValueError: a database is damaged or has another schema version.
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
        retry_rejected: Collection[str] = (),
        is_locked: bool = False,
    ) -> None:
        self._model, self._retry_failed, self._retry_rejected = model, retry_failed, frozenset(retry_rejected)
        self._databases: dict[Share, ShareDatabase] = {}
        own = None if process_index is None else (process_index, num_processes)
        with ExitStack() as opened:
            found = directory / "ledger" / task
            for share, path in (_shares(found) if is_locked else _lock_shares(found, own, opened)).items():
                self._databases[share] = ShareDatabase(path, is_writable=share == own)
                opened.callback(self._databases[share].close)
            self._own = None if own is None else self._databases[own]
            if self._own is not None and retry_failed:
                self._own.delete_failed()
            if self._own is not None and retry_rejected:
                self._retire_rejected(self._own)
            self.has_earlier_calls = any(database.has_calls() for database in self._databases.values())
            self._opened = opened.pop_all()

    def kind_of_end(self, item: WorkItem) -> str | None:
        """How the item ended in an open share (OK, REJECTED or FAILED); None if it has not, or is to be tried again."""
        key = item_key(self._model, item)
        # The own share has lost the ends of earlier runs that are to be tried again, so those left are of this run.
        kinds = [
            kind
            for database in self._databases_of(item)
            if (kind := database.kind_of_end(key)) is not None
            and (database is self._own or not self._is_tried_again(kind, database, key))
        ]
        return min(kinds, key=(OK, REJECTED, FAILED).index, default=None)

    def has_ended(self, item: WorkItem) -> bool:
        """Whether the item has an end in any open share that is not to be tried again."""
        return self.kind_of_end(item) is not None

    def end(self, item: WorkItem) -> End | None:
        """The item's end; None while it has none. A success takes precedence over another end in another share."""
        key = item_key(self._model, item)
        ends = [end for database in self._databases_of(item) if (end := database.end(key)) is not None]
        return min(ends, key=lambda end: (OK, REJECTED, FAILED).index(end.kind), default=None)

    def calls(self, item: WorkItem, request: str) -> list[RecordedCall]:
        """The replies to a request that may be used, in order of arrival.

        Args:
            item: that asks, which decides where the replies are.
            request: its ``request_key``.
        """
        databases, key = self._databases_of(item), digest_of_request(request)
        return [
            call
            for database in databases
            for digest, call in database.calls(key)
            if not any(other.is_retired(digest) for other in databases)
        ]

    def num_replies(self, request: str) -> int:
        """How many replies to a request, by its ``request_key``, all open shares hold; retired ones count."""
        key = digest_of_request(request)
        return sum(len(database.calls(key)) for database in self._databases.values())

    def write(self, calls: Sequence[RecordedCall], ends: Sequence[tuple[WorkItem, End]]) -> None:
        """Adds records to the own share, all or none, and returns when they are on disk.

        Raises:
            OSError: they could not be written (the disk is full, ...).
            sqlite3.IntegrityError: an item ended twice.
        """
        assert self._own is not None, "opened for reading"
        self._own.write(
            [call_row(call) for call in calls],
            [end_row(item_key(self._model, item), end) for item, end in ends],
        )

    def totals(self) -> Counter[str]:
        """ "calls", "prompt_tokens" and "completion_tokens" of all open shares, by any model."""
        totals: Counter[str] = Counter()
        for database in self._databases.values():
            totals.update(database.totals())
        return totals

    def close(self) -> None:
        """Closes the databases and releases their locks."""
        self._opened.close()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _is_tried_again(self, kind: str, database: ShareDatabase, key: bytes) -> bool:
        if kind == FAILED:
            return self._retry_failed
        if kind != REJECTED or not self._retry_rejected:
            return False
        end = database.end(key)
        return end is not None and is_named(end.body["reason"], self._retry_rejected)

    def _retire_rejected(self, own: ShareDatabase) -> None:
        """Removes the ends to be tried again from the own share, and retires the replies that led to them."""
        for database in self._databases.values():
            for keys, requests in database.rejected(self._retry_rejected):
                replies = [
                    digest for other in self._databases.values() for key in requests for digest, _ in other.calls(key)
                ]
                own.retire(replies, keys if database is own else [])

    def _databases_of(self, item: WorkItem) -> list[ShareDatabase]:
        """The databases that can hold the item's records: one per division of the work."""
        if len(self._databases) == 1:
            return list(self._databases.values())  # without a digest of each item
        divisions = {num_processes for _, num_processes in self._databases}
        shares = [(process_of(item, num_processes), num_processes) for num_processes in sorted(divisions)]
        return [self._databases[share] for share in shares if share in self._databases]


def process_of(item: WorkItem, num_processes: int) -> int:
    """The index of the process that does the item: the same on every machine, and one for all items of a group."""
    return int.from_bytes(hashlib.sha256((item.group or item.key).encode()).digest()[:8]) % num_processes


def item_key(model: str, item: WorkItem) -> bytes:
    """16 bytes that identify an item's work by this model."""
    return hashlib.sha256(f"{model}\0{item.key}".encode()).digest()[:16]


def _lock_shares(directory: Path, own: Share | None, opened: ExitStack) -> dict[Share, Path]:
    """The databases to open, recovered and locked until ``opened`` closes.

    A writer holds the lock of its own share only: processes of a new division all read the shares of the old one. They
    are not written meanwhile, as no process opens its share while one of another division is open.
    """
    if own is None and not directory.is_dir():
        return {}
    with DirectoryLock(directory / "opening.lock", wait=True):
        shares = _shares(directory)
        if own is not None:
            shares = {share: path for share, path in shares.items() if share[1] != own[1]}
            shares[own] = directory / f"{own[0]:04d}-of-{own[1]:04d}.sqlite"
        for share, path in shares.items():
            with ExitStack() as briefly:
                lock = DirectoryLock(path.with_name(f"{path.name}.lock"), of=path)
                try:
                    (opened if own in (None, share) else briefly).enter_context(lock)
                except OccupiedError as error:
                    raise OccupiedError(
                        f"{error} Processes that run together need the same num_processes and different process_index."
                    ) from None
                if share != own and path.with_name(f"{path.name}-wal").exists():
                    ShareDatabase(path, is_writable=True).close()  # recovers what a crash left
    return shares


def _shares(directory: Path) -> dict[Share, Path]:
    return {_share_of(path): path for path in sorted(directory.glob("*-of-*.sqlite"))}


def _share_of(path: Path) -> Share:
    index, _, count = path.stem.partition("-of-")
    return int(index), int(count)
