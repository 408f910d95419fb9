"""One SQLite database of the ledger: replies, ends of items, and which replies are retired."""

import errno
import hashlib
import json
import os
import sqlite3
import threading
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from data_synth.work import Reply

OK, REJECTED, FAILED = "ok", "rejected", "failed"
SCHEMA_VERSION = 2
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE calls (
    id INTEGER PRIMARY KEY, request BLOB NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    body TEXT NOT NULL, checksum INTEGER NOT NULL
);
CREATE INDEX calls_by_request ON calls (request);
CREATE TABLE ends (item BLOB NOT NULL PRIMARY KEY, kind TEXT NOT NULL, body TEXT NOT NULL, checksum INTEGER NOT NULL);
CREATE TABLE retired (reply BLOB NOT NULL PRIMARY KEY) WITHOUT ROWID;
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""
_RESTORE = "Restore it from a copy, or move it away: what it recorded is then bought again."
_ROWS_PER_STATEMENT = 64
_CACHED_STATEMENTS = (
    8  # a cached INSERT keeps the values of its last rows in memory, and each number of rows has its own
)


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A reply.

    Attributes:
        request: the ``request_key`` of what was asked.
        prompt: its label.
        limit: of the reply's tokens; None without one.
    """

    request: str
    prompt: str
    reply: Reply
    limit: int | None = None

    def serves(self, limit: int | None) -> bool:
        """Whether the reply serves a request with this limit: not if it was cut and there is more room now."""
        if self.reply.finish_reason != "length":
            return True
        return self.limit == limit or (self.limit is not None and limit is not None and limit < self.limit)


@dataclass(frozen=True, slots=True)
class End:
    """How an item ended (OK, REJECTED or FAILED) and the content of its record, JSON values."""

    kind: str
    body: dict[str, Any]


class ShareDatabase:
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

    def has_calls(self) -> bool:
        return bool(self._rows("SELECT 1 FROM calls LIMIT 1"))

    def kind_of_end(self, key: bytes) -> str | None:
        return next((kind.decode() for (kind,) in self._rows("SELECT kind FROM ends WHERE item = ?", key)), None)

    def rejected(self, reasons: Collection[str]) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """In portions: the items rejected for these reasons, and for each the key of the request that led to it."""
        last = -1
        query = f"SELECT rowid, item, body FROM ends WHERE kind = '{REJECTED}' AND rowid > ? ORDER BY rowid LIMIT 500"
        while rows := self._rows(query, last):
            last = rows[-1][0]
            found = [(item, body) for _, item, text in rows if is_named((body := json.loads(text))["reason"], reasons)]
            requests = [digest_of_request(request) for _, body in found for request in body.get("requests", ())[-1:]]
            yield [item for item, _ in found], requests

    def retire(self, replies: Sequence[bytes], ends: Sequence[bytes]) -> None:
        """Replies are not used again, and these ends are deleted."""
        with self._errors_named(), self._mutex:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT OR IGNORE INTO retired VALUES (?)", [(reply,) for reply in replies])
            self._connection.executemany("DELETE FROM ends WHERE item = ?", [(end,) for end in ends])
            self._connection.execute("COMMIT")

    def is_retired(self, reply: bytes) -> bool:
        return bool(self._rows("SELECT 1 FROM retired WHERE reply = ?", reply))

    def end(self, key: bytes) -> End | None:
        for kind, body, checksum in self._rows("SELECT kind, body, checksum FROM ends WHERE item = ?", key):
            self._verify(checksum, key, kind, body)
            return End(kind.decode(), json.loads(body))
        return None

    def calls(self, key: bytes) -> list[tuple[bytes, RecordedCall]]:
        """Each reply to a request, with its digest."""
        found = []
        columns = "body, checksum, prompt_tokens, completion_tokens"
        for body, checksum, *tokens in self._rows(f"SELECT {columns} FROM calls WHERE request = ? ORDER BY id", key):
            self._verify(checksum, key, body)
            call = json.loads(body)
            reply = Reply(call["text"], call["finish_reason"], *tokens)
            recorded = RecordedCall(call["request"], call["prompt"], reply, call["limit"])
            found.append((hashlib.sha256(key + body).digest()[:16], recorded))
        return found

    def totals(self) -> dict[str, int]:
        totals = self._rows("SELECT count(*), total(prompt_tokens), total(completion_tokens) FROM calls")[0]
        return dict(zip(("calls", "prompt_tokens", "completion_tokens"), map(int, totals), strict=True))

    def write(self, calls: Sequence[tuple[Any, ...]], ends: Sequence[tuple[Any, ...]]) -> None:
        """Adds rows, as ``call_row`` and ``end_row`` make them, in one transaction."""
        with self._errors_named(), self._mutex:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._insert("calls (request, prompt_tokens, completion_tokens, body, checksum)", calls)
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

    def _rows(self, query: str, *values: bytes | int) -> list[Any]:
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


def digest_of_request(request: str) -> bytes:
    """16 bytes that identify a request by its ``request_key``."""
    return hashlib.sha256(request.encode()).digest()[:16]


def is_named(reason: str, reasons: Collection[str]) -> bool:
    return reason in reasons or "all" in reasons


def call_row(call: RecordedCall) -> tuple[bytes, int, int, str, int]:
    key, reply = digest_of_request(call.request), call.reply
    fields = {
        "request": call.request, "prompt": call.prompt, "limit": call.limit, "text": reply.text,
        "finish_reason": reply.finish_reason,
    }  # fmt: skip
    body = json.dumps(fields)  # ASCII: an unpaired surrogate in a reply is read back as it was
    return key, reply.prompt_tokens, reply.completion_tokens, body, zlib.crc32(key + body.encode())


def end_row(key: bytes, end: End) -> tuple[bytes, str, str, int]:
    body = json.dumps(end.body)
    return key, end.kind, body, zlib.crc32(key + end.kind.encode() + body.encode())
