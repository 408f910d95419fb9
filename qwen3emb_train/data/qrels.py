"""Relevance judgements, as BEIR, TREC and others write them, with the meaning that trec_eval gives them.

    query-id <tab> corpus-id <tab> score     BEIR; with or without a header, also with commas or spaces between
    query iteration document grade           TREC, four columns
    {"query-id": ..., "corpus-id": ..., "score": ...}     a line of JSON

Grades are whole numbers; negative ones (spam, or pooled and not judged) count as 0. A judged document that the corpus
lacks still counts among the relevant ones; a query that the set lacks is left out. Both are said once.
"""

import csv
import gzip
import io
import logging
import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import BinaryIO, cast

from qwen3emb_train.data.rows import decode_row, json_rows, open_bytes
from qwen3emb_train.data.validation import InvalidExampleError

HEADER = ("query-id", "corpus-id", "score")
_SUFFIXES = (".tsv", ".csv", ".txt", ".qrels", ".qrel", ".trec", ".jsonl")
_NAMES = (  # without case, "-", "_" and blanks
    {"queryid", "qid", "query", "topicid", "topic"},
    {"corpusid", "docid", "documentid", "document", "doc", "docno", "did", "pid", "passageid"},
    {"score", "relevance", "rel", "label", "grade", "judgment", "judgement"},
)
_GRADE = re.compile(r"[+-]?\d{1,9}(\.0*)?")
_SEPARATORS = {"\t": "tab", ",": "comma", ";": "semicolon", " ": "blank"}

logger = logging.getLogger(__name__)


def find_qrels(path: Path, split: str) -> Path:
    """The qrels file of a directory; ``qrels/{split}.tsv`` takes precedence over a flat ``qrels.tsv``.

    Other suffixes: ``_SUFFIXES``, each also ``.gz``.

    Raises:
        FileNotFoundError: there is neither; lists the splits that exist.
        ValueError: there are several.
    """
    suffixes = [f"{suffix}{packed}" for packed in ("", ".gz") for suffix in _SUFFIXES]
    for stem in (path / "qrels" / split, path / "qrels"):
        found = [file for suffix in suffixes if (file := stem.with_name(stem.name + suffix)).is_file()]
        if len(found) > 1:
            raise ValueError(f"{found[0]} and {found[1].name} both exist. Remove the one that is not meant.")
        if found:
            return found[0]
    present = sorted({
        file.name.removesuffix(suffix)
        for suffix in suffixes
        for file in (path / "qrels").glob(f"*{suffix}")
    })  # fmt: skip
    raise FileNotFoundError(
        f"Neither {path / 'qrels' / split}.tsv nor {path / 'qrels'}.tsv exists (or {', '.join(_SUFFIXES[1:])}). "
        + (f"Splits there: {present}." if present else "")
    )


def read_qrels(path: Path, queries: Container[str], documents: Container[str]) -> dict[str, dict[str, int]]:
    """Query id -> document id -> grade, of the queries that exist.

    Args:
        path: the qrels file.
        queries, documents: the existing ids.

    Raises:
        ValueError: a malformed line, two grades for a pair, or no judgement of a known query and document; names file,
            line and field.
    """
    relevance: dict[str, dict[str, int]] = {}
    remarks = _Remarks(path)
    any_document = False
    for number, (query_id, document_id, score) in _judgements(path):
        if not _GRADE.fullmatch(score):
            raise ValueError(f"{path}:{number}: field 'score' is {score!r:.80}; it must be a whole number.")
        grade = int(score.partition(".")[0])
        if grade < 0:
            remarks.add("negative grades count as 0", number)
            grade = 0
        if query_id not in queries:
            remarks.add("judgements are of queries that are not in the set, and are left out", number)
            continue
        if document_id in documents:
            any_document = True
        else:
            remarks.add("judged documents are not in the corpus; the relevant ones count as not found", number)
        judged = relevance.setdefault(query_id, {})
        if judged.setdefault(document_id, grade) != grade:
            raise ValueError(
                f"{path}:{number}: {query_id!r} and {document_id!r} are judged twice, {judged[document_id]} and "
                f"{grade}. Keep one of the two."
            )
    if not remarks.counts and not relevance:
        raise ValueError(f"{path}: holds no judgement.")
    if not any_document:
        missing = "documents of the corpus" if relevance else "queries of the set"
        raise ValueError(
            f"{path}: none of its judgements is of the {missing}. Its columns, or the ids, are of something else; "
            f"a line holds {', '.join(HEADER)}, or four columns as TREC has them."
        )
    remarks.say()
    return relevance


