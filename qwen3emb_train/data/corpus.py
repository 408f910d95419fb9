"""Rows of texts: a corpus, or the queries of a BEIR set."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qwen3emb_train.data.rows import decode_row, file_rows, kind_of, renamed, shard_paths
from qwen3emb_train.data.validation import InvalidExampleError, check_length, describe


def read_texts(
    path: Path, *, ids_required: bool = False, are_queries: bool = False, columns: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Texts by id, in file order: title, a line break, text where there is a title, else the text alone.

    The line break separates the title from the text; mteb joins the two with a space instead.

    Args:
        path: a file of any kind that training reads, a directory or a pattern.
        ids_required: every line must have ``_id`` (or ``id``); otherwise the id defaults to the line number.
        are_queries: a line with an ``instruction`` of its own is refused: all queries of a file have the same one.
        columns: the file's names of ``text``, ``title`` and ``_id``, where they are others.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a bad line, or a duplicate id; names file, line and field. An empty file.
    """
    texts: dict[str, str] = {}
    texts_of_file = iterate_texts(path, ids_required=ids_required, are_queries=are_queries, columns=columns)
    for line, text_id, text in texts_of_file:
        if text_id in texts:
            raise duplicate_id(path, line, text_id)
        texts[text_id] = text
    return texts


def iterate_texts(
    path: Path,
    *,
    ids_required: bool = False,
    are_queries: bool = False,
    columns: Mapping[str, str] | None = None,
) -> Iterator[tuple[int, str, str]]:
    """Line number, id and text of each line, for a corpus larger than memory; as ``read_texts``.

    The caller checks that ids are unique.

    Args:
        path, ids_required, are_queries, columns: as in ``read_texts``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a bad line; names file, line and field. An empty file.
    """
    is_empty = True
    shards = [path] if path.is_file() else shard_paths(path)
    for shard in shards:
        for line, raw in file_rows(shard):
            is_empty = False
            try:
                record = renamed(decode_row(raw), columns or {})
            except InvalidExampleError as problem:
                raise ValueError(f"{shard}:{line}: {problem}") from problem
            text_id = record.get("_id", record.get("id"))
            if text_id is None and not ids_required:
                text_id = f"line {line}" if len(shards) == 1 else f"{shard.name} line {line}"
            if not isinstance(text_id, str | int) or isinstance(text_id, bool) or text_id == "":
                raise ValueError(f"{shard}:{line}: field '_id' is {text_id!r}; it must be a non-empty string.")
            if are_queries and record.get("instruction"):
                raise ValueError(
                    f"{shard}:{line}: field 'instruction': all queries of a file have one instruction, which is a "
                    "setting. Set it (evaluate: sets.NAME.instruction; embed: instruction) and drop the field; a file "
                    "for each instruction, where they differ."
                )
            yield line, str(text_id), _text_of(record, shard, line)
    if is_empty:
        raise ValueError(f"{path}: holds no lines.")


def duplicate_id(path: Path, line: int, text_id: str) -> ValueError:
    """The error for an id that another line has too.

    Args:
        path, line: where it occurs again.
        text_id: the id.
    """
    return ValueError(f"{path}:{line}: field '_id': {text_id!r} occurs twice. Ids must be unique.")


def _text_of(record: dict[str, Any], path: Path, line: int) -> str:
    title, text = record.get("title") or "", record.get("text")
    for field, value in (("text", text), ("title", title)):
        if not isinstance(value, str):
            raise ValueError(f"{path}:{line}: field {field!r} is {describe(value)}; it must be a string.")
        try:
            check_length(value, field)
        except InvalidExampleError as problem:
            raise ValueError(f"{path}:{line}: {problem}") from problem
    return f"{title}\n{text}" if title else str(text)


def find_texts(directory: Path, name: str) -> Path:
    """``NAME.jsonl`` of a directory, or the one file of that name of another kind that is read.

    Raises:
        FileNotFoundError: there is none.
        ValueError: there are several.
    """
    if (directory / f"{name}.jsonl").is_file():
        return directory / f"{name}.jsonl"
    found = [file for file in sorted(directory.glob(f"{name}.*")) if kind_of(file) and file.name.split(".")[0] == name]
    if len(found) > 1:
        raise ValueError(f"{found[0]} and {found[1].name} both exist. Remove the one that is not meant.")
    if not found:
        raise FileNotFoundError(
            f"{directory / name}.jsonl: no such file. It should hold one JSON object with a text on every line."
        )
    return found[0]
