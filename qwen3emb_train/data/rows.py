"""Which files a source is, their raw rows with numbers, and what JSON may not contain; columns have no meaning here.

Files are streamed: a line, or a batch of a table (``tables.py``), at a time.
"""

import bz2
import gzip
import io
import json
import logging
import lzma
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from qwen3emb_train import lineage
from qwen3emb_train.data.validation import MAX_ROW_BYTES, InvalidExampleError, describe, row_too_large

logger = logging.getLogger(__name__)
RawRow = bytes | dict[str, Any] | InvalidExampleError
"""A line of JSON, a row of Parquet, or why there is none."""

_PACKED = (".gz", ".zst", ".bz2", ".xz")
_IN_DIRECTORIES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow")  # a directory may hold a run.json
_KINDS = (*_IN_DIRECTORIES, ".json")
_NO_DATA = ("run.json", "report.json", "dataset_info.json")
_UNPACKED_ONLY = (".parquet", ".arrow")
_BYTES_AT_ONCE = 2**24
# Data compresses to a tenth or a fiftieth. What unpacks to more than this was made to fill a memory or a disk.
BOMB_RATIO, _BOMB_BYTES = 500, 2**28
DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError)
"""What reading a packed file raises."""
_JSON_LINES_REMEDY = (
    "Write one JSON object per line; `jq -c` does that for an array ('.[]') or a file of long objects ('.')."
)


class ByteRange(NamedTuple):
    """The lines of a file that begin at bytes ``first`` .. ``end - 1``."""

    first: int
    end: int


def source_path(name: str) -> Path:
    """The path of a source as a configuration names it: a file, a directory, a pattern, or a data set of the hub.

    Raises:
        FileNotFoundError: the name could be the hub's, and the data set cannot be loaded.
    """
    path = Path(name)
    if path.exists() or kind_of(path) or lineage.matches(path):
        return path
    from qwen3emb_train.data.hub import hub_path, looks_like_a_name

    return hub_path(name) if looks_like_a_name(name) else path


def kind_of(path: Path) -> str:
    """The suffix that says what a file holds, without the one that says how it is packed; "" for no kind of rows."""
    kind = path.with_suffix("").suffix if path.suffix in _PACKED else path.suffix
    return kind if kind in _KINDS and (kind not in _UNPACKED_ONLY or path.suffix == kind) else ""


def shard_paths(path: Path, rejected_path: Path | None = None) -> list[Path]:
    """The files that are read for a source, in order, without the one that bad lines are written to.

    Args:
        path: a file, a directory of shards, a data set as ``save_to_disk`` writes it, or a pattern (``data/*.jsonl``).
        rejected_path: where bad lines are written.

    Raises:
        FileNotFoundError: there is no such file, or no shard in the directory.
        ValueError: a file of another kind, or a data set of several splits.
    """
    # By resolved path: reading a shard that is being written to would never end.
    rejected = None if rejected_path is None else rejected_path.resolve()
    if path.is_dir():
        return [shard for shard in _shards_in(path) if shard.resolve() != rejected]
    if not path.exists():
        if found := lineage.matches(path):
            return [shard for one in found for shard in shard_paths(one, rejected_path)]
        raise FileNotFoundError(f"{path}: no such file or directory. Check the path, or run the stage that writes it.")
    if not kind_of(path):
        packed = f"all but *{', *'.join(_UNPACKED_ONLY)} may be packed as {', '.join(_PACKED)}"
        raise ValueError(f"{path}: not a known kind of file. Give one of *{', *'.join(_KINDS)} ({packed}).")
    if path.resolve() == rejected:
        raise ValueError(f"{path}: is read and would be overwritten with its bad lines. Rename it.")
    return [path]


def _shards_in(directory: Path) -> list[Path]:
    if (directory / "dataset_dict.json").is_file():
        splits = sorted(child.name for child in directory.iterdir() if (child / "state.json").is_file())
        raise ValueError(
            f"{directory}: a data set of several splits. Give one of them: {directory}/{{{','.join(splits)}}}."
        )
    if (directory / "state.json").is_file() and (directory / "dataset_info.json").is_file():  # save_to_disk
        try:
            state = json.loads((directory / "state.json").read_text(encoding="utf-8"))
            return [directory / Path(one["filename"]).name for one in state["_data_files"]]  # in its order
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{directory}/state.json is none of save_to_disk ({error!r}). Save the data again."
            ) from None
    children = sorted(child for child in directory.iterdir() if not child.name.startswith("."))
    shards = [child for child in children if kind_of(child) in _IN_DIRECTORIES and child.is_file()]
    if not shards:
        raise FileNotFoundError(
            f"{directory}: the directory holds none of *{', *'.join(_IN_DIRECTORIES)}. Check the path."
        )
    left = [
        child.name for child in children if child.is_dir() or (kind_of(child) == ".json" and child.name not in _NO_DATA)
    ]
    if left:
        names = f"{', '.join(left[:5])}{', ...' if len(left) > 5 else ''}"
        logger.warning(
            "%s: %s is not read with its shards; a pattern can name all: %s/**/*.jsonl", directory, names, directory
        )
    return shards


