"""Retrieval sets in the BEIR layout, and exact ranking.

    corpus.jsonl     {"_id": "d1", "title": "...", "text": "..."}     title optional
    queries.jsonl    {"_id": "q1", "text": "..."}                     may hold queries of other splits
    qrels/test.tsv   query-id <tab> corpus-id <tab> score             with this header; or one flat qrels.tsv

A set that breaks its own promises (an id twice, a judgement of an unknown document) is refused, because every such
break lowers or raises scores silently.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

_DOCUMENTS_PER_BLOCK = 16_384
_QUERIES_PER_BLOCK = 1_024


@dataclass(frozen=True)
class RetrievalSet:
    """Queries that are judged in one split, the whole corpus, and the judgements.

    Attributes:
        query_ids, queries: the judged queries, in file order.
        document_ids, documents: the corpus, in file order.
        relevance: query id -> document id -> grade (0 = judged not relevant).
        files: the files read, for the record of a run.
    """

    query_ids: list[str]
    queries: list[str]
    document_ids: list[str]
    documents: list[str]
    relevance: dict[str, dict[str, int]]
    files: tuple[Path, ...]


def load_retrieval_set(path: Path, split: str = "test") -> RetrievalSet:
    """Reads a directory in the BEIR layout; ``qrels/{split}.tsv`` goes before a flat ``qrels.tsv``.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a malformed line, an id twice, a judgement of an unknown query or document, a judged query without
            any relevant document; always with file, line and field.
    """
    qrels_file = _qrels_file(path, split)
    documents = read_documents(path / "corpus.jsonl")
    queries = _read_texts(path / "queries.jsonl")
    relevance = _read_qrels(qrels_file, queries, documents)
    for query_id, judged in relevance.items():
        if not any(grade > 0 for grade in judged.values()):
            raise ValueError(
                f"{qrels_file}: query {query_id!r} has no relevant document (all its scores are 0), so its nDCG is not "
                "defined. Remove its lines."
            )
    judged_queries = {query_id: text for query_id, text in queries.items() if query_id in relevance}
    return RetrievalSet(
        query_ids=list(judged_queries),
        queries=list(judged_queries.values()),
        document_ids=list(documents),
        documents=list(documents.values()),
        relevance=relevance,
        files=(path / "corpus.jsonl", path / "queries.jsonl", qrels_file),
    )


def read_documents(path: Path) -> dict[str, str]:
    """Document texts by id, in file order: title, a line break, text where there is a title, else the text alone.

    The line break keeps a title apart from a text that starts a sentence; mteb joins the two with a space instead.
    """
    return _read_texts(path)


def _read_texts(path: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, record in _json_lines(path):
        identity = record.get("_id", record.get("id"))
        if not isinstance(identity, str | int) or isinstance(identity, bool) or identity == "":
            raise ValueError(f"{path}:{number}: field '_id' is {identity!r}; it must be a non-empty string.")
        for field in ("text", "title"):
            if not isinstance(record.get(field) or "", str) or (field == "text" and field not in record):
                raise ValueError(f"{path}:{number}: field {field!r} is {record.get(field)!r}; it must be a string.")
        if str(identity) in texts:
            raise ValueError(f"{path}:{number}: field '_id': {str(identity)!r} occurs twice. Ids must be unique.")
        title, text = record.get("title") or "", record["text"] or ""
        texts[str(identity)] = f"{title}\n{text}" if title else text
    if not texts:
        raise ValueError(f"{path}: holds no lines.")
    return texts


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. A retrieval set has corpus.jsonl, queries.jsonl and qrels.")
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}:{number}: not valid JSON ({error.msg}, column {error.colno}).") from None
            if not isinstance(record, dict):
                raise ValueError(f"{path}:{number}: a line must be a JSON object, this is a {type(record).__name__}.")
            yield number, record


def _qrels_file(path: Path, split: str) -> Path:
    candidates = (path / "qrels" / f"{split}.tsv", path / "qrels.tsv")
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    present = sorted(file.stem for file in (path / "qrels").glob("*.tsv"))
    raise FileNotFoundError(
        f"Neither {candidates[0]} nor {candidates[1]} exists. " + (f"Splits there: {present}." if present else "")
    )


def _read_qrels(path: Path, queries: dict[str, str], documents: dict[str, str]) -> dict[str, dict[str, int]]:
    relevance: dict[str, dict[str, int]] = {}
    with path.open(encoding="utf-8") as file:
        header = next(file, "").rstrip("\r\n").split("\t")
        if header != ["query-id", "corpus-id", "score"]:
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


def rank_documents(
    query_vectors: Float[Tensor, "queries dim"], document_vectors: Float[Tensor, "documents dim"], k: int
) -> tuple[Float[Tensor, "queries kept"], Int[Tensor, "queries kept"]]:
    """Exact top ``k`` documents of every query by inner product; equal scores in document order.

    Blockwise: memory is one block of scores, whatever the corpus. ``kept`` is min(k, documents).

    Returns:
        Scores in descending order, and the documents' rows.
    """
    parts = [_rank_block(queries, document_vectors, k) for queries in query_vectors.split(_QUERIES_PER_BLOCK)]
    return torch.cat([scores for scores, _ in parts]), torch.cat([rows for _, rows in parts])


def _rank_block(queries: Tensor, document_vectors: Tensor, k: int) -> tuple[Tensor, Tensor]:
    best_scores = queries.new_empty(len(queries), 0)
    best_rows = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
    for start in range(0, len(document_vectors), _DOCUMENTS_PER_BLOCK):
        scores, rows = _top_k_in_order(queries @ document_vectors[start : start + _DOCUMENTS_PER_BLOCK].T, k)
        # The kept rows come before this block's, so a stable sort leaves equal scores in document order.
        best_scores, order = torch.cat([best_scores, scores], 1).sort(dim=1, descending=True, stable=True)
        best_scores, order = best_scores[:, :k], order[:, :k]
        best_rows = torch.cat([best_rows, rows + start], 1).gather(1, order)
    return best_scores, best_rows


def _top_k_in_order(scores: Float[Tensor, "queries block"], k: int) -> tuple[Tensor, Tensor]:
    """Top k with equal scores in column order. ``topk`` alone breaks ties as it likes, a full stable sort is slow."""
    if k >= scores.shape[1]:
        values, columns = scores.sort(dim=1, descending=True, stable=True)
        return values, columns
    values, columns = scores.topk(k + 1, dim=1)
    cut_through_tie = values[:, k - 1] == values[:, k]
    columns = columns[:, :k].contiguous()
    if cut_through_tie.any():
        columns[cut_through_tie] = scores[cut_through_tie].argsort(dim=1, descending=True, stable=True)[:, :k]
    columns = columns.sort(dim=1).values
    values, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)
