"""Raw rows of files that are no lines of JSON: Parquet, Arrow (``save_to_disk``, the hub's cache), CSV, a JSON array.

As everywhere, nothing is guessed: a cell is a text, an empty one is absent, and what does not fit is a bad row.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qwen3emb_train.data.rows import (
    BOMB_RATIO,
    DAMAGED,
    RawRow,
    bounded_lines,
    decode_object,
    kind_of,
    open_bytes,
    unpacked_limit,
)
from qwen3emb_train.data.validation import MAX_ROW_BYTES, InvalidExampleError, row_too_large

_ROWS_AT_ONCE = 1024
_LONGEST_CELL = 2**24  # characters; a quote that is never closed would take the rest of the file
_MISSING = frozenset({"", "nan", "NaN", "<NA>"})  # what pandas leaves for a missing value
_DELIMITERS = ",;\t|"


def table_rows(path: Path) -> Iterator[tuple[int, RawRow]]:
    """Rows as dictionaries with their numbers: from 1, in a CSV file the line that the row begins in.

    Raises:
        ValueError: the file is damaged, or not of the kind that its name says.
    """
    read = {
        ".parquet": _parquet_rows, ".arrow": _arrow_rows, ".csv": _csv_rows, ".tsv": _csv_rows, ".json": _array_rows,
    }[kind_of(path)]  # fmt: skip
    try:
        yield from read(path)
    except DAMAGED as error:
        raise ValueError(f"{path}: cannot be read to its end ({error}). Compress or copy it again.") from error


def _parquet_rows(path: Path) -> Iterator[tuple[int, RawRow]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        with pq.ParquetFile(path) as file:
            _refuse_repeats(path, file.schema_arrow.names)
            for group in range(file.num_row_groups):
                if (rows_at_once := _group_rows_at_once(file.metadata.row_group(group))) is None:
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


def _group_rows_at_once(group: Any) -> int | None:
    """Rows of a row group to unpack at once; None where one of them must be too large, by the group's own figures."""
    columns = [group.column(index) for index in range(group.num_columns)]
    unpacked = sum(column.total_uncompressed_size for column in columns)
    is_packed_too_well = any(
        column.total_uncompressed_size > max(MAX_ROW_BYTES, BOMB_RATIO * column.total_compressed_size)
        for column in columns
    )
    return None if is_packed_too_well or unpacked > group.num_rows * MAX_ROW_BYTES else _rows_at_once(unpacked)


