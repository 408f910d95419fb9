"""The line format: training and reranking examples, and how files of them are written.

Readers of other layouts (layouts.py) use the same ``build_example``, so examples of any origin pass the same checks,
and an error names the field as it is called in the user's file.
"""

import json
import os
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from qwen3emb_train.data.validation import (
    ColumnNames,
    InvalidExampleError,
    check_instruction,
    check_label_text,
    check_labels,
    check_scores,
    check_text,
    check_texts,
    name_of,
    refuse_unknown_fields,
    texts_of,
)

_PARQUET_BATCH = 1024  # rows converted at once


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """A query with its documents; one line of a file.

    Attributes:
        query: the query without its instruction.
        positives: relevant documents, at least one.
        negatives: hard negatives, any number.
        task: decides the loss ("retrieval", ...).
        instruction: one sentence that describes the task. None: the data source's; "": no instruction.
        source: name of the data set.
        language: language code.
        scores: a teacher's scores of the positives, then of the negatives.
    """

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    task: str = "retrieval"
    instruction: str | None = None
    source: str = ""
    language: str = ""
    scores: tuple[float, ...] | None = None

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "TrainingExample":
        """Reads an object with the fields above, or with one text as ``positive``.

        Raises:
            InvalidExampleError: names the offending field; for an unknown field, also the nearest known one.
        """
        return build_example(**own_fields({name: value for name, value in row.items() if value is not None}))

    def to_json(self) -> dict[str, Any]:
        """The fields that differ from their defaults, and the task."""
        return _without_defaults(self)


@dataclass(frozen=True, slots=True)
class RerankingExample:
    """A query with judged documents, for point-wise training; one line of a file.

    Attributes:
        query: the query without its instruction.
        documents: at least one.
        labels: 1 for a relevant document, 0 for another; one per document.
        instruction: as in ``TrainingExample``.
        source: name of the data set.
        scores: a teacher's scores of the documents, on the scale of logits.
    """

    query: str
    documents: tuple[str, ...]
    labels: tuple[int, ...]
    instruction: str | None = None
    source: str = ""
    scores: tuple[float, ...] | None = None

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "RerankingExample":
        """Reads an object with the fields above.

        Raises:
            InvalidExampleError: names the offending field.
        """
        refuse_unknown_fields(row.keys(), RERANKING_FIELDS)
        query = check_text(row.get("query"), "query")
        documents = check_texts(row.get("documents", ()), "documents")
        if not documents:
            raise InvalidExampleError("documents", "there is no document", "Give at least one, or drop the line.")
        labels = check_labels(row.get("labels"), documents)
        instruction = check_instruction(row.get("instruction"), query)
        source = check_label_text(row.get("source", ""), "source")
        scores = row.get("scores")
        checked = None if scores is None else check_scores(scores, len(documents), "scores")
        return cls(query, documents, labels, instruction, source, checked)

    @classmethod
    def from_training(cls, example: TrainingExample) -> "RerankingExample":
        """The positives labelled 1, then the negatives labelled 0."""
        labels = (1,) * len(example.positives) + (0,) * len(example.negatives)
        documents = example.positives + example.negatives
        return cls(example.query, documents, labels, example.instruction, example.source, example.scores)

    def to_json(self) -> dict[str, Any]:
        """As ``TrainingExample.to_json``."""
        return _without_defaults(self)


TRAINING_FIELDS = frozenset(field.name for field in fields(TrainingExample)) | {"positive"}
RERANKING_FIELDS = frozenset(field.name for field in fields(RerankingExample))


class FieldNames(NamedTuple):
    """The names of the fields in the user's file, for error messages (see validation.py)."""

    query: str = "query"
    positives: ColumnNames = "positives"
    negatives: ColumnNames = "negatives"
    scores: str = "scores"


_OWN_NAMES = FieldNames()


