"""Rows of JSON Lines, CSV, TSV, Parquet (streamed) and JSON files; a bad row is an error in its place."""

import csv
import io
import json
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Any, BinaryIO, cast

from data_synth.formats.compressed import COMPRESSED_SUFFIXES, DAMAGES, inner_suffix, open_plain, read_compressed
from data_synth.formats.extract import UnreadableError

TABLE_FORMATS = (".csv", ".json", ".jsonl", ".parquet", ".tsv")
_DELIMITERS = ",;\t|"
_PARQUET_BATCH = 256  # rows in memory at once

Row = dict[str, Any] | UnreadableError


def table_rows(path: Path, max_line_bytes: int) -> Iterator[tuple[int, Row]]:
    """Rows with their numbers, counted from 1.

    Raises:
        UnreadableError: the file is damaged from here on.
    """
    if path.suffix.lower() == ".parquet":
        yield from _parquet_rows(path)
        return
    suffix = inner_suffix(path)
    try:
        if suffix == ".json":
            raw = read_compressed(path, max_line_bytes)
            yield from enumerate(_rows_of_json(raw), start=1)
            return
        with open_plain(path) as file:
            if suffix in (".csv", ".tsv"):
                yield from _separated_rows(file, suffix, max_line_bytes)
                return
            for number, line in _lines(file, max_line_bytes):
                if isinstance(line, UnreadableError) or not line.isspace():
                    yield number, line if isinstance(line, UnreadableError) else _object(line)
    except DAMAGES as error:
        if path.suffix.lower() not in COMPRESSED_SUFFIXES:
            raise
        raise UnreadableError("damaged", f"the compressed file ends or breaks here: {error}.") from None


def is_table(path: Path) -> bool:
    """Whether a file holds a document in each row."""
    return inner_suffix(path) in TABLE_FORMATS


def _rows_of_json(raw: bytes) -> list[Row]:
    """The objects of an array, or of the only array in an object; an object alone is one row."""
    try:
        value = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UnreadableError("not_unicode", f"byte {error.start} is not UTF-8. Convert the file.") from None
    except (ValueError, RecursionError) as error:
        raise UnreadableError("not_json", f"{error}. Write an array of objects, or .jsonl.") from None
    if isinstance(value, dict):
        arrays = [part for part in value.values() if isinstance(part, list) and part and isinstance(part[0], dict)]
        value = arrays[0] if len(arrays) == 1 else [value]
    if not isinstance(value, list):
        raise UnreadableError("not_json", f"a {type(value).__name__}. Write an array of objects.")
    problem = UnreadableError("not_json", "no object. Write an array of objects.")
    return [{"text": row} if isinstance(row, str) else row if isinstance(row, dict) else problem for row in value]


def _separated_rows(file: BufferedIOBase, suffix: str, max_bytes: int) -> Iterator[tuple[int, Row]]:
    """Rows under the names of the first line; a file without a column of that name gives all of a row as its text."""
    csv.field_size_limit(max(max_bytes, 1))
    text = io.TextIOWrapper(cast(BinaryIO, file), encoding="utf-8-sig", newline="")
    try:
        first = text.readline(max_bytes)
        delimiter = "\t" if suffix == ".tsv" else max(_DELIMITERS, key=first.count)
        names = next(csv.reader([first], delimiter=delimiter), [])
        for number, values in enumerate(csv.reader(text, delimiter=delimiter), start=2):
            if not any(value.strip() for value in values):
                continue
            if len(values) > len(names):
                detail = f"{len(values)} values under {len(names)} names. Quote values that contain {delimiter!r}."
                yield number, UnreadableError("not_csv", detail)
            else:
                row = dict(zip(names, values, strict=False))
                yield number, {"": "\n".join(f"{name}: {value}" for name, value in row.items() if value.strip()), **row}
    except UnicodeDecodeError as error:
        raise UnreadableError("not_unicode", f"byte {error.start} is not UTF-8. Convert the file.") from None
    except csv.Error as error:
        raise UnreadableError("damaged", f"{error}.") from None


def _lines(file: BufferedIOBase, max_bytes: int) -> Iterator[tuple[int, bytes | UnreadableError]]:
    """Lines; one that is longer than allowed is skipped without being held in memory."""
    number = 0
    while raw := file.readline(max_bytes + 1):
        number += 1
        if len(raw) <= max_bytes:
            yield number, raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            continue
        while raw and not raw.endswith(b"\n"):
            raw = file.readline(max_bytes)
        yield number, UnreadableError("line_too_long", f"more than max_file_bytes={max_bytes} bytes.")


def _object(raw: bytes) -> Row:
    try:
        row = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_repeats)
    except UnicodeDecodeError as error:
        return UnreadableError("not_unicode", f"byte {error.start} of the line is not UTF-8. Convert the file.")
    except (ValueError, RecursionError) as error:
        return UnreadableError("not_json", f"{error}. Write one JSON object per line.")
    if not isinstance(row, dict):
        return UnreadableError("not_json", f"a {type(row).__name__} instead of an object. Write one object per line.")
    return row


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("A key is there twice, and one of its values would be lost")
    return found


def _parquet_rows(path: Path) -> Iterator[tuple[int, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_PARQUET_BATCH):
                for index in range(batch.num_rows):
                    number += 1
                    try:
                        yield number, batch.slice(index, 1).to_pylist()[0]
                    except UnicodeDecodeError as error:  # Arrow does not check its strings
                        yield number, UnreadableError("not_unicode", f"{error.reason}. Write the texts as UTF-8.")
    except (pa.ArrowException, OSError) as error:
        raise UnreadableError("damaged", f"not readable as Parquet after row {number}: {error}"[:300]) from None
