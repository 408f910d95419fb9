"""Raw rows of a file with their numbers, and what JSON may not contain. The meaning of columns is not known here.

Files are streamed: a line, or a Parquet batch, at a time.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from qwen3emb_train.data.validation import InvalidExampleError, describe

RawRow = bytes | dict[str, Any] | InvalidExampleError
"""A line of JSON, a row of Parquet, or why there is none."""

_PARQUET_BATCH = 1024  # rows in memory at once
_BYTES_AT_ONCE = 2**24
_JSON_LINES_REMEDY = (
    "Write one JSON object per line; `jq -c` does that for an array ('.[]') or a file of long objects ('.')."
)


class ByteRange(NamedTuple):
    """The lines of a file that begin at bytes ``first`` .. ``end - 1``."""

    first: int
    end: int


def json_rows(path: Path, part: ByteRange | None = None) -> Iterator[tuple[int, RawRow]]:
    """Lines that are not blank: only a newline byte ends a line, not the U+2028 of a text.

    Args:
        part: of a file that is not compressed; its lines are counted from 1, too. None: all of it.
    """
    if part is not None and part.first > 0:
        yield from _rows_of_part(path, part)
        return
    line = offset = 0
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        try:
            for line, raw in enumerate(file, start=1):
                if part is not None and offset >= part.end:
                    return
                offset += len(raw)
                if line == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")  # the byte order mark some editors write
                if raw and not raw.isspace():
                    yield line, raw
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            remedy = "Compress or copy the file again."
            yield line + 1, InvalidExampleError("line", f"the compressed file is damaged here: {error}", remedy)


def _rows_of_part(path: Path, part: ByteRange) -> Iterator[tuple[int, RawRow]]:
    with path.open("rb") as file:
        offset = _first_line(file, part.first)
        for line, raw in enumerate(file, start=1):
            if offset >= part.end:
                return
            offset += len(raw)
            if not raw.isspace():
                yield line, raw


def _first_line(file: BinaryIO, first: int) -> int:
    """Moves to the first line that begins at ``first`` or behind; returns where that is."""
    file.seek(first - 1)
    return first - 1 + len(file.readline())


def lines_before(path: Path, part: ByteRange) -> int:
    """Lines of the file before those of ``part``."""
    if part.first == 0:
        return 0
    with path.open("rb") as file:
        left = _first_line(file, part.first)
        file.seek(0)
        count = 0
        while left > 0 and (block := file.read(min(left, _BYTES_AT_ONCE))):
            count += block.count(b"\n")
            left -= len(block)
    return count


def parquet_rows(path: Path) -> Iterator[tuple[int, RawRow]]:
    """Rows as dictionaries, counted from 1.

    Raises:
        ValueError: when the file is no Parquet file, or a damaged one.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_PARQUET_BATCH):
                for value in _batch_rows(batch):
                    row += 1
                    yield row, value
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path}: not readable as Parquet after row {row} ({error}). Write or copy it again."
        ) from error


def _batch_rows(batch: Any) -> Iterator[dict[str, Any] | InvalidExampleError]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:  # Arrow does not check its strings; find the rows that hold the bad bytes
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield InvalidExampleError(
                    "row", f"holds a text that is not UTF-8 ({error.reason})", "Write it as UTF-8."
                )


def decode_row(raw: RawRow) -> dict[str, Any]:
    """The object of a row.

    Raises:
        InvalidExampleError: when the line is not UTF-8, not JSON or not an object.
    """
    if isinstance(raw, dict):
        return raw
    if isinstance(raw, InvalidExampleError):
        raise raw
    try:
        row = _DECODER.decode(raw.decode("utf-8"))
    except InvalidExampleError:
        raise
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8: {raw[error.start]:#04x} at byte {error.start + 1}"
        raise InvalidExampleError("line", reason, "Convert the file to UTF-8.") from None
    except (ValueError, RecursionError) as error:
        place = f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else error
        ending = (
            "" if raw.endswith(b"\n") else "; the file ends here without a newline, perhaps writing was interrupted"
        )
        raise InvalidExampleError("line", f"is not JSON: {place}{ending}", _JSON_LINES_REMEDY) from None
    if not isinstance(row, dict):
        raise InvalidExampleError("line", f"should be a JSON object, but is {describe(row)}", _JSON_LINES_REMEDY)
    return row


def raw_text(raw: RawRow) -> str:
    """The row as in the file, for ``rejected.jsonl``; bytes that are not UTF-8 as ``\\xff``."""
    if isinstance(raw, bytes):
        return raw.decode("utf-8", errors="backslashreplace").rstrip("\r\n")
    return json.dumps(raw, ensure_ascii=False, default=str) if isinstance(raw, dict) else ""


def _refuse_constant(token: str) -> None:
    raise InvalidExampleError("line", f"holds {token}, which is not JSON", "Write a finite number, or leave it out.")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
