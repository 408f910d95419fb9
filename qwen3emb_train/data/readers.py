"""Files to examples, one at a time, in any layout of layouts.py.

A bad line is never silently dropped. By default it is collected with file, line, field, reason and remedy; after
``max_errors`` of them, or at the end, reading fails and lists them. With ``skip_bad_lines`` it is written to
``rejected.jsonl`` and reading continues.
"""

import difflib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TextIO, TypeVar

from qwen3emb_train.data.layouts import RowReader, UnknownLayoutError
from qwen3emb_train.data.records import (
    RERANKING_FIELDS,
    TRAINING_FIELDS,
    RerankingExample,
    TrainingExample,
    build_example,
)
from qwen3emb_train.data.rows import ByteRange, RawRow, decode_row, file_rows, json_rows, raw_text, shard_paths
from qwen3emb_train.data.validation import InvalidExampleError, require_task
from qwen3emb_train.texts.visible import visible

_CORPUS_COLUMNS = frozenset({"text", "title", "_id"})
_OUR_COLUMNS = TRAINING_FIELDS | RERANKING_FIELDS | {"negative"} | _CORPUS_COLUMNS

logger = logging.getLogger(__name__)
Example = TypeVar("Example", TrainingExample, RerankingExample)


@dataclass
class ReadingConfig:
    """How strictly files are read.

    Attributes:
        max_errors: bad lines that are collected before reading stops; all are listed.
        skip_bad_lines: leave bad lines out, write them down (training: ``rejected_NAME.jsonl``), and go on.
        ignored_columns: columns of foreign layouts that are no error beyond the known ones.
    """

    max_errors: int = 10
    skip_bad_lines: bool = False
    ignored_columns: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.max_errors < 1:
            raise ValueError(
                f"max_errors is {self.max_errors}; it must be at least 1 (skip_bad_lines=true never stops)."
            )


@dataclass(kw_only=True)
class ColumnsConfig:
    """What the columns of a source are called.

    Attributes:
        columns: names of columns that are not ours, each below our name: ``columns.query=question``,
            ``columns.positive=answer``, ``columns.negatives=hard_negatives``; in a corpus ``columns.text=body``.
    """

    columns: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for ours, theirs in self.columns.items():
            if ours not in _OUR_COLUMNS and not ours.startswith("negative_"):
                near = difflib.get_close_matches(ours, _OUR_COLUMNS, 1)
                hint = f" Did you mean columns.{near[0]}?" if near else ""
                raise ValueError(
                    f"columns.{ours}={theirs}: there is no {ours!r}; there are {sorted(_OUR_COLUMNS)}.{hint}"
                )

    @property
    def example_columns(self) -> dict[str, str]:
        """Those of examples, where a corpus is read too."""
        return {ours: theirs for ours, theirs in self.columns.items() if ours not in _CORPUS_COLUMNS}

    @property
    def corpus_columns(self) -> dict[str, str]:
        """Those of the corpus."""
        return {ours: theirs for ours, theirs in self.columns.items() if ours in _CORPUS_COLUMNS}


@dataclass(frozen=True)
class BadLine:
    """A line that is not a valid example.

    Attributes:
        file: path.
        line: counted from 1; in Parquet the row.
        field: as the file calls it.
        reason: what is wrong.
        remedy: how to fix it.
    """

    file: str
    line: int
    field: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.field}: {self.reason}. {self.remedy}"


class SourceLine(NamedTuple):
    """An example and its line.

    Attributes:
        file, number: path, and line counted from 1; in Parquet the row.
        raw: the unparsed line.
        example: the parsed line.
    """

    file: Path
    number: int
    raw: RawRow
    example: TrainingExample


class BadLinesError(ValueError):
    """Lines that could not be read, each on its own line of the message."""

    def __init__(self, bad_lines: list[BadLine], summary: str) -> None:
        super().__init__("\n".join([summary, *(f"  {bad_line}" for bad_line in bad_lines)]))
        self.bad_lines, self.summary = tuple(bad_lines), summary

    def __reduce__(self) -> tuple[type["BadLinesError"], tuple[list[BadLine], str]]:
        # Without this, one raised in another process cannot be unpickled.
        return type(self), (list(self.bad_lines), self.summary)


def read_examples(
    path: Path,
    config: ReadingConfig | None = None,
    *,
    rejected_path: Path | None = None,
    part: ByteRange | None = None,
    columns: Mapping[str, str] | None = None,
    task: str | None = None,
    instruction: str | None = None,
    source: str = "",
    language: str = "",
) -> Iterator[TrainingExample]:
    """Streams the examples of a file, or of the shards of a directory in the order of their names.

    Args:
        path: a file, a directory of shards or a pattern (``rows.shard_paths``).
        config: how strictly to read.
        rejected_path: where ``skip_bad_lines`` writes the lines it skips; a former file is replaced.
        part: read only these lines of a file (``rows.json_rows``); lines are counted from the part's first.
        columns: names of columns that are not ours (``ColumnsConfig``).
        task: of all lines; one that says otherwise is bad. None: any, and retrieval for lines that do not say.
        instruction, source, language: for lines that do not say.

    Raises:
        FileNotFoundError: at once, if there is no such file or no shard in the directory.
        ValueError: at once, for a file of another kind.
        BadLinesError: while reading, for bad lines; with ``skip_bad_lines`` only when no line is good.
    """
    config = config or ReadingConfig()
    defaults = {"instruction": instruction, "source": source, "language": language}
    parser = _training_parser(config, columns, defaults, task)
    rows = _read(shard_paths(path, rejected_path), config, rejected_path, parser, part)
    return (example for _, _, _, example in rows)


