"""The ledger: every paid reply and the end of every item, in SQLite databases that survive a crash.

    ledger/TASK/0000-of-0002.sqlite        written by process 0 of 2 only
    ledger/TASK/0000-of-0002.sqlite.lock   present while a process has that database open; names the process

An item ends once, which the primary key enforces. A database is in write-ahead mode; a clean close leaves a single
file, and what a crash leaves in ``-wal`` is recovered when the database is next opened. Write-ahead mode with several
writers needs shared memory, hence one machine; therefore each process writes a database of its own, opened with
exclusive locking. Keys stay on disk: memory does not grow with the number of items.
"""

import errno
import hashlib
import json
import os
import sqlite3
import threading
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from data_synth.work import Reply, WorkItem
from qwen3emb_train.lineage.locks import DirectoryLock, OccupiedError

OK, REJECTED, FAILED = "ok", "rejected", "failed"
SCHEMA_VERSION = 1
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE calls (
    id INTEGER PRIMARY KEY, item BLOB NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    body TEXT NOT NULL, checksum INTEGER NOT NULL
);
CREATE INDEX calls_by_item ON calls (item);
CREATE TABLE ends (item BLOB NOT NULL PRIMARY KEY, kind TEXT NOT NULL, body TEXT NOT NULL, checksum INTEGER NOT NULL);
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""
_RESTORE = "Restore it from a copy, or move it away: what it recorded is then bought again."
_ROWS_PER_STATEMENT = 64
_CACHED_STATEMENTS = (
    8  # a cached INSERT keeps the values of its last rows in memory, and each number of rows has its own
)

Share = tuple[int, int]  # process_index, num_processes


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A reply with its request's ``request_key`` and prompt label."""

    request: str
    prompt: str
    reply: Reply


