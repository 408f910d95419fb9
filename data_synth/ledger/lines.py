"""The ledger: every reply that was paid for and every item's end, appended to files that are never changed.

A line is ``CRC KIND KEY JSON``: the CRC-32 (hex) of the rest, one letter, the item's key, a JSON object in ASCII. Each
line proves itself, so reading a ledger means taking the lines that are whole; whatever a crash left of the last one
fails its CRC or lacks its line end. Each start of a process writes a new file, so nothing is ever written behind a
torn line, and there is nothing to repair.

    ledger/TASK/0000-of-0002/000001.log      process 0 of 2, first start

Kinds: C a call's reply; O, R, F the item's end (ok, rejected, failed). An item has one end; only F may be followed by
another, when failed items are tried again.
"""

import hashlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

CALL, OK, REJECTED, FAILED = b"C", b"O", b"R", b"F"
_KEY_START, _BODY_START = 11, 44  # "crc32678 K 0123456789abcdef0123456789abcdef {"


class Line(NamedTuple):
    """One whole line of a ledger file."""

    kind: bytes
    key: bytes
    offset: int
    body: bytes


def item_key(model: str, key: str) -> bytes:
    """16 bytes that stand for an item's work by this model."""
    return hashlib.sha256(f"{model}\0{key}".encode()).digest()[:16]


def encode_line(kind: bytes, key: bytes, body: dict[str, Any]) -> bytes:
    rest = b"%s %s %s" % (kind, key.hex().encode(), json.dumps(body, separators=(",", ":")).encode())
    return b"%08x %s\n" % (zlib.crc32(rest), rest)


def whole_lines(path: Path) -> Iterator[Line]:
    """The lines of a file that are as they were written; others are passed over."""
    offset = 0
    with path.open("rb") as file:
        for raw in file:
            line = decode_line(raw, offset)
            if line is not None:
                yield line
            offset += len(raw)


def decode_line(raw: bytes, offset: int) -> Line | None:
    if len(raw) <= _BODY_START or raw[-1:] != b"\n" or raw[:9] != b"%08x " % zlib.crc32(raw[9:-1]):
        return None
    return Line(raw[9:10], bytes.fromhex(raw[_KEY_START : _BODY_START - 1].decode()), offset, raw[_BODY_START:-1])
