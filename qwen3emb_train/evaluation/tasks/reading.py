"""Strict readers for files of pairs and of labelled texts: errors name file, line and field."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen3emb_train.data.rows import decode_row, json_rows
from qwen3emb_train.data.validation import MAX_ROW_BYTES, InvalidExampleError, check_length, row_too_large

PAIR_COLUMNS = ("sentence1", "sentence2")


@dataclass(frozen=True)
class Line:
    """A line of a file.

    Attributes:
        path, number: file and line number, from 1.
        fields: by name; strings only in a TSV file.
    """

    path: Path
    number: int
    fields: dict[str, Any]

    def text(self, name: str) -> str:
        """A text that is not blank.

        Raises:
            ValueError: it is missing, blank, no text or too long.
        """
        value = self._field(name)
        if not isinstance(value, str) or not value.strip():
            raise self.error(name, "it must be a text that is not blank")
        try:
            check_length(value, name)
        except InvalidExampleError as problem:
            raise ValueError(f"{self.path}:{self.number}: {problem}") from problem
        return value

    def number_of(self, name: str) -> float:
        """A finite number; in a TSV file, its decimal notation.

        Raises:
            ValueError: it is missing or no finite number.
        """
        value = self._field(name)
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise self.error(name, "it must be a finite number")
        return number

    def label(self, name: str) -> str:
        """A class: a text or a whole number.

        Raises:
            ValueError: it is missing, blank or of another type.
        """
        value = self._field(name)
        if isinstance(value, bool) or not isinstance(value, str | int) or str(value).strip() == "":
            raise self.error(name, "it must be a text or a whole number")
        return str(value)

    def error(self, name: str, remedy: str) -> ValueError:
        """An error that names file, line, field and value, and then the remedy."""
        return ValueError(f"{self.path}:{self.number}: field {name!r} is {self.fields[name]!r:.80}; {remedy}.")

    def _field(self, name: str) -> Any:
        if name not in self.fields:
            raise ValueError(f"{self.path}:{self.number}: field {name!r} is missing; there are {sorted(self.fields)}.")
        return self.fields[name]


def find_file(directory: Path, split: str, *suffixes: str) -> Path:
    """The one file of a split.

    Args:
        directory: of the set.
        split: name of the file without its suffix.
        suffixes: that are allowed, such as ".tsv".

    Raises:
        FileNotFoundError: there is none; names the splits that exist.
        ValueError: there are several.
    """
    candidates = [directory / f"{split}{suffix}" for suffix in suffixes]
    present = [file for file in candidates if file.is_file()]
    if len(present) > 1:
        raise ValueError(f"{present[0]} and {present[1].name} both exist. Remove the one that is not meant.")
    if not present:
        others = sorted({file.stem for suffix in suffixes for file in directory.glob(f"*{suffix}")})
        raise FileNotFoundError(
            f"{' or '.join(map(str, candidates))}: no such file."
            + (f" Splits that exist: {others}; set 'split'." if others else " Check 'path' and 'task'.")
        )
    return present[0]


def read_lines(path: Path, *columns: str) -> list[Line]:
    """The lines of a JSONL file, or of a TSV file whose header is ``columns``.

    Raises:
        ValueError: the file has no lines, or a line is not a valid row.
    """
    lines = list(_tsv_lines(path, columns) if path.suffix == ".tsv" else _json_lines(path))
    if not lines:
        raise ValueError(f"{path}: holds no lines.")
    return lines


def _tsv_lines(path: Path, columns: tuple[str, ...]) -> Iterator[Line]:
    # newline="\n": only that ends a line, not a carriage return within a text.
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        try:
            for number, line in enumerate(iter(lambda: file.readline(MAX_ROW_BYTES), ""), start=1):
                if len(line) == MAX_ROW_BYTES:
                    raise ValueError(f"{path}:{number}: {row_too_large(f'over {len(line):,} bytes')}")
                cells = line.rstrip("\r\n").split("\t")
                if number == 1:
                    if cells != list(columns):
                        raise ValueError(f"{path}:1: the header is {cells}; it must be {'<tab>'.join(columns)!r}.")
                elif line.strip():
                    if len(cells) != len(columns):
                        raise ValueError(
                            f"{path}:{number}: {len(cells)} tab-separated columns; there must be {len(columns)}."
                        )
                    yield Line(path, number, dict(zip(columns, cells, strict=True)))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: is not UTF-8 ({error.reason}). Convert it.") from None


def _json_lines(path: Path) -> Iterator[Line]:
    for number, raw in json_rows(path):
        try:
            yield Line(path, number, decode_row(raw))
        except InvalidExampleError as problem:
            raise ValueError(f"{path}:{number}: {problem}") from problem
