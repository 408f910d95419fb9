"""Retrieval sets in the BEIR layout.

    corpus.jsonl     {"_id": "d1", "title": "...", "text": "..."}     title optional
    queries.jsonl    {"_id": "q1", "text": "..."}                     may hold queries of other splits
    qrels/test.tsv   query-id <tab> corpus-id <tab> score             with this header; or one flat qrels.tsv

Corpus and queries may be files of any other kind that training reads (``corpus.parquet``), and judgements be written as
TREC and others do (``qrels.py``). An inconsistent set (a duplicate id, two grades for one pair) is refused, because
each such error silently lowers or raises scores.
"""

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from qwen3emb_train.data.corpus import find_texts, read_texts
from qwen3emb_train.data.qrels import find_qrels, read_qrels
from qwen3emb_train.distributed import is_main_process

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RetrievalSet:
    """Queries that are judged in one split, the whole corpus, and the judgements.

    Attributes:
        query_ids, queries: the judged queries, in file order.
        document_ids, documents: the corpus sorted by id: ties are ranked in this order, so results do not depend on the
            order of the file's lines.
        relevance: query id -> document id -> grade (0 = judged not relevant).
        files: the files read, for the run record.
    """

    query_ids: list[str]
    queries: list[str]
    document_ids: list[str]
    documents: list[str]
    relevance: dict[str, dict[str, int]]
    files: tuple[Path, ...]

    @cached_property
    def own_rows(self) -> list[int]:
        """The row of the document that has the query's id, for each query; -1: it is in no ranking to be left out of.

        Where queries are documents (ArguAna, Quora, CQADupStack), BEIR and mteb leave a query's own document out of its
        ranking. Where a judgement calls such a document relevant, equal ids are two counts that met: none is left out.
        """
        if any(judged.get(query_id, 0) > 0 for query_id, judged in self.relevance.items()):
            return [-1] * len(self.query_ids)
        row_of = {document_id: row for row, document_id in enumerate(self.document_ids)}
        return [row_of.get(query_id, -1) for query_id in self.query_ids]


def load_retrieval_set(path: Path, split: str = "test") -> RetrievalSet:
    """Reads a directory in the BEIR layout; ``qrels/{split}.tsv`` takes precedence over a flat ``qrels.tsv``.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a malformed line, a duplicate id, judgements of other ids only, a judged query without any relevant
            document; always with file, line and field.
    """
    qrels_file = find_qrels(path, split)
    corpus_file, queries_file = find_texts(path, "corpus"), find_texts(path, "queries")
    documents = read_texts(corpus_file, ids_required=True)
    queries = read_texts(queries_file, ids_required=True, are_queries=True)
    relevance = read_qrels(qrels_file, queries, documents)
    for query_id, judged in relevance.items():
        if not any(grade > 0 for grade in judged.values()):
            raise ValueError(
                f"{qrels_file}: query {query_id!r} has no relevant document (all its scores are 0), so its nDCG is not "
                "defined. Remove its lines."
            )
    judged_queries = {query_id: text for query_id, text in queries.items() if query_id in relevance}
    data = RetrievalSet(
        query_ids=list(judged_queries),
        queries=list(judged_queries.values()),
        document_ids=sorted(documents),
        documents=[documents[document_id] for document_id in sorted(documents)],
        relevance=relevance,
        files=(corpus_file, queries_file, qrels_file),
    )
    if (own := sum(row >= 0 for row in data.own_rows)) and is_main_process():
        logger.warning("%s: %d queries are documents by their ids; each is left out of its own ranking", path, own)
    return data