def open_bytes(path: Path) -> io.BufferedIOBase:
    """Opens a file for reading, unpacked if its name says that it is packed."""
    match path.suffix:
        case ".gz":
            return gzip.open(path, "rb")
        case ".bz2":
            return bz2.open(path, "rb")
        case ".xz":
            return lzma.open(path, "rb")
        case ".zst":
            import pyarrow as pa

            return io.BufferedReader(pa.input_stream(str(path), compression="zstd"))
    return path.open("rb")


def file_rows(path: Path, part: ByteRange | None = None) -> Iterator[tuple[int, RawRow]]:
    """The rows of a file of any kind, with their numbers.

    Args:
        path: the file.
        part: as in ``json_rows``.

    Raises:
        ValueError: a damaged table.
    """
    if is_json_lines(path):
        return json_rows(path, part)
    from qwen3emb_train.data.tables import table_rows

    return table_rows(path)


def is_json_lines(path: Path) -> bool:
    """Whether a file has a JSON object on each line, and is no table; a ``.json`` file may hold an array instead."""
    kind = kind_of(path)
    if kind == ".json":
        try:
            with open_bytes(path) as file:
                return not file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
        except DAMAGED:
            return True  # where it breaks is said while its lines are read
    return kind in (".jsonl", ".ndjson", "")


def json_rows(path: Path, part: ByteRange | None = None) -> Iterator[tuple[int, RawRow]]:
    """Lines that are not blank: only a newline byte ends a line, not the U+2028 of a text.

    Args:
        part: of a file that is not compressed; its lines are counted from 1, too. None: all of it.
    """
    if part is not None and part.first > 0:
        yield from _rows_of_part(path, part)
        return
    line = offset = 0
    with open_bytes(path) as file:
        try:
            for line, (size, raw) in enumerate(bounded_lines(path, file), start=1):
                if part is not None and offset >= part.end:
                    return
                offset += size
                if line == 1 and isinstance(raw, bytes):
                    raw = raw.removeprefix(b"\xef\xbb\xbf")  # the byte order mark some editors write
                if raw and (not isinstance(raw, bytes) or not raw.isspace()):
                    yield line, raw
        except DAMAGED as error:
            if path.suffix not in _PACKED:
                raise
            remedy = "Compress or copy the file again."
            yield line + 1, InvalidExampleError("line", f"the compressed file is damaged here: {error}", remedy)


def _rows_of_part(path: Path, part: ByteRange) -> Iterator[tuple[int, RawRow]]:
    with path.open("rb") as file:
        offset = _first_line(file, part.first)
        for line, (size, raw) in enumerate(bounded_lines(path, file), start=1):
            if offset >= part.end:
                return
            offset += size
            if not isinstance(raw, bytes) or not raw.isspace():
                yield line, raw


def bounded_lines(path: Path, file: io.BufferedIOBase) -> Iterator[tuple[int, bytes | InvalidExampleError]]:
    """Bytes of each line, and the line; one that is too long is passed over without being held in memory.

    Args:
        path: of the file; one that unpacks to far more than data does ends with an error.
        file: open at the start of a line.
    """
    unpacked, limit = 0, unpacked_limit(path)
    while raw := file.readline(MAX_ROW_BYTES + 1):
        size = len(raw)
        is_long = size > MAX_ROW_BYTES
        while is_long and raw and not raw.endswith(b"\n"):
            raw = file.readline(_BYTES_AT_ONCE)
            size += len(raw)
        unpacked += size
        if unpacked > limit:
            remedy = "Check where it comes from, and unpack it yourself if it is right."
            reason = f"the file has unpacked to over {BOMB_RATIO} times its size here"
            yield size, InvalidExampleError("line", reason, remedy)
            return
        yield size, row_too_large(f"{size:,} bytes") if is_long else raw


def unpacked_limit(path: Path) -> int:
    """Bytes: a file that unpacks to more was made to fill a memory or a disk."""
    return max(_BOMB_BYTES, BOMB_RATIO * path.stat().st_size)


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
        row = decode_object(raw.decode("utf-8"))
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


def decode_object(text: str) -> Any:
    """A JSON value in which no key is there twice.

    Raises:
        InvalidExampleError: a key is, or a number is none.
        ValueError, RecursionError: it is not JSON.
    """
    return _DECODER.decode(text)


def renamed(row: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The row with its columns under our names; one that had such a name already gives it up.

    Args:
        row: as in the file.
        columns: our name -> the file's.

    Raises:
        InvalidExampleError: a column that is named is not there.
    """
    if not columns:
        return row
    for ours, theirs in columns.items():
        if theirs not in row:
            remedy = f"There are: {', '.join(map(repr, row))}. Correct the name; where a row has none, write null."
            raise InvalidExampleError(theirs, f"is not there, and columns.{ours} names it", remedy)
    kept = row.keys() - columns.keys() - set(columns.values())
    return {ours: row[theirs] for ours, theirs in columns.items()} | {name: row[name] for name in row if name in kept}


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