def _rows_at_once(num_bytes: int) -> int:
    """A column of few distinct values is stored as these: each row may then unpack to the largest of them."""
    return min(_ROWS_AT_ONCE, max(_ROWS_AT_ONCE // 16, 8 * MAX_ROW_BYTES // max(num_bytes, 1)))


def _arrow_rows(path: Path) -> Iterator[tuple[int, RawRow]]:
    import pyarrow as pa

    row = 0
    try:
        with pa.memory_map(str(path)) as file:
            is_stream = file.read(6) != b"ARROW1"
            file.seek(0)
            if is_stream:  # as datasets writes it
                reader = pa.ipc.open_stream(file)
                batches = iter(reader)
            else:
                reader = pa.ipc.open_file(file)
                batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
            _refuse_repeats(path, reader.schema.names)
            for batch in batches:
                rows_at_once = _rows_at_once(batch.nbytes)
                for first in range(0, batch.num_rows, rows_at_once):
                    for value in _batch_rows(batch.slice(first, rows_at_once)):
                        row += 1
                        yield row, value
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not readable as Arrow after row {row} ({error}). Write or copy it again.") from error


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


def _csv_rows(path: Path) -> Iterator[tuple[int, RawRow]]:
    csv.field_size_limit(_LONGEST_CELL)
    with open_bytes(path) as file:
        start = file.read(4)
        if start.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ValueError(f"{path}: is UTF-16. Convert it to UTF-8.")
    with open_bytes(path) as file:
        lines = _CsvLines(path, file)
        try:
            first = next(lines, "").removeprefix("\ufeff")
        except InvalidExampleError as error:
            raise ValueError(f"{path}:1: {error}") from error
        lines.put_back(first)
        delimiter = "\t" if kind_of(path) == ".tsv" else max(_DELIMITERS, key=first.count)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
        except (csv.Error, InvalidExampleError) as error:
            raise ValueError(f"{path}:1: the header is not readable as CSV: {error}.") from error
        _refuse_repeats(path, [name for name in header if name])
        # pandas writes its index first and without a name; elsewhere such a column is one whose name is lost.
        names = [name or (f"column {place}" if place > 1 else "") for place, name in enumerate(header, start=1)]
        while True:
            line = lines.begin_row()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except InvalidExampleError as error:
                yield line, error
                continue
            except csv.Error as error:
                remedy = 'Put cells with quotes, commas or line ends into quotes, and double quotes inside them ("").'
                yield line, InvalidExampleError("line", f"is not CSV: {error}", remedy)
                continue
            if any(cells):
                yield line, _csv_row(names, cells)


class _CsvLines:
    """The lines of a file as texts, bounded by row; unlike a generator it goes on behind an error."""

    def __init__(self, path: Path, file: io.BufferedIOBase) -> None:
        self._lines = bounded_lines(path, file)
        self._num_lines = self._row_bytes = 0
        self._put_back: str | None = None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._put_back is not None:
            line, self._put_back = self._put_back, None
            return line
        size, raw = next(self._lines)
        self._num_lines += 1
        self._row_bytes += size
        if isinstance(raw, InvalidExampleError):
            raise raw
        if self._row_bytes > MAX_ROW_BYTES:
            raise row_too_large(f"over {MAX_ROW_BYTES:,} bytes")
        # Bytes that are not UTF-8 become half surrogate pairs, so that the row that holds them can be named.
        return raw.decode("utf-8", "surrogateescape")

    def put_back(self, line: str) -> None:
        """Gives ``line`` once more."""
        self._put_back = line

    def begin_row(self) -> int:
        """The number of the line that comes next."""
        self._row_bytes = 0
        return self._num_lines + 1


def _csv_row(names: list[str], cells: list[str]) -> RawRow:
    if len(cells) != len(names):
        remedy = "Put cells that hold the delimiter into quotes, or give every row as many cells as the header."
        return InvalidExampleError("line", f"has {len(cells)} cells, and the header {len(names)}", remedy)
    row = {name: None if cell in _MISSING else cell for name, cell in zip(names, cells, strict=True)}
    for name, cell in row.items():
        if cell is not None and any("\udc80" <= letter <= "\udcff" for letter in cell):
            return InvalidExampleError(name, "is not UTF-8", "Convert the file to UTF-8.")
    return row


def _array_rows(path: Path) -> Iterator[tuple[int, RawRow]]:
    """The objects of one JSON array, which has to be read whole."""
    with open_bytes(path) as file:
        try:
            content = _whole(path, file)
            rows = decode_object(content.removeprefix(b"\xef\xbb\xbf").decode("utf-8"))
        except InvalidExampleError as problem:
            raise ValueError(f"{path}: {problem}") from problem
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: is not a JSON array in UTF-8 ({error}). Write it again.") from error
    for number, row in enumerate(rows, start=1):
        if len(content) > MAX_ROW_BYTES and (size := len(json.dumps(row, ensure_ascii=False))) > MAX_ROW_BYTES:
            yield number, row_too_large(f"over {size:,} bytes")
        else:
            yield number, row if isinstance(row, dict) else json.dumps(row).encode()


def _whole(path: Path, file: io.BufferedIOBase) -> bytes:
    content, limit = bytearray(), unpacked_limit(path)
    while block := file.read(MAX_ROW_BYTES):
        content += block
        if len(content) > limit:
            raise ValueError(f"has unpacked to over {BOMB_RATIO} times its size; check where it comes from")
    return bytes(content)


def _refuse_repeats(path: Path, names: list[str]) -> None:
    """Of two columns with one name a row would keep the last.

    Raises:
        ValueError: names the column.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{path}: the column {twice[0]!r} is there twice. Rename or drop one of the two.")
