"""A part of a token store: the arrays of some rows of the source; and parts put end to end.

The joined arrays do not depend on where the parts were cut. Memory: a few thousand rows.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from qwen3emb_train.data.instructions import DEFAULT_INSTRUCTION, Template, format_query, reranker_body
from qwen3emb_train.data.readers import BadLinesError, ReadingConfig, read_examples, read_reranking_examples
from qwen3emb_train.data.records import RerankingExample, TrainingExample
from qwen3emb_train.data.rows import ByteRange, lines_before
from qwen3emb_train.data.tokenization import ids_without_eos, text_hash
from qwen3emb_train.lineage import file_digest, write_text

REJECTED_FILE = "rejected.jsonl"
_TOTALS_FILE = "totals.json"
ARRAYS: dict[str, type[np.generic]] = {
    "ids": np.int32,
    "text_ends": np.int64,
    "text_hashes": np.int64,
    "row_ends": np.int64,
    "num_positives": np.int32,
}
OPTIONAL_ARRAYS: dict[str, type[np.generic]] = {"scores": np.float32, "languages": np.int16}  # see TokenStore
_ROWS_AT_ONCE = 2048
_VALUES_AT_ONCE = 2**22  # numbers in memory while joining
_MOST_INSTRUCTIONS = 1000  # that are counted: where every row has its own, none of them is the source's


class Span(NamedTuple):
    """A shard, or some of its lines."""

    shard: Path
    lines: ByteRange | None


@dataclass(frozen=True)
class Tokenization:
    """How rows become arrays; it travels to other processes without transformers.

    Attributes:
        backend: the fast tokenizer.
        template: what of a row is tokenised.
        task: of all rows.
        instruction: for rows that bring none of their own.
        reading: what happens to bad lines.
        columns: names of columns that are not ours.
    """

    backend: Any
    template: Template
    task: str
    instruction: str | None
    reading: ReadingConfig
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass
class _Totals:
    rows: int = 0
    texts: int = 0
    tokens: int = 0
    any_scores: bool = False
    languages: list[str] = field(default_factory=list)  # in the order of their numbers
    instructions: dict[str, int] = field(default_factory=dict)  # rows of each


def write_part(directory: Path, spans: Sequence[Span], how: Tokenization, tick: Callable[[], None]) -> None:
    """Writes the arrays of the rows in ``spans``.

    Args:
        directory: exists and is empty.
        spans: of the source, in order.
        how: rows become arrays.
        tick: called between blocks of rows; what it raises ends the writing.

    Raises:
        FileNotFoundError, ValueError: from reading.
    """
    totals = _Totals()
    with ExitStack() as stack:
        names = (*ARRAYS, *OPTIONAL_ARRAYS)
        files = {name: stack.enter_context((directory / f"{name}.bin").open("wb")) for name in names}
        for span in spans:
            rejected = directory / "rejected_here"
            try:
                _append_rows(files, totals, _rows(how, span, rejected), how.backend, tick)
            except BadLinesError as error:
                # With skip_bad_lines a part may be bad as a whole, as long as the source is not (join_parts).
                if not how.reading.skip_bad_lines:
                    raise _in_the_whole_file(error, span) from None
            if rejected.exists():
                with (directory / REJECTED_FILE).open("ab") as file:
                    file.write(_lines_in_the_whole_file(rejected.read_bytes(), span))
                rejected.unlink()
    (directory / _TOTALS_FILE).write_text(json.dumps(asdict(totals)), encoding="utf-8")


def _in_the_whole_file(error: BadLinesError, span: Span) -> BadLinesError:
    if span.lines is None or span.lines.first == 0:
        return error
    skipped = lines_before(span.shard, span.lines)
    return BadLinesError([replace(bad, line=bad.line + skipped) for bad in error.bad_lines], error.summary)


def _lines_in_the_whole_file(rejected: bytes, span: Span) -> bytes:
    """``rejected.jsonl`` with line numbers that count from the file's first line."""
    if not rejected or span.lines is None or span.lines.first == 0:
        return rejected
    skipped = lines_before(span.shard, span.lines)
    lines = [json.loads(line) for line in rejected.splitlines()]
    return b"".join(
        (json.dumps(line | {"line": line["line"] + skipped}, ensure_ascii=False) + "\n").encode(
            "utf-8", "backslashreplace"
        )
        for line in lines
    )


@dataclass(frozen=True)
class _Row:
    """What is stored of an example: its texts (query, positives, negatives), and a score for each document."""

    texts: list[str]
    num_positives: int
    scores: tuple[float, ...] | None
    language: str
    instruction: str


def _rows(how: Tokenization, span: Span, rejected: Path) -> Iterator[_Row]:
    shard, lines = span
    if how.template is Template.embedding:
        examples = read_examples(
            shard, how.reading, rejected_path=rejected, part=lines, columns=how.columns, task=how.task
        )
        return (_embedding_row(example, how.instruction) for example in examples)
    documents = read_reranking_examples(
        shard, how.reading, rejected_path=rejected, part=lines, columns=how.columns, task=how.task
    )
    return (_reranking_row(example, how.instruction) for example in documents)