@dataclass
class _Remarks:
    """What is no error, and yet said: once, with a count and the first line."""

    path: Path
    counts: dict[str, list[int]] = field(default_factory=dict)

    def add(self, remark: str, line: int) -> None:
        self.counts.setdefault(remark, [0, line])[0] += 1

    def say(self) -> None:
        for remark, (count, first) in self.counts.items():
            logger.warning("%s:%d: %d %s, as trec_eval does.", self.path, first, count, remark)


def _judgements(path: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line number, and query id, document id and grade as they are written."""
    if path.name.removesuffix(".gz").endswith(".jsonl"):
        yield from _json_judgements(path)
        return
    with io.TextIOWrapper(cast(BinaryIO, open_bytes(path)), encoding="utf-8-sig", newline="") as file:
        try:
            yield from _cells(path, file)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: is not UTF-8 ({error.reason}). Convert it.") from None
        except (EOFError, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}: the compressed file is damaged ({error}). Copy it again.") from None


def _cells(path: Path, file: Iterable[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    lines: Iterator[tuple[int, str]]
    lines = ((number, line.strip("\r\n")) for number, line in enumerate(file, start=1) if line.strip())
    first = next(lines, None)
    if first is None:
        return
    separator = next(mark for mark in _SEPARATORS if mark in first[1] or mark == " ")
    header = _split(first[1], separator)
    if _GRADE.fullmatch(header[-1]):
        if len(header) not in (3, 4):
            raise ValueError(
                f"{path}:{first[0]}: {len(header)} {_SEPARATORS[separator]}-separated columns; there must be 3 "
                f"({', '.join(HEADER)}) or TREC's 4."
            )
        places, lines = [0, len(header) - 2, len(header) - 1], chain([first], lines)
    else:
        places = _places(path, first[0], header)
    for number, line in lines:
        cells = _split(line, separator)
        if len(cells) != len(header):
            raise ValueError(
                f"{path}:{number}: {len(cells)} {_SEPARATORS[separator]}-separated columns; there must be "
                f"{len(header)}."
            )
        yield number, tuple(cells[place] for place in places)


def _split(line: str, separator: str) -> list[str]:
    if separator == " ":
        return line.split()
    cells = next(csv.reader([line], delimiter=separator)) if separator in ",;" else line.split(separator)
    return [cell.strip() for cell in cells]


def _places(path: Path, line: int, header: list[str]) -> list[int]:
    """Where query id, document id and grade stand, by the names of the columns."""
    plain = [re.sub(r"[\s_-]", "", name).casefold() for name in header]
    places = [[place for place, name in enumerate(plain) if name in names] for names in _NAMES]
    if any(len(found) != 1 for found in places):
        raise ValueError(
            f"{path}:{line}: the header is {header}; it must name one column each for the query "
            f"({HEADER[0]}), the document ({HEADER[1]}) and the grade ({HEADER[2]})."
        )
    return [found[0] for found in places]


def _json_judgements(path: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    for number, raw in json_rows(path):
        try:
            row = decode_row(raw)
        except InvalidExampleError as problem:
            raise ValueError(f"{path}:{number}: {problem}") from problem
        names = list(row)
        yield number, tuple(str(row[names[place]]) for place in _places(path, number, names))
