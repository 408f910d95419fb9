"""What a ledger holds: the ends of all items, and the replies of those that have not ended."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_synth.ledger.key_index import KeyIndex
from data_synth.ledger.lines import CALL, FAILED, Line, decode_line, whole_lines
from data_synth.work import Reply

_OFFSET_BITS = 40  # a place in the ledger: number of the file, then the offset (files up to 1 TB)


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A reply, and which request it answers (see ``request_key``)."""

    request: str
    reply: Reply


class LedgerReader:
    """The ends of all items of a ledger, by any number of processes.

    Args:
        directory: the task's ledger.
        only: names of the processes' directories to read; None reads all.
        keep_failed: whether an item that failed has ended; if not, its calls are kept for the next try.
    """

    def __init__(self, directory: Path, *, only: str | None = None, keep_failed: bool = True) -> None:
        self.paths = sorted(directory.glob(f"{only or '*'}/*.log"), key=lambda path: (path.stem, path.parent.name))
        self._ends = KeyIndex()
        self._calls: dict[bytes, list[int]] = {}
        for number, path in enumerate(self.paths):
            for line in whole_lines(path):
                self._take(line, number << _OFFSET_BITS | line.offset, keep_failed)

    def _take(self, line: Line, place: int, keep_failed: bool) -> None:
        if line.kind == CALL:
            self._calls.setdefault(line.key, []).append(place)
        elif line.kind != FAILED or (keep_failed and self._ends.get(line.key) is None):
            self._ends.set(line.key, place)
            self._calls.pop(line.key, None)  # of no use any more: memory is for items under way

    def has_ended(self, key: bytes) -> bool:
        return self._ends.get(key) is not None

    def end(self, key: bytes) -> tuple[bytes, dict[str, Any]] | None:
        """Kind and content of an item's end."""
        place = self._ends.get(key)
        return None if place is None else self._read(place)

    def take_calls(self, key: bytes) -> list[RecordedCall]:
        """The replies recorded for an item that has not ended, in order; each is handed out once."""
        calls = []
        for place in self._calls.pop(key, ()):
            body = self._read(place)[1]
            reply = Reply(body["text"], body["finish_reason"], body["prompt_tokens"], body["completion_tokens"])
            calls.append(RecordedCall(body["request"], reply))
        return calls

    def mark_ended(self, key: bytes) -> None:
        """The item has ended in this run: its record lies in a file that this reader does not read."""
        self._ends.set(key, 0)

    def _read(self, place: int) -> tuple[bytes, dict[str, Any]]:
        path, offset = self.paths[place >> _OFFSET_BITS], place & ((1 << _OFFSET_BITS) - 1)
        with path.open("rb") as file:
            file.seek(offset)
            line = decode_line(file.readline(), offset)
        if line is None:
            raise ValueError(f"{path}: the line at byte {offset} has changed since it was read. Restore the file.")
        return line.kind, json.loads(line.body)
