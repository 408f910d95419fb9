"""A retrieval set of three documents in the BEIR layout."""

from pathlib import Path

CORPUS = """\
{"_id": "d1", "title": "Lists", "text": "Return the number of items in the list."}
{"_id": "d2", "title": "", "text": "北京是中国的首都。"}
{"_id": "d3", "text": "Le chat dort sur le canapé."}
"""
QUERIES = """\
{"_id": "q1", "text": "number of items in a list"}
{"_id": "q2", "text": "capital of China"}
{"_id": "q3", "text": "sleeping cat"}
"""
HEADER = "query-id\tcorpus-id\tscore\n"


def write_tiny_set(path: Path) -> Path:
    (path / "qrels").mkdir(parents=True)
    (path / "corpus.jsonl").write_text(CORPUS, encoding="utf-8")
    (path / "queries.jsonl").write_text(QUERIES, encoding="utf-8")
    (path / "qrels" / "test.tsv").write_text(HEADER + "q1\td1\t2\nq1\td3\t0\nq2\td2\t1\n", encoding="utf-8")
    (path / "qrels" / "dev.tsv").write_text(HEADER + "q3\td3\t1\n", encoding="utf-8")
    return path
