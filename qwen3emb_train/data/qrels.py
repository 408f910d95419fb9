"""Relevance judgements in the BEIR layout: ``qrels/SPLIT.tsv``, or one flat ``qrels.tsv``."""

from collections.abc import Container
from pathlib import Path

HEADER = ("query-id", "corpus-id", "score")


def find_qrels(path: Path, split: str) -> Path:
    """The qrels file of a directory; ``qrels/{split}.tsv`` takes precedence over a flat ``qrels.tsv``.

    Raises:
        FileNotFoundError: there is neither; lists the splits that exist.
    """
    candidates = (path / "qrels" / f"{split}.tsv", path / "qrels.tsv")
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    present = sorted(file.stem for file in (path / "qrels").glob("*.tsv"))
    raise FileNotFoundError(
        f"Neither {candidates[0]} nor {candidates[1]} exists. " + (f"Splits there: {present}." if present else "")
    )


def read_qrels(path: Path, queries: Container[str], documents: Container[str]) -> dict[str, dict[str, int]]:
    """Query id -> document id -> grade.

    Args:
        path: the qrels file.
        queries, documents: the existing ids.

    Raises:
        ValueError: a malformed line, a pair judged twice, or an unknown id; names file, line and field.
    """
    relevance: dict[str, dict[str, int]] = {}
    with path.open(encoding="utf-8") as file:
        header = next(file, "").rstrip("\r\n").split("\t")
        if header != list(HEADER):
            raise ValueError(f"{path}:1: the header is {header}; it must be 'query-id<tab>corpus-id<tab>score'.")
        for number, line in enumerate(file, start=2):
            if not line.strip():
                continue
            columns = line.rstrip("\r\n").split("\t")
            if len(columns) != 3:
                raise ValueError(f"{path}:{number}: {len(columns)} tab-separated columns; there must be 3.")
            query_id, document_id, score = columns
            if query_id not in queries:
                raise ValueError(f"{path}:{number}: field 'query-id': {query_id!r} is not in queries.jsonl.")
            if document_id not in documents:
                raise ValueError(f"{path}:{number}: field 'corpus-id': {document_id!r} is not in corpus.jsonl.")
            if not score.isdecimal():
                raise ValueError(f"{path}:{number}: field 'score' is {score!r}; it must be an integer from 0 up.")
            judged = relevance.setdefault(query_id, {})
            if document_id in judged:
                raise ValueError(f"{path}:{number}: {query_id!r} and {document_id!r} are judged twice.")
            judged[document_id] = int(score)
    if not relevance:
        raise ValueError(f"{path}: holds no judgement.")
    return relevance
