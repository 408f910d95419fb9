"""BEIR directories are read whole or refused with file, line and field; ranking is exact, with ties in order."""

from collections.abc import Callable
from pathlib import Path

import pytest

from qwen3emb_train.data.retrieval_set import load_retrieval_set
from tests.evaluation.tiny_set import write_tiny_set


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    return write_tiny_set(tmp_path / "set")


def test_a_set_is_read_in_file_order_with_titles_joined(beir: Path) -> None:
    data = load_retrieval_set(beir)
    assert data.query_ids == ["q1", "q2"]  # q3 is judged in no split called test
    assert data.queries[1] == "capital of China"
    assert data.document_ids == ["d1", "d2", "d3"]
    assert data.documents[0] == "Lists\nReturn the number of items in the list."
    assert data.documents[1] == "北京是中国的首都。"
    assert data.relevance == {"q1": {"d1": 2, "d3": 0}, "q2": {"d2": 1}}


def test_a_query_is_its_own_document_by_its_id_unless_such_a_one_is_relevant(
    beir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert load_retrieval_set(beir).own_rows == [-1, -1]
    assert not caplog.records
    with (beir / "corpus.jsonl").open("a") as corpus:
        corpus.write('{"_id": "q2", "text": "capital of China"}\n')
    assert load_retrieval_set(beir).own_rows == [-1, 3]
    assert "1 queries are documents by their ids" in caplog.text
    with (beir / "qrels" / "test.tsv").open("a") as qrels:
        qrels.write("q2\tq2\t1\n")  # ids of two counts that met
    assert load_retrieval_set(beir).own_rows == [-1, -1]


def test_another_split_and_a_flat_file_are_read(beir: Path) -> None:
    assert load_retrieval_set(beir, split="dev").query_ids == ["q3"]
    (beir / "qrels" / "test.tsv").rename(beir / "qrels.tsv")
    assert load_retrieval_set(beir).query_ids == ["q1", "q2"]


def test_a_missing_split_names_those_that_exist(beir: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"qrels/train.tsv.*Splits there: \['dev', 'test'\]"):
        load_retrieval_set(beir, split="train")


def _append(name: str, line: str) -> Callable[[Path], object]:
    return lambda directory: (directory / name).open("a", encoding="utf-8").write(line + "\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_append("corpus.jsonl", '{"_id": "d1", "text": "again"}'), r"corpus.jsonl:4: field '_id': 'd1' occurs twice"),
        (_append("corpus.jsonl", '{"_id": "d4", "text": 7}'), r"corpus.jsonl:4: field 'text' is int 7"),
        (_append("corpus.jsonl", '{"_id": "d4", "title": "t"}'), r"corpus.jsonl:4: field 'text' is NoneType None"),
        (_append("corpus.jsonl", '{"text": "no id"}'), r"corpus.jsonl:4: field '_id' is None"),
        (_append("corpus.jsonl", '{"_id": "d4", '), r"corpus.jsonl:4: .*is not JSON"),
        (_append("queries.jsonl", "[1]"), r"queries.jsonl:4: .*should be a JSON object"),
        (_append("qrels/test.tsv", "q1\td1\t1"), r"test.tsv:5: 'q1' and 'd1' are judged twice, 2 and 1"),
        (_append("qrels/test.tsv", "q1\td2\t0.5"), r"test.tsv:5: field 'score' is '0.5'; it must be a whole number"),
        (_append("qrels/test.tsv", "q1\td2\t"), r"test.tsv:5: field 'score' is ''"),
        (_append("qrels/test.tsv", "q1 d2 1"), r"test.tsv:5: 1 tab-separated columns"),
        (_append("qrels/test.tsv", "q3\td2\t0"), r"query 'q3' has no relevant document"),
        (lambda d: (d / "qrels/test.tsv").write_text("q\td\ts\n"), r"test.tsv:1: the header is \['q', 'd', 's'\]"),
        (lambda d: (d / "qrels/test.tsv").write_text("q1 Q0 d1 1 9.5 run\n"), r"test.tsv:1: the header is"),
        (lambda d: (d / "qrels/test.tsv").write_text("q1 Q0 d1 1 9 8\n"), r"test.tsv:1: 6 blank-separated columns"),
        (lambda d: (d / "qrels/test.tsv").write_text("d1\tq1\t1\n"), r"none of its judgements is of the queries"),
        (lambda d: (d / "qrels/test.tsv").write_text("q1\t1\t1\n"), r"none of its judgements is of the documents"),
        (lambda d: (d / "qrels/test.tsv").write_bytes("q1\td1\t1\n".encode("utf-16")), r"test.tsv: is not UTF-8"),
        (lambda d: (d / "qrels/test.csv").write_text("q1,d1,1\n"), r"test.tsv and test.csv both exist"),
        (lambda d: (d / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n"), r"holds no judgement"),
        (lambda d: (d / "queries.jsonl").write_text("\n"), r"queries.jsonl: holds no lines"),
    ],
)
def test_a_broken_set_is_refused_with_file_line_and_field(
    beir: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(beir)
    with pytest.raises(ValueError, match=message):
        load_retrieval_set(beir)


def test_a_missing_file_is_named(beir: Path) -> None:
    (beir / "corpus.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"corpus.jsonl: no such file"):
        load_retrieval_set(beir)