@dataclass(frozen=True, slots=True)
class End:
    """How an item ended (OK, REJECTED or FAILED) and the content of its record, JSON values."""

    kind: str
    body: dict[str, Any]


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
    ) -> None:
        self._model, self._retry_failed = model, retry_failed
        self._databases: dict[Share, _Database] = {}
        own = None if process_index is None else (process_index, num_processes)
        with ExitStack() as opened:
            for share, path in _lock_shares(directory / "ledger" / task, own, opened).items():
                self._databases[share] = _Database(path, is_writable=share == own)
                opened.callback(self._databases[share].close)
            self._own = None if own is None else self._databases[own]
            if self._own is not None and retry_failed:
                self._own.delete_failed()
            self._opened = opened.pop_all()

    def has_ended(self, item: WorkItem) -> bool:
        """Whether the item has an end in any open share."""
        key = item_key(self._model, item)
        # With retry_failed, the own share has lost the failures of earlier runs, so those left are of this run.
        return any(
            database.has_ended(key, unless_failed=self._retry_failed and database is not self._own)
            for database in self._databases_of(item)
        )

    def end(self, item: WorkItem) -> End | None:
        """The item's end; None while it has none. A success takes precedence over a failure in another share."""
        key = item_key(self._model, item)
        ends = [end for database in self._databases_of(item) if (end := database.end(key)) is not None]
        return min(ends, key=lambda end: end.kind == FAILED, default=None)

    def calls(self, item: WorkItem) -> list[RecordedCall]:
        """The replies recorded for the item, in order of arrival."""
        key = item_key(self._model, item)
        return [call for database in self._databases_of(item) for call in database.calls(key)]

    def write(self, calls: Sequence[tuple[WorkItem, RecordedCall]], ends: Sequence[tuple[WorkItem, End]]) -> None:
        """Adds records to the own share, all or none, and returns when they are on disk.

        Raises:
            OSError: they could not be written (the disk is full, ...).
            sqlite3.IntegrityError: an item ended twice.
        """
        assert self._own is not None, "opened for reading"
        self._own.write(
            [_call_row(item_key(self._model, item), call) for item, call in calls],
            [_end_row(item_key(self._model, item), end) for item, end in ends],
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

    def _databases_of(self, item: WorkItem) -> list["_Database"]:
        """The databases that can hold the item's records: one per division of the work."""
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
        shares = {_share_of(path): path for path in sorted(directory.glob("*-of-*.sqlite"))}
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
                    _Database(path, is_writable=True).close()  # recovers what a crash left
    return shares


def _share_of(path: Path) -> Share:
    index, _, count = path.stem.partition("-of-")
    return int(index), int(count)


class _Database:
    """The database of one share. Threads may use it together; the caller's locks keep other processes out.

    Args:
        path: of the database.
        is_writable: create it if it is missing, recover what a crash left, and check it. Otherwise it must have been
            closed by its writer.
    """

    def __init__(self, path: Path, *, is_writable: bool) -> None:
        self._path = path
        self._mutex = threading.Lock()
        uri = path.absolute().as_uri() + ("" if is_writable else "?immutable=1")
        with self._errors_named():
            self._connection = sqlite3.connect(
                uri, uri=True, isolation_level=None, check_same_thread=False, cached_statements=_CACHED_STATEMENTS
            )
            try:
                self._prepare(is_writable)
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self, is_writable: bool) -> None:
        execute = self._connection.execute
        self._connection.text_factory = bytes
        if is_writable:
            execute("PRAGMA locking_mode = EXCLUSIVE")
            execute("PRAGMA journal_mode = WAL")
            execute("PRAGMA synchronous = FULL")  # a commit returns when it is on disk
            if execute("SELECT NOT EXISTS (SELECT * FROM sqlite_master)").fetchone() == (1,):
                self._connection.executescript(_SCHEMA)
        (version,) = execute("PRAGMA user_version").fetchone()
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"{self._path}: schema version {version}, and this program knows version {SCHEMA_VERSION}. Continue "
                "with the program that wrote it, or choose another output_dir."
            )
        if is_writable:
            # A damaged index page could hide an item's end, and its replies would be bought again.
            (found,) = execute("PRAGMA quick_check(1)").fetchone()
            if found != b"ok":
                raise sqlite3.DatabaseError(" ".join(found.decode(errors="replace").split()))

    def has_ended(self, key: bytes, *, unless_failed: bool) -> bool:
        condition = f" AND kind <> '{FAILED}'" if unless_failed else ""
        return bool(self._rows(f"SELECT 1 FROM ends WHERE item = ?{condition}", key))

    def end(self, key: bytes) -> End | None:
        for kind, body, checksum in self._rows("SELECT kind, body, checksum FROM ends WHERE item = ?", key):
            self._verify(checksum, key, kind, body)
            return End(kind.decode(), json.loads(body))
        return None

    def calls(self, key: bytes) -> list[RecordedCall]:
        found = []
        columns = "body, checksum, prompt_tokens, completion_tokens"
        for body, checksum, *tokens in self._rows(f"SELECT {columns} FROM calls WHERE item = ? ORDER BY id", key):
            self._verify(checksum, key, body)
            call = json.loads(body)
            reply = Reply(call["text"], call["finish_reason"], *tokens)
            found.append(RecordedCall(call["request"], call["prompt"], reply))
        return found

    def totals(self) -> dict[str, int]:
        totals = self._rows("SELECT count(*), total(prompt_tokens), total(completion_tokens) FROM calls")[0]
        return dict(zip(("calls", "prompt_tokens", "completion_tokens"), map(int, totals), strict=True))

    def write(self, calls: Sequence[tuple[Any, ...]], ends: Sequence[tuple[Any, ...]]) -> None:
        """Adds rows, as ``_call_row`` and ``_end_row`` make them, in one transaction."""
        with self._errors_named(), self._mutex:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._insert("calls (item, prompt_tokens, completion_tokens, body, checksum)", calls)
                self._insert("ends (item, kind, body, checksum)", ends)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def delete_failed(self) -> None:
        """Deletes the ends of items that failed; their calls stay."""
        with self._errors_named(), self._mutex:
            self._connection.execute(f"DELETE FROM ends WHERE kind = '{FAILED}'")

    def close(self) -> None:
        """Closes the file; SQLite moves the write-ahead log into it where it can, else the next start does."""
        with self._mutex:
            self._connection.close()

    def _insert(self, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        # Many rows a statement: after each, the thread waits for the interpreter lock, which the event loop holds.
        remaining = iter(rows)
        while batch := list(islice(remaining, _ROWS_PER_STATEMENT)):
            marks = ",".join([f"({','.join('?' * len(batch[0]))})"] * len(batch))
            self._connection.execute(f"INSERT INTO {table} VALUES {marks}", [value for row in batch for value in row])

    def _rows(self, query: str, *values: bytes) -> list[Any]:
        with self._errors_named(), self._mutex:
            return self._connection.execute(query, values).fetchall()

    def _verify(self, checksum: int, *parts: bytes) -> None:
        if checksum != zlib.crc32(b"".join(parts)):
            raise ValueError(f"{self._path}: the record of item {parts[0].hex()} is damaged. {_RESTORE}")

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        """Names the file in SQLite's errors."""
        try:
            yield
        except sqlite3.IntegrityError:
            raise
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path)) from error
            raise OSError(f"{self._path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{self._path}: damaged, or no ledger ({error}). {_RESTORE}") from error


def _call_row(key: bytes, call: RecordedCall) -> tuple[bytes, int, int, str, int]:
    reply = call.reply
    fields = {"request": call.request, "prompt": call.prompt, "text": reply.text, "finish_reason": reply.finish_reason}
    body = json.dumps(fields)  # ASCII: an unpaired surrogate in a reply is read back as it was
    return key, reply.prompt_tokens, reply.completion_tokens, body, zlib.crc32(key + body.encode())


def _end_row(key: bytes, end: End) -> tuple[bytes, str, str, int]:
    body = json.dumps(end.body)
    return key, end.kind, body, zlib.crc32(key + end.kind.encode() + body.encode())
