"""Judgements are read in every form that others write them in, and mean what trec_eval takes them for."""

import gzip
import logging
from pathlib import Path

import pytest

from qwen3emb_train.data.qrels import find_qrels, read_qrels

QUERIES, DOCUMENTS = {"q1", "q2"}, {"d1", "d2", "d,3"}
MEANT = {"q1": {"d1": 2, "d2": 0}, "q2": {"d2": 1}}
FORMS = {
    "BEIR": ("test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td2\t1\n"),
    "byte order mark": ("test.tsv", "\ufeffquery-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td2\t1\n"),
    "mark, no header": ("test.tsv", "\ufeffq1\td1\t2\nq1\td2\t0\nq2\td2\t1\n"),
    "carriage returns": ("test.tsv", "query-id\tcorpus-id\tscore\r\nq1\td1\t2\r\nq1\td2\t0\r\n\r\nq2\td2\t1\r\n"),
    "no header": ("test.tsv", "q1\td1\t2\nq1\td2\t0\nq2\td2\t1"),
    "other names": ("test.tsv", "query_id\tDocID\trelevance\nq1\td1\t2\nq1\td2\t0\nq2\td2\t1\n"),
    "other order": ("test.tsv", "score\tcorpus-id\tquery-id\n2\td1\tq1\n0\td2\tq1\n1\td2\tq2\n"),
    "TREC": ("test.qrels", "q1 0 d1 2\nq1 0 d2 0\nq2 0 d2 1\n"),
    "TREC with tabs": ("test.txt", "q1\tQ0\td1\t2\nq1\tQ0\td2\t0\nq2\tQ0\td2\t1\n"),
    "TREC with several blanks": ("test.trec", "q1  0   d1  2\nq1  0   d2  0\nq2  0   d2  1\n"),
    "TREC with a header": ("test.tsv", "qid iter docno rel\nq1 0 d1 2\nq1 0 d2 0\nq2 0 d2 1\n"),
    "CSV": ("test.csv", "query-id,corpus-id,score\nq1,d1,2\n\"q1\",d2,0\nq2,d2,1\n"),
    "CSV with pandas' index": ("test.csv", ",query-id,corpus-id,score\n0,q1,d1,2\n1,q1,d2,0\n2,q2,d2,1\n"),
    "CSV without header": ("test.csv", "q1,d1,2\nq1,d2,0\nq2,d2,1\n"),
    "floats": ("test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t2.0\nq1\td2\t0.0\nq2\td2\t1.0\n"),
    "negative": ("test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t-1\nq2\td2\t1\n"),
    "said again": ("test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td2\t1\nq1\td1\t2\n"),
    "unknown query": ("test.tsv", "query-id\tcorpus-id\tscore\nq9\td1\t1\nq1\td1\t2\nq1\td2\t0\nq2\td2\t1\n"),
    "JSON Lines": (
        "test.jsonl",
        '{"query-id": "q1", "corpus-id": "d1", "score": 2}\n{"query-id": "q1", "corpus-id": "d2", "score": 0}\n'
        '{"query-id": "q2", "corpus-id": "d2", "score": 1.0}\n',
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_means_the_same(form: str, tmp_path: Path) -> None:
    name, text = FORMS[form]
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / name).write_bytes(text.encode())
    assert read_qrels(find_qrels(tmp_path, "test"), QUERIES, DOCUMENTS) == MEANT


def test_a_compressed_file_and_an_id_with_a_comma_are_read(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "qrels.csv.gz", "wt") as file:
        file.write('query-id,corpus-id,score\nq1,"d,3",1\n')
    assert read_qrels(find_qrels(tmp_path, "test"), QUERIES, DOCUMENTS) == {"q1": {"d,3": 1}}


def test_what_trec_eval_lets_pass_is_kept_or_left_out_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "qrels.tsv"
    path.write_text("q1\td1\t1\nq1\tx\t3\nq1\ty\t1\nq9\td1\t1\nq2\td2\t1\nq2\td1\t-2\n")
    with caplog.at_level(logging.WARNING):
        found = read_qrels(path, QUERIES, DOCUMENTS)
    assert found == {"q1": {"d1": 1, "x": 3, "y": 1}, "q2": {"d2": 1, "d1": 0}}
    assert [record.getMessage().removeprefix(f"{path}:") for record in caplog.records] == [
        "2: 2 judged documents are not in the corpus; the relevant ones count as not found, as trec_eval does.",
        "4: 1 judgements are of queries that are not in the set, and are left out, as trec_eval does.",
        "6: 1 negative grades count as 0, as trec_eval does.",
    ]


def test_scores_are_those_of_trec_eval(tmp_path: Path) -> None:
    """With a negative grade, a document that the corpus lacks, and a query that the set lacks."""
    pytrec_eval = pytest.importorskip("pytrec_eval")
    from qwen3emb_train.data.ranking_metrics import ndcg_at, recall_at

    judged = {"q1": {"d1": 2, "d2": -1, "x": 1}, "q2": {"d2": 1, "d1": 0}, "q9": {"d1": 1}}
    path = tmp_path / "qrels.tsv"
    path.write_text("".join(f"{q} 0 {d} {grade}\n" for q, grades in judged.items() for d, grade in grades.items()))
    ranked = {"q1": ["d2", "d1", "d,3"], "q2": ["d1", "d2", "d,3"]}
    run = {query: {d: 9.0 - place for place, d in enumerate(found)} for query, found in ranked.items()}
    theirs = pytrec_eval.RelevanceEvaluator(judged, {"ndcg_cut.10", "recall.10"}).evaluate(run)
    ours = read_qrels(path, QUERIES, DOCUMENTS)
    assert ours.keys() == theirs.keys()
    for query, grades in ours.items():
        found = [grades.get(document, 0) for document in ranked[query]]
        assert ndcg_at(10, found, grades.values()) == pytest.approx(theirs[query]["ndcg_cut_10"], abs=1e-12)
        assert recall_at(10, found, grades.values()) == pytest.approx(theirs[query]["recall_10"], abs=1e-12)