def own_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``build_example`` from a line of our own format.

    Raises:
        InvalidExampleError: an unknown field, or both ``positive`` and ``positives``.
    """
    refuse_unknown_fields(row.keys(), TRAINING_FIELDS)
    if "positive" not in row:
        return {"query": None, "positives": (), **row}
    if "positives" in row:
        raise InvalidExampleError("positive", "there is also positives", "Keep one of the two.")
    positives, columns = texts_of(row["positive"], "positive")
    rest = {name: value for name, value in row.items() if name != "positive"}
    return {"query": None, **rest, "positives": positives, "names": FieldNames(positives=columns)}


def build_example(
    query: object,
    positives: object,
    negatives: object = (),
    *,
    task: object = "retrieval",
    instruction: object = None,
    source: object = "",
    language: object = "",
    scores: object = None,
    names: FieldNames = _OWN_NAMES,
) -> TrainingExample:
    """Checks values read from a file and makes an example of them.

    Args:
        query, positives, negatives, task, instruction, source, language, scores: as in ``TrainingExample``, unchecked.
        names: how the user's file calls the fields.

    Raises:
        InvalidExampleError: for the first error found, under its name in ``names``.
    """
    query_text = check_text(query, names.query)
    positive_texts = check_texts(positives, names.positives)
    if not positive_texts:
        remedy = "Give at least one relevant document, or drop the line."
        raise InvalidExampleError(name_of(names.positives), "there is no positive", remedy)
    negative_texts = check_texts(negatives, names.negatives)
    if negative_texts:
        stripped = {text.strip() for text in positive_texts}
        for index, text in enumerate(negative_texts):
            if text.strip() in stripped:
                raise InvalidExampleError(
                    name_of(names.negatives, index),
                    f"is equal to a positive of the same line: {reprlib.repr(text)}",
                    "Remove it from the negatives: it cannot be both.",
                )
    return TrainingExample(
        query_text,
        positive_texts,
        negative_texts,
        check_text(task, "task"),
        check_instruction(instruction, query_text),
        check_label_text(source, "source"),
        check_label_text(language, "language"),
        None if scores is None else check_scores(scores, len(positive_texts) + len(negative_texts), names.scores),
    )


def write_examples(path: Path, examples: Iterable[TrainingExample | RerankingExample]) -> int:
    """Writes a ``.jsonl`` or ``.parquet`` file, complete or not at all, and returns the number of examples.

    JSON Lines are UTF-8 with one object per line and no empty fields; Parquet has list columns.

    Raises:
        ValueError: another suffix, or an example that could not be read back.
    """
    if path.suffix not in (".jsonl", ".parquet"):
        raise ValueError(f"{path}: examples are written as .jsonl or .parquet. Rename it.")
    with _atomic_file(path) as temporary:
        write = _write_parquet if path.suffix == ".parquet" else _write_jsonl
        return write(temporary, _checked(path, examples))


def _without_defaults(example: TrainingExample | RerankingExample) -> dict[str, Any]:
    row = {}
    for field in fields(example):
        value = getattr(example, field.name)
        # The task is always written: a reader may set another default.
        if field.name == "task" or value != field.default:
            row[field.name] = list(value) if isinstance(value, tuple) else value
    return row


def _checked(
    path: Path, examples: Iterable[TrainingExample | RerankingExample]
) -> Iterator[TrainingExample | RerankingExample]:
    """Checks that each example can be read back."""
    for number, example in enumerate(examples, start=1):
        try:
            yield type(example).from_json(example.to_json())
        except InvalidExampleError as problem:
            raise ValueError(f"{path}: example {number} is not written: {problem}") from problem


def _write_jsonl(path: Path, examples: Iterator[TrainingExample | RerankingExample]) -> int:
    number = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for example in examples:
            number += 1
            file.write(json.dumps(example.to_json(), ensure_ascii=False) + "\n")
    return number


def _write_parquet(path: Path, examples: Iterator[TrainingExample | RerankingExample]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {
        "positives": pa.list_(pa.string()), "negatives": pa.list_(pa.string()), "documents": pa.list_(pa.string()),
        "scores": pa.list_(pa.float64()), "labels": pa.list_(pa.int8()),
    }  # fmt: skip
    first = list(islice(examples, 1))
    kind = type(first[0]) if first else TrainingExample
    schema = pa.schema([(field.name, types.get(field.name, pa.string())) for field in fields(kind)])
    rows = (example.to_json() for example in chain(first, examples))
    number = 0
    with pq.ParquetWriter(path, schema) as writer:
        while batch := list(islice(rows, _PARQUET_BATCH)):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
            number += len(batch)
    return number


@contextmanager
def _atomic_file(path: Path) -> Iterator[Path]:
    """Yields a path to write to; on success syncs it and renames it to ``path``, on an exception removes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
