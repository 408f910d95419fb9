"""A sampled set is a set: every judged document is in it, and it is the same again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from qwen3emb_train.data.retrieval_set import load_retrieval_set

SCRIPT = Path(__file__).resolve().parent.parent.parent / "scripts" / "sample_set.py"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("set") / "whole"
    (path / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{n}", "title": f"title {n}", "text": f"text {n}"} for n in range(40)]
    queries = [{"_id": f"q{n}", "text": f"query {n}"} for n in range(10)]
    (path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents))
    (path / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    lines = ["query-id\tcorpus-id\tscore", *(f"q{n}\td{3 * n}\t2" for n in range(10)), "q1\td39\t0"]
    (path / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return path


def sampled(whole: Path, output: Path) -> Path:
    asked = ["--set", whole, "--queries", "4", "--documents", "12", "--output", output]
    subprocess.run([sys.executable, SCRIPT, *asked], check=True, capture_output=True)
    return output


def test_queries_their_documents_and_others_are_kept_as_they_were(whole: Path, tmp_path: Path) -> None:
    everything, part = load_retrieval_set(whole), load_retrieval_set(sampled(whole, tmp_path / "part"))
    assert len(part.queries) == 4
    assert len(part.documents) == 12
    assert all(part.relevance[query] == everything.relevance[query] for query in part.query_ids)
    texts = dict(zip(everything.document_ids, everything.documents, strict=True))
    assert all(texts[name] == text for name, text in zip(part.document_ids, part.documents, strict=True))
    again = load_retrieval_set(sampled(whole, tmp_path / "again"))
    assert (again.query_ids, again.document_ids) == (part.query_ids, part.document_ids)
