"""Raw rows of a file with their numbers, and what JSON may not contain. The meaning of columns is not known here.

Files are streamed: a line, or a Parquet batch, at a time.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from qwen3emb_train.data.validation import MAX_ROW_BYTES, InvalidExampleError, describe, row_too_large

RawRow = bytes | dict[str, Any] | InvalidExampleError
"""A line of JSON, a row of Parquet, or why there is none."""

_PARQUET_BATCH = 1024  # rows in memory at once
_BYTES_AT_ONCE = 2**24
# Data compresses to a tenth or a fiftieth. What unpacks to more than this was made to fill a memory or a disk.
_BOMB_RATIO, _BOMB_BYTES = 500, 2**28
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
            for line, (size, raw) in enumerate(_lines(file), start=1):
                if part is not None and offset >= part.end:
                    return
                offset += size
                if offset > _BOMB_BYTES and offset > _BOMB_RATIO * path.stat().st_size:
                    remedy = "Check where it comes from, and unpack it yourself if it is right."
                    reason = f"the file has unpacked to over {_BOMB_RATIO} times its size here"
                    yield line, InvalidExampleError("line", reason, remedy)
                    return
                if line == 1 and isinstance(raw, bytes):
                    raw = raw.removeprefix(b"\xef\xbb\xbf")  # the byte order mark some editors write
                if raw and (not isinstance(raw, bytes) or not raw.isspace()):
                    yield line, raw
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            remedy = "Compress or copy the file again."
            yield line + 1, InvalidExampleError("line", f"the compressed file is damaged here: {error}", remedy)


def _rows_of_part(path: Path, part: ByteRange) -> Iterator[tuple[int, RawRow]]:
    with path.open("rb") as file:
        offset = _first_line(file, part.first)
        for line, (size, raw) in enumerate(_lines(file), start=1):
            if offset >= part.end:
                return
            offset += size
            if not isinstance(raw, bytes) or not raw.isspace():
                yield line, raw


def _lines(file: BufferedIOBase) -> Iterator[tuple[int, bytes | InvalidExampleError]]:
    """Bytes of each line, and the line; one that is too long is passed over without being held in memory."""
    while raw := file.readline(MAX_ROW_BYTES + 1):
        size = len(raw)
        if size <= MAX_ROW_BYTES:
            yield size, raw
            continue
        while raw and not raw.endswith(b"\n"):
            raw = file.readline(_BYTES_AT_ONCE)
            size += len(raw)
        yield size, row_too_large(f"{size:,} bytes")


def _first_line(file: BinaryIO, first: int) -> int:
    """Moves to the first line that begins at ``first`` or behind; returns where that is."""
    file.seek(first - 1)
    offset = first - 1
    while raw := file.readline(_BYTES_AT_ONCE):
        offset += len(raw)
        if raw.endswith(b"\n"):
            break
    return offset


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
            for group in range(file.num_row_groups):
                if (rows_at_once := _rows_at_once(file.metadata.row_group(group))) is None:
                    yield row + 1, row_too_large(f"over {MAX_ROW_BYTES:,} bytes when unpacked")
                    row += file.metadata.row_group(group).num_rows
                    continue
                for batch in file.iter_batches(rows_at_once, row_groups=[group]):
                    for value in _batch_rows(batch):
                        row += 1
                        yield row, value
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path}: not readable as Parquet after row {row} ({error}). Write or copy it again."
        ) from error


def _rows_at_once(group: Any) -> int | None:
    """Rows of a row group to unpack at once; None where one of them must be too large, by the group's own figures.

    A column of few distinct values is stored as these: each row may then unpack to the largest of them.
    """
    columns = [group.column(index) for index in range(group.num_columns)]
    unpacked = sum(column.total_uncompressed_size for column in columns)
    is_bomb = any(
        column.total_uncompressed_size > max(MAX_ROW_BYTES, _BOMB_RATIO * column.total_compressed_size)
        for column in columns
    )
    if is_bomb or unpacked > group.num_rows * MAX_ROW_BYTES:
        return None
    return min(_PARQUET_BATCH, max(_PARQUET_BATCH // 16, 8 * MAX_ROW_BYTES // max(unpacked, 1)))


def _batch_rows(batch: Any) -> Iterator[dict[str, Any] | InvalidExampleError]:
    if batch.nbytes > MAX_ROW_BYTES:  # perhaps one row's
        for index in range(batch.num_rows):
            row = batch.slice(index, 1)
            size = row.nbytes
            yield from [row_too_large(f"{size:,} bytes")] if size > MAX_ROW_BYTES else _row_values(row)
        return
    yield from _row_values(batch)


def _row_values(batch: Any) -> Iterator[dict[str, Any] | InvalidExampleError]:
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


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuses a key that is there twice: JSON libraries keep the last value, and the first would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidExampleError(twice, "is there twice", 'Keep one; several texts are a list: ["...", "..."].')
    return found


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_object)
