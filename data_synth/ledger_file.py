"""One database of the ledger: its schema, its records, and errors that name the file."""

import errno
import json
import logging
import os
import sqlite3
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from data_synth.work import Reply

log = logging.getLogger(__name__)

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
CREATE INDEX failed_items ON ends (item) WHERE kind = '{FAILED}';
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""
_RESTORE = "Restore it from a copy, or move it away: what it recorded is then bought again."
_ROWS_PER_STATEMENT = 64


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A reply, the request that it answers (``request_key``) and the label of that request's prompt."""

    request: str
    prompt: str
    reply: Reply


@dataclass(frozen=True, slots=True)
class End:
    """How an item ended (OK, REJECTED or FAILED) and the content of its record, JSON values."""

    kind: str
    body: dict[str, Any]


class LedgerFile:
    """A database. Threads may share it; processes may not, which the caller's locks ensure.

    Args:
        path: of the database.
        is_writable: create it where it is missing, recover what a crash left, and check it. Otherwise it must have been
            closed by its writer.

    Raises:
        ValueError: the file is damaged, no ledger, or has another schema version.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, *, is_writable: bool) -> None:
        self._path, self._is_writable = path, is_writable
        self._mutex = threading.Lock()
        with self._errors_named():
            uri = path.absolute().as_uri() + ("" if is_writable else "?immutable=1")
            self._connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    @staticmethod
    def is_closed(path: Path) -> bool:
        """Whether its last writer closed the file: byte 18 of the header is 2 in write-ahead mode."""
        with path.open("rb") as file:
            return file.read(19)[18:] == b"\x01"

    def _prepare(self) -> None:
        execute = self._connection.execute
        self._connection.text_factory = bytes
        if self._is_writable:
            execute("PRAGMA locking_mode = EXCLUSIVE")
            execute("PRAGMA journal_mode = WAL")
            execute("PRAGMA synchronous = FULL")  # a commit returns when it is on the disk
        (is_empty,) = execute("SELECT NOT EXISTS (SELECT * FROM sqlite_master)").fetchone()
        if is_empty and self._is_writable:
            self._connection.executescript(_SCHEMA)
        (version,) = execute("PRAGMA user_version").fetchone()
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"{self._path}: schema version {version}, and this program knows version {SCHEMA_VERSION}. Continue "
                "with the program that wrote it, or choose another output_dir."
            )
        if self._is_writable:
            # A page that is damaged could make an item seem new, which would then be bought again.
            (found,) = execute("PRAGMA quick_check(1)").fetchone()
            if found != b"ok":
                raise sqlite3.DatabaseError(" ".join(found.decode(errors="replace").split()))

    def has_ended(self, key: bytes, *, unless_failed: bool = False) -> bool:
        condition = f" AND kind <> '{FAILED}'" if unless_failed else ""
        return bool(self._rows(f"SELECT 1 FROM ends WHERE item = ?{condition}", key))

    def end(self, key: bytes) -> End | None:
        for kind, body, checksum in self._rows("SELECT kind, body, checksum FROM ends WHERE item = ?", key):
            self._verify(checksum, key, kind, body)
            return End(kind.decode(), json.loads(body))
        return None

    def calls(self, key: bytes) -> list[RecordedCall]:
        """The replies recorded for an item, in the order they came."""
        found = []
        columns = "prompt_tokens, completion_tokens, body, checksum"
        for prompt_tokens, completion_tokens, body, checksum in self._rows(
            f"SELECT {columns} FROM calls WHERE item = ? ORDER BY id", key
        ):
            self._verify(checksum, key, body)
            call = json.loads(body)
            reply = Reply(call["text"], call["finish_reason"], prompt_tokens, completion_tokens)
            found.append(RecordedCall(call["request"], call["prompt"], reply))
        return found

    def totals(self) -> dict[str, int]:
        """ "calls", "prompt_tokens" and "completion_tokens"."""
        totals = self._rows("SELECT count(*), total(prompt_tokens), total(completion_tokens) FROM calls")[0]
        return dict(zip(("calls", "prompt_tokens", "completion_tokens"), map(int, totals), strict=True))

    def write(self, calls: Sequence[tuple[bytes, RecordedCall]], ends: Sequence[tuple[bytes, End]]) -> None:
        """Adds records, all or none, and returns when they are on the disk.

        Args:
            calls: with the keys of their items.
            ends: likewise.

        Raises:
            OSError: they could not be written (the disk is full, ...).
            sqlite3.IntegrityError: an item ended twice.
        """
        with self._errors_named(), self._mutex:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._insert("calls (item, prompt_tokens, completion_tokens, body, checksum)", map(_call_row, calls))
                self._insert("ends (item, kind, body, checksum)", map(_end_row, ends))
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def reopen_failed(self) -> None:
        """Items that failed have no end any more; their calls stay."""
        with self._errors_named(), self._mutex:
            self._connection.execute(f"DELETE FROM ends WHERE kind = '{FAILED}'")

    def close(self) -> None:
        with self._mutex:
            try:
                if self._is_writable:
                    self._connection.execute("PRAGMA journal_mode = DELETE")
            except sqlite3.Error as error:
                log.warning("%s: %s. Nothing is lost: the next start reads %s-wal", self._path, error, self._path.name)
            finally:
                self._connection.close()

    def _insert(self, table: str, rows: Iterator[tuple[Any, ...]]) -> None:
        # Many rows a statement: after each, the thread waits for the interpreter lock, which the event loop holds.
        while batch := list(islice(rows, _ROWS_PER_STATEMENT)):
            marks = ",".join([f"({','.join('?' * len(batch[0]))})"] * len(batch))
            self._connection.execute(f"INSERT INTO {table} VALUES {marks}", [value for row in batch for value in row])

    def _rows(self, query: str, *values: bytes) -> list[Any]:
        with self._errors_named(), self._mutex:
            return self._connection.execute(query, values).fetchall()

    def _verify(self, checksum: int, *parts: bytes) -> None:
        if checksum != _checksum(*parts):
            raise ValueError(f"{self._path}: the record of item {parts[0].hex()} is damaged. {_RESTORE}")

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
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


def _call_row(record: tuple[bytes, RecordedCall]) -> tuple[bytes, int, int, str, int]:
    key, call = record
    reply = call.reply
    fields = {"request": call.request, "prompt": call.prompt, "text": reply.text, "finish_reason": reply.finish_reason}
    body = json.dumps(fields)  # ASCII: half a surrogate pair of a reply comes back as it was
    return key, reply.prompt_tokens, reply.completion_tokens, body, _checksum(key, body.encode())


def _end_row(record: tuple[bytes, End]) -> tuple[bytes, str, str, int]:
    key, end = record
    body = json.dumps(end.body)
    return key, end.kind, body, _checksum(key, end.kind.encode(), body.encode())


def _checksum(*parts: bytes) -> int:
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return checksum
