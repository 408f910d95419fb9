"""Invariants: a bad line is named by file, line and field; none is lost: it stops the reading or is set aside."""

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwen3emb_train.data.readers import (
    BadLine,
    BadLinesError,
    ReadingConfig,
    read_examples,
    read_reranking_examples,
)
from qwen3emb_train.data.records import RerankingExample, TrainingExample, write_examples

GOOD = b'{"query": "q", "positive": "p"}\n'
EXAMPLE = TrainingExample("q", ("p",))


def write(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"".join(lines))
    return path


def test_byte_order_mark_blank_lines_and_windows_line_ends_are_no_matter(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + GOOD, b"\n", b"  \t\r\n", GOOD[:-1] + b"\r\n", GOOD[:-1])
    assert list(read_examples(path)) == [EXAMPLE] * 3


@pytest.mark.parametrize(
    ("line", "field", "reason"),
    [
        (b"[1, 2]\n", "line", "should be a JSON object, but is list"),
        (b"5\n", "line", "should be a JSON object, but is int"),
        (b"{query: 1}\n", "line", "not JSON"),
        (b'{"query": "q", "positive": "p"} {}\n', "line", "not JSON: Extra data at character 33"),
        (b'{"query": "q", "positive": "p", "scores": [NaN]}\n', "line", "NaN"),
        (b'{"query": "q", "positive": "p", "scores": [-Infinity]}\n', "line", "-Infinity"),
        (b'{"query": "q", "positive": "p", "scores": [1e999]}\n', "scores[0]", "finite"),
        (b'{"query": "q", "positive": "p", "scores": [' + b"1" * 5000 + b"]}\n", "line", "not JSON"),
        (b'{"query": ' + b"[" * 100_000 + b"\n", "line", "not JSON"),
        (b'{"query": "\xff", "positive": "p"}\n', "line", "not UTF-8: 0xff at byte 12"),
        (b'\xff\xfe{\x00"\x00}\x00\n', "line", "not UTF-8: 0xff at byte 1"),  # what UTF-16 looks like
        (b'{"query": "\\ud800", "positive": "p"}\n', "query", "surrogate"),
        (b'{"query": " ", "positive": "p"}\n', "query", "empty"),
        (b'{"query": "q", "positive": ""}\n', "positive", "empty"),
        (b'{"query": "q", "positive": "p", "negatives": ["n", "p"]}\n', "negatives[1]", "equal to a positive"),
        (b'{"query": "q", "positive": "p", "negatives": ["n", 3]}\n', "negatives[1]", "int 3"),
        (b'{"query": "q", "positive": "p", "negatve": "n"}\n', "negatve", "not a known field"),
        (b'{"query": "q", "positive": "p", "positive": "r"}\n', "positive", "is there twice"),
        (b'{"query": "q", "positive_passages": [{"text": "a", "text": "b"}]}\n', "text", "is there twice"),
        (b'{"query": "q", "documents": ["d"], "labels": [1], "labels": [0]}\n', "labels", "is there twice"),
    ],
)
def test_a_bad_line_is_named_by_file_line_and_field(tmp_path: Path, line: bytes, field: str, reason: str) -> None:
    path = write(tmp_path / "a.jsonl", GOOD, b"\n", line, GOOD)
    with pytest.raises(BadLinesError) as error:
        list(read_examples(path))
    (bad_line,) = error.value.bad_lines
    assert (bad_line.file, bad_line.line, bad_line.field) == (str(path), 3, field)
    assert reason in bad_line.reason
    assert f"{path}:3: {field}: {bad_line.reason}. {bad_line.remedy}" in str(error.value).splitlines()[1]


def test_a_torn_last_line_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadLinesError, match=r"a\.jsonl:2: line: is not JSON.*interrupted"):
        list(read_examples(write(tmp_path / "a.jsonl", GOOD, GOOD[:-9])))


def test_the_examples_before_a_bad_line_are_read(tmp_path: Path) -> None:
    examples = read_examples(write(tmp_path / "a.jsonl", GOOD, b"{}\n", GOOD))
    assert [next(examples), next(examples)] == [EXAMPLE, EXAMPLE]
    with pytest.raises(BadLinesError, match="1 of 3 lines are bad"):
        next(examples)


