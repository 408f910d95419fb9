"""Rows of JSON Lines and Parquet files, streamed; a bad row is returned as an error, and reading continues."""

import gzip
import json
import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from data_synth.formats.extract import UnreadableError

TABLE_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
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
    with _open(path) as file:
        try:
            for number, raw in _lines(file, max_line_bytes):
                if isinstance(raw, UnreadableError) or not raw.isspace():
                    yield number, raw if isinstance(raw, UnreadableError) else _object(raw)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UnreadableError("damaged", f"the compressed file ends or breaks here: {error}.") from None


def _open(path: Path) -> BufferedIOBase:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


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