def _embedding_row(example: TrainingExample, instruction: str | None) -> _Row:
    # A line's empty instruction means "none", not "the default".
    own = (instruction if example.instruction is None else example.instruction) or ""
    texts = [format_query(own, example.query), *example.positives, *example.negatives]
    return _Row(texts, len(example.positives), example.scores, example.language, own)


def _reranking_row(example: RerankingExample, instruction: str | None) -> _Row:
    """Relevant documents first. The query alone is not a prompt: it is stored so that no batch repeats it."""
    order = sorted(range(len(example.documents)), key=lambda i: -example.labels[i])
    judged_by = example.instruction or instruction or DEFAULT_INSTRUCTION
    bodies = [reranker_body(judged_by, example.query, example.documents[i]) for i in order]
    scores = None if example.scores is None else tuple(example.scores[i] for i in order)
    return _Row([example.query, *bodies], sum(example.labels), scores, "", judged_by)


def _append_rows(
    files: Mapping[str, BinaryIO], totals: _Totals, rows: Iterable[_Row], backend: Any, tick: Callable[[], None]
) -> None:
    for batch in _batched(rows, _ROWS_AT_ONCE):
        tick()
        texts: list[str] = []
        scores: list[float] = []
        row_ends = []
        for row in batch:
            texts += row.texts
            scores += [np.nan, *(row.scores or [np.nan] * (len(row.texts) - 1))]
            totals.any_scores |= row.scores is not None
            row_ends.append(totals.texts + len(texts))
            if row.language not in totals.languages:
                totals.languages.append(row.language)
            if row.instruction in totals.instructions or len(totals.instructions) < _MOST_INSTRUCTIONS:
                totals.instructions[row.instruction] = totals.instructions.get(row.instruction, 0) + 1
        ids = ids_without_eos(backend, texts)
        ends = totals.tokens + np.cumsum([len(one) for one in ids])
        columns = {
            "ids": [token for one in ids for token in one],
            "text_ends": ends,
            "text_hashes": [text_hash(text) for text in texts],
            "row_ends": row_ends,
            "num_positives": [row.num_positives for row in batch],
            "scores": scores,
            "languages": [totals.languages.index(row.language) for row in batch],
        }
        for name, values in columns.items():
            files[name].write(np.asarray(values, dtype=(ARRAYS | OPTIONAL_ARRAYS)[name]).tobytes())
        totals.rows, totals.texts, totals.tokens = totals.rows + len(batch), row_ends[-1], int(ends[-1])


def join_parts(directory: Path, parts: Sequence[Path], source: Path, tick: Callable[[], None]) -> None:
    """Puts the parts' arrays end to end, with offsets that count on.

    Args:
        directory: exists and is empty.
        parts: of ``write_part``, in order.
        source: that they were read from.
        tick: called between blocks of numbers.

    Raises:
        ValueError: no part has a row.
    """
    totals = [_Totals(**json.loads((part / _TOTALS_FILE).read_text(encoding="utf-8"))) for part in parts]
    languages = sorted({name for total in totals for name in total.languages})
    arrays = list(ARRAYS)
    arrays += ["scores"] * any(total.any_scores for total in totals)
    arrays += ["languages"] * (languages not in ([], [""]))
    num_rows = sum(total.rows for total in totals)
    if num_rows == 0:
        raise ValueError(f"{source}: no training example in it. Give a file with at least one line.")
    num_texts = num_tokens = 0
    for part, total in zip(parts, totals, strict=True):
        new_numbers = np.array([languages.index(name) for name in total.languages], dtype=np.int16)
        for name in arrays:
            offset = {"text_ends": num_tokens, "row_ends": num_texts}.get(name, 0)
            with (directory / f"{name}.bin").open("ab") as file:
                for values in _chunks(part / f"{name}.bin", (ARRAYS | OPTIONAL_ARRAYS)[name]):
                    tick()
                    file.write(
                        (new_numbers[values] if name == "languages" else values + values.dtype.type(offset)).tobytes()
                    )
        if (part / REJECTED_FILE).exists():
            with (directory / REJECTED_FILE).open("ab") as rejected:
                rejected.write((part / REJECTED_FILE).read_bytes())
        num_texts, num_tokens = num_texts + total.texts, num_tokens + total.tokens
    instructions: Counter[str] = Counter()
    for total in totals:
        instructions.update(total.instructions)
    meta = {
        "source": source.name, "num_rows": num_rows, "arrays": arrays, "languages": languages,
        "instructions": dict(sorted(instructions.items(), key=lambda one: (-one[1], one[0]))[:_MOST_INSTRUCTIONS]),
        "digests": {f"{name}.bin": file_digest(directory / f"{name}.bin") for name in arrays},
    }  # fmt: skip
    write_text(directory / "meta.json", json.dumps(meta, ensure_ascii=False))


def _chunks(path: Path, dtype: type[np.generic]) -> Iterator[np.ndarray]:
    with path.open("rb") as file:
        while len(values := np.fromfile(file, dtype=dtype, count=_VALUES_AT_ONCE)):
            yield values


def _batched(rows: Iterable[_Row], size: int) -> Iterator[list[_Row]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, size)):
        yield batch