def read_lines(
    path: Path,
    config: ReadingConfig | None = None,
    *,
    rejected_path: Path | None = None,
    columns: Mapping[str, str] | None = None,
) -> Iterator[SourceLine]:
    """As ``read_examples``, each example with its line; for programs that report on every line.

    Args:
        path, config, rejected_path, columns: as in ``read_examples``.
    """
    config = config or ReadingConfig()
    rows = _read(shard_paths(path, rejected_path), config, rejected_path, _training_parser(config, columns, {}))
    return (SourceLine(*row) for row in rows)


def _training_parser(
    config: ReadingConfig, columns: Mapping[str, str] | None, defaults: dict[str, Any], task: str | None = None
) -> Callable[[], Callable[[dict[str, Any]], TrainingExample]]:
    if task is not None:
        defaults = defaults | {"task": task}

    def new_parser() -> Callable[[dict[str, Any]], TrainingExample]:
        rows = RowReader(config.ignored_columns, columns)

        def parse(row: dict[str, Any]) -> TrainingExample:
            example = build_example(**(defaults | rows.read(rows.prepare(row))))
            if task is not None:
                require_task(example.task, task)
            return example

        return parse

    return new_parser


def read_reranking_examples(
    path: Path,
    config: ReadingConfig | None = None,
    *,
    rejected_path: Path | None = None,
    part: ByteRange | None = None,
    columns: Mapping[str, str] | None = None,
    task: str | None = None,
    instruction: str | None = None,
    source: str = "",
) -> Iterator[RerankingExample]:
    """As ``read_examples``: lines with ``documents`` and ``labels``, or any training layout (labels 1, then 0).

    Args:
        path, config, rejected_path, part, columns, task, instruction, source: as in ``read_examples``.
    """
    config = config or ReadingConfig()
    defaults = {"instruction": instruction, "source": source}

    new_training_parser = _training_parser(config, columns, defaults, task)

    def new_parser() -> Callable[[dict[str, Any]], RerankingExample]:
        training, rows = new_training_parser(), RowReader(config.ignored_columns, columns)

        def parse(raw: dict[str, Any]) -> RerankingExample:
            row = rows.prepare(raw)
            if "documents" not in row:
                return RerankingExample.from_training(training(raw))
            kept = {name: value for name, value in row.items() if value is not None}
            return RerankingExample.from_json(defaults | kept)

        return parse

    lines = _read(shard_paths(path, rejected_path), config, rejected_path, new_parser, part)
    return (example for _, _, _, example in lines)


def _read(
    shards: list[Path],
    config: ReadingConfig,
    rejected_path: Path | None,
    new_parser: Callable[[], Callable[[dict[str, Any]], Example]],
    part: ByteRange | None = None,
) -> Iterator[tuple[Path, int, RawRow, Example]]:
    num_good = 0
    with _BadLines(config, rejected_path) as bad_lines:
        for shard in shards:
            parse = new_parser()
            if part is not None and part.first > 0:
                _learn_layout(shard, parse)
            for line, raw in file_rows(shard, part):
                try:
                    example = parse(decode_row(raw))
                except InvalidExampleError as problem:
                    bad_lines.add(shard, line, problem, raw)
                else:
                    num_good += 1
                    yield shard, line, raw, example
        bad_lines.finish(num_good)


def _learn_layout(shard: Path, parse: Callable[[dict[str, Any]], Any]) -> None:
    """Shows a parser the file's first good line, so that a part is read in the layout that the file began in."""
    for _, raw in json_rows(shard):
        try:
            parse(decode_row(raw))
        except InvalidExampleError:
            continue
        return


class _BadLines:
    """Handles bad lines: collected until there are too many, or written to ``rejected.jsonl``."""

    def __init__(self, config: ReadingConfig, rejected_path: Path | None) -> None:
        self._config, self._rejected_path = config, rejected_path
        self._listed: list[BadLine] = []
        self._num = 0
        self._file: TextIO | None = None

    def __enter__(self) -> "_BadLines":
        if self._config.skip_bad_lines and self._rejected_path is not None:
            self._rejected_path.parent.mkdir(parents=True, exist_ok=True)
            # Half a surrogate pair in a name is written as the JSON escape it came from.
            self._file = self._rejected_path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with self._file:
                self._file.flush()
                os.fsync(self._file.fileno())

    def add(self, shard: Path, line: int, problem: InvalidExampleError, raw: RawRow) -> None:
        bad_line = BadLine(str(shard), line, problem.field, problem.reason, problem.remedy)
        self._num += 1
        if len(self._listed) < self._config.max_errors:
            self._listed.append(bad_line)
        if self._file is not None:
            self._file.write(json.dumps(asdict(bad_line) | {"raw": raw_text(raw)}, ensure_ascii=False) + "\n")
            self._file.flush()
        if self._config.skip_bad_lines:
            return
        if isinstance(problem, UnknownLayoutError):  # the next lines would give the same error
            raise BadLinesError(self._listed, "The file is of no known layout:")
        if self._num == self._config.max_errors:
            raise BadLinesError(self._listed, f"Reading stopped after {self._num} bad lines{self._advice()}:")

    def finish(self, num_good: int) -> None:
        if self._num and not self._config.skip_bad_lines:
            raise BadLinesError(self._listed, f"{self._num} of {self._num + num_good} lines are bad{self._advice()}:")
        if self._num and not num_good:
            raise BadLinesError(self._listed, f"All {self._num} lines are bad, the first of them:")
        if self._num:
            where = (
                f"they are in {self._rejected_path}"
                if self._rejected_path
                else visible(f"the first: {self._listed[0]}")
            )
            logger.warning("Skipped %d of %d lines; %s", self._num, self._num + num_good, where)

    def _advice(self) -> str:
        return " (skip_bad_lines=true writes them to rejected.jsonl and continues)"
