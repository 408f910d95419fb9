"""Retrieval sets in the BEIR layout.

    corpus.jsonl     {"_id": "d1", "title": "...", "text": "..."}     title optional
    queries.jsonl    {"_id": "q1", "text": "..."}                     may hold queries of other splits
    qrels/test.tsv   query-id <tab> corpus-id <tab> score             with this header; or one flat qrels.tsv

A set that breaks its own promises (an id twice, a judgement of an unknown document) is refused, because every such
break lowers or raises scores silently.
"""

from dataclasses import dataclass
from pathlib import Path

from qwen3emb_train.data.corpus import read_texts


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
    documents = read_texts(path / "corpus.jsonl", ids_required=True)
    queries = read_texts(path / "queries.jsonl", ids_required=True)
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