def test_reading_stops_after_the_first_bad_lines_and_lists_them(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", GOOD, *[b"{\n"] * 20)
    with pytest.raises(BadLinesError, match="stopped after 10 bad lines") as error:
        list(read_examples(path))
    assert [bad_line.line for bad_line in error.value.bad_lines] == list(range(2, 12))
    with pytest.raises(BadLinesError, match="stopped after 3 bad lines") as error:
        list(read_examples(path, ReadingConfig(max_errors=3)))
    assert len(error.value.bad_lines) == 3
    assert len(str(error.value).splitlines()) == 1 + 3


def test_skipped_lines_are_kept_with_their_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Accepted and rejected lines add up to all lines, and a rejected line can be mended from what was kept."""
    bad = [b'{"query": "\xff"}\n', b'{"query": "\xc3\xa9", "positive": ""}\n', b'{"\\ud800": 1, "query": "q"}\n', b"{"]
    path = write(tmp_path / "a.jsonl", GOOD, bad[0], GOOD, bad[1], bad[2], GOOD, bad[3])
    rejected_path = tmp_path / "out" / "rejected.jsonl"
    config = ReadingConfig(max_errors=1, skip_bad_lines=True)
    with caplog.at_level(logging.WARNING):
        examples = list(read_examples(path, config, rejected_path=rejected_path))
    rejected = [json.loads(line) for line in rejected_path.read_text(encoding="utf-8").splitlines()]
    assert len(examples) == 3
    assert [row["line"] for row in rejected] == [2, 4, 5, 7]
    assert len(examples) + len(rejected) == 7
    assert rejected[0]["raw"] == '{"query": "\\xff"}'
    assert rejected[1]["raw"] == '{"query": "é", "positive": ""}'
    assert all(row["file"] == str(path) and row["reason"] and row["remedy"] and row["field"] for row in rejected)
    assert "Skipped 4 of 7 lines" in caplog.text

    list(read_examples(write(path, GOOD), config, rejected_path=rejected_path))
    assert rejected_path.read_text(encoding="utf-8") == ""  # the former list must not outlive its cause


def test_skipping_every_line_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'{"sentence1": "a", "sentence2": "b"}\n' * 20)
    with pytest.raises(BadLinesError, match="All 20 lines are bad") as error:
        list(read_examples(path, ReadingConfig(skip_bad_lines=True), rejected_path=tmp_path / "rejected.jsonl"))
    assert len(error.value.bad_lines) == 10
    assert len((tmp_path / "rejected.jsonl").read_text(encoding="utf-8").splitlines()) == 20


def test_shards_are_read_in_the_order_of_their_names_each_with_its_own_line_numbers(tmp_path: Path) -> None:
    write_examples(tmp_path / "b.parquet", [TrainingExample("from b", ("p",))])
    write(tmp_path / "c.jsonl", GOOD, b"{\n")
    with gzip.open(tmp_path / "a.jsonl.gz", "wb") as file:
        file.write(b'{"anchor": "from a", "positive": "p"}\n')
    for ignored in (".a.jsonl.17.tmp", ".hidden.jsonl", "run.json", "rejected.jsonl"):
        write(tmp_path / ignored, b"{")
    rejected_path = tmp_path / ".." / tmp_path.name / "rejected.jsonl"  # the same file under another name
    with pytest.raises(BadLinesError) as error:  # first without writing, which could not end if the file were a shard
        list(read_examples(tmp_path, rejected_path=rejected_path))
    assert [bad_line.file for bad_line in error.value.bad_lines] == [str(tmp_path / "c.jsonl")]
    examples = read_examples(tmp_path, ReadingConfig(skip_bad_lines=True), rejected_path=rejected_path)
    assert [example.query for example in examples] == ["from a", "from b", "q"]
    (rejected,) = (json.loads(line) for line in rejected_path.read_text(encoding="utf-8").splitlines())
    assert (rejected["file"], rejected["line"]) == (str(tmp_path / "c.jsonl"), 2)


def test_lines_that_do_not_say_take_what_the_caller_says(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", GOOD, b'{"query": "q", "positive": "p", "task": "code", "instruction": ""}\n')
    examples = list(read_examples(path, task="code", instruction="Find", source="s", language="en"))
    assert examples[0] == TrainingExample("q", ("p",), (), "code", "Find", "s", "en")
    assert examples[1] == TrainingExample("q", ("p",), (), "code", "", "s", "en")


@pytest.mark.parametrize("read", [read_examples, read_reranking_examples])
def test_a_row_of_another_task_than_its_source_is_a_bad_line(tmp_path: Path, read: Any) -> None:
    row = b'{"query": "q", "positive": "p", "task": "retreival"}\n'
    path = write(tmp_path / "a.jsonl", GOOD, row)
    with pytest.raises(BadLinesError, match=r"a.jsonl:2: task: is 'retreival', .* Did you mean retrieval"):
        list(read(path, task="retrieval"))
    path = write(tmp_path / "b.jsonl", row.replace(b"retreival", b"sts"))
    with pytest.raises(BadLinesError, match=r"data.NAME.task=sts"):
        list(read(path, task="retrieval"))
    (example,) = read_examples(path, task="sts")
    assert example.task == "sts"
    assert [example.task for example in read_examples(path)] == ["sts"]  # programs that copy rows of any task


def test_what_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_examples(tmp_path / "none.jsonl")
    with pytest.raises(FileNotFoundError, match=r"holds none of \*\.jsonl"):
        read_examples(tmp_path)
    with pytest.raises(ValueError, match="not a known kind of file"):
        read_examples(write(tmp_path / "a.txt", b"query,positive\n"))
    with pytest.raises(ValueError, match="would be overwritten"):
        read_examples(write(tmp_path / "a.jsonl", GOOD), rejected_path=tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match="max_errors is 0"):
        ReadingConfig(max_errors=0)


def test_a_damaged_gzip_file_is_a_bad_line_where_it_breaks(tmp_path: Path) -> None:
    packed = gzip.compress(b"".join(b'{"query": "q%d", "positive": "p"}\n' % i for i in range(5000)))
    path = write(tmp_path / "a.jsonl.gz", packed[: len(packed) // 2])
    with pytest.raises(BadLinesError, match="compressed file is damaged"):
        list(read_examples(path))
    with pytest.raises(BadLinesError, match=r"a\.jsonl\.gz:1: line: the compressed file is damaged"):
        list(read_examples(write(tmp_path / "a.jsonl.gz", GOOD)))


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.parquet: not readable as Parquet"):
        list(read_examples(write(tmp_path / "a.parquet", GOOD)))


def test_a_bad_parquet_row_is_named_by_its_number(tmp_path: Path) -> None:
    """Across batches, and for bytes that Arrow calls a string without looking."""
    num_rows = 1500
    texts = [b"\xff" if row == 1200 else b"" if row == 1300 else b"p" for row in range(num_rows)]
    unchecked = pa.array(texts, pa.binary()).view(pa.string())
    pq.write_table(pa.table({"query": ["q"] * num_rows, "positive": unchecked}), tmp_path / "a.parquet")
    rejected_path = tmp_path / "rejected.jsonl"
    config = ReadingConfig(skip_bad_lines=True)
    assert len(list(read_examples(tmp_path / "a.parquet", config, rejected_path=rejected_path))) == num_rows - 2
    rejected = [json.loads(line) for line in rejected_path.read_text(encoding="utf-8").splitlines()]
    assert [(row["line"], row["field"]) for row in rejected] == [(1201, "row"), (1301, "positive")]
    assert json.loads(rejected[1]["raw"]) == {"query": "q", "positive": ""}


def test_reranking_lines_may_be_judged_or_in_any_training_layout(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        b'{"query": "q", "documents": ["a", "b"], "labels": [0, 1], "difficulty": 1}\n',
        b'{"query": "q", "pos": ["b"], "neg": ["a"], "difficulty": 1}\n',
        b'{"query": "q", "documents": ["a"], "labels": [2]}\n',
    )
    config = ReadingConfig(ignored_columns=["difficulty"])
    examples = read_reranking_examples(path, config, instruction="Judge", source="s")
    assert next(examples) == RerankingExample("q", ("a", "b"), (0, 1), "Judge", "s")
    assert next(examples) == RerankingExample("q", ("b", "a"), (1, 0), "Judge", "s")
    with pytest.raises(BadLinesError, match=r"a\.jsonl:3: labels\[0\]: is neither 0 nor 1"):
        next(examples)


def test_a_bad_line_reads_as_one_sentence_and_its_remedy() -> None:
    assert str(BadLine("a.jsonl", 3, "pos[1]", "is empty", "Drop it.")) == "a.jsonl:3: pos[1]: is empty. Drop it."
