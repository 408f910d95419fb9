"""Lines that a program leaves out, stored unchanged in one file per reason."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from qwen3emb_train.data.readers import SourceLine
from qwen3emb_train.data.rows import raw_text

MALFORMED = "malformed.jsonl"


class RejectedLines:
    """Writes ``REASON.jsonl``: file, line, reason, detail, and the line as ``raw``, which ``jq -r .raw`` restores.

    Args:
        directory: created with the first line.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[str, TextIO] = {}

    def __enter__(self) -> "RejectedLines":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()

    def add(self, line: SourceLine, reason: str, detail: str, **more: Any) -> None:
        """Writes a line.

        Args:
            line: as read.
            reason: name of the file.
            detail: what exactly was wrong.
            more: further fields.
        """
        if reason not in self._files:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._files[reason] = (self._directory / f"{reason}.jsonl").open("w", encoding="utf-8", newline="\n")
        row = {"file": str(line.file), "line": line.number, "reason": reason, "detail": detail, **more}
        self._files[reason].write(json.dumps(row | {"raw": raw_text(line.raw)}, ensure_ascii=False) + "\n")


def count_malformed(path: Path) -> int:
    """The number of lines that the reader has rejected; an empty file is removed."""
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        number = sum(1 for _ in file)
    if not number:
        path.unlink()
    return number
