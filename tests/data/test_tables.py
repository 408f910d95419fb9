"""Invariants: data of every kind means the same rows; of what cannot be read, file, row and column are named."""

import bz2
import gzip
import json
import logging
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwen3emb_train.data.readers import BadLinesError, read_examples
from qwen3emb_train.data.records import TrainingExample

ROWS = [
    {"query": "q, 1", "positive": 'a "quoted"\nline', "negative": "n"},
    {"query": "2", "positive": "ü", "negative": None},
]
MEANT = [TrainingExample("q, 1", ('a "quoted"\nline',), ("n",)), TrainingExample("2", ("ü",))]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
CSV = 'query,positive,negative\n"q, 1","a ""quoted""\nline",n\n2,ü,\n'.encode()
TABLE = pa.Table.from_pylist(ROWS)


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


def arrow(new: Callable[..., Any]) -> bytes:
    sink = pa.BufferOutputStream()
    with new(sink, TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=1)
    return bytes(sink.getvalue())


FILES = {
    "a.jsonl.gz": gzip.compress(LINES),
    "a.jsonl.zst": zstd(LINES),
    "a.ndjson.bz2": bz2.compress(LINES),
    "a.jsonl.xz": lzma.compress(LINES),
    "a.json": json.dumps(ROWS, indent=1).encode(),
    "mark.json": b"\xef\xbb\xbf \n" + json.dumps(ROWS).encode(),
    "a.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    "lines.json": LINES,
    "a.csv": CSV,
    "returns.csv": b'query,positive,negative\r\n"q, 1","a ""quoted""\nline",n\r\n\r\n,,\r\n2,\xc3\xbc,nan\r\n',
    "mark.csv": b"\xef\xbb\xbf" + CSV,
    "a.csv.zst": zstd(CSV),
    "index.csv": ',query,positive,negative\n0,"q, 1","a ""quoted""\nline",n\n1,2,ü,\n'.encode(),
    "semicolons.csv": 'query;positive;negative\nq, 1;"a ""quoted""\nline";n\n2;ü;\n'.encode(),
    "a.tsv": 'query\tpositive\tnegative\nq, 1\t"a ""quoted""\nline"\tn\n2\tü\t\n'.encode(),
    "stream.arrow": arrow(pa.ipc.new_stream),
    "file.arrow": arrow(pa.ipc.new_file),
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_means_the_same(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    assert list(read_examples(tmp_path / name)) == MEANT


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"query,positive\nq,p\nq,p,n\n", r"a\.csv:3: line: has 3 cells, and the header 2"),
        ("a.csv", b'query,positive\nq,"p\nq,p\n', r"a\.csv:2: line: is not CSV: unexpected end of data"),
        ("a.csv", b'query,positive\nq,"p" x\nq,p\n', r"a\.csv:2: line: is not CSV"),
        ("a.csv", b"query,positive,positive\nq,p,r\n", r"a\.csv: the column 'positive' is there twice"),
        ("a.csv", b"query,positive\nq,caf\xe9\n", r"a\.csv:2: positive: is not UTF-8"),
        ("a.csv", "query,positive\nq,p\n".encode("utf-16"), r"a\.csv: is UTF-16"),
        ("a.csv", b"query,positive,\nq,p,lost\n", r"a\.csv:2: column 3: is not a known field"),
        ("a.csv", b"query,positive\nq,\n", r"a\.csv:2: positives: there is no positive"),
        ("a.csv", b"query,positive\nq,NaN\n", r"a\.csv:2: positives: there is no positive"),
        ("a.csv", b"query,positive\nq,\"['a', 'b']\"\n", r"a\.csv:2: positive: is a list written as text"),
        ("a.csv", b"what,why\nq,p\n", r"a\.csv:2: columns: the columns found are of no known layout: 'what', 'why'"),
        ("a.json", b'[{"query": "q", "positive": "p"}, 3]', r"a\.json:2: line: should be a JSON object"),
        ("a.json", b'[{"query": "q", "positive": "p"}', r"a\.json: is not a JSON array"),
        ("a.json", b'[{"query": "q", "positive": "p", "positive": "r"}]', r"a\.json: positive: is there twice"),
        ("a.arrow", b"none", r"a\.arrow: not readable as Arrow"),
        ("a.jsonl.zst", zstd(LINES)[:-9], r"a\.jsonl\.zst:\d: line: the compressed file is damaged"),
        ("a.csv.gz", gzip.compress(CSV, mtime=0)[:-9], r"a\.csv\.gz: cannot be read to its end"),
    ],
)
def test_what_cannot_be_read_is_named(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        list(read_examples(tmp_path / name))


def test_the_rows_after_a_bad_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("query,positive\nq,p\nq\nq,r\n")
    with pytest.raises(BadLinesError, match="1 of 3 lines are bad"):
        list(read_examples(tmp_path / "a.csv"))


def test_two_columns_of_one_name_are_refused_in_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table([["q"], ["p"], ["r"]], names=["query", "positive", "positive"]), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="the column 'positive' is there twice"):
        list(read_examples(tmp_path / "a.parquet"))


def test_a_saved_data_set_is_read_in_its_order_and_several_splits_are_named(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    saved = datasets.Dataset.from_list(ROWS)
    saved.select([1, 0, 0]).save_to_disk(tmp_path / "one", num_shards=2)
    assert list(read_examples(tmp_path / "one")) == [MEANT[1], MEANT[0], MEANT[0]]
    (tmp_path / "one" / "state.json").write_text("{}")
    with pytest.raises(ValueError, match=r"one/state\.json is none of save_to_disk"):
        read_examples(tmp_path / "one")
    datasets.DatasetDict({"train": saved, "test": saved}).save_to_disk(tmp_path / "two")
    assert list(read_examples(tmp_path / "two" / "train")) == MEANT
    with pytest.raises(ValueError, match=r"several splits. Give one of them: .*two/\{test,train\}"):
        read_examples(tmp_path / "two")


def test_a_directory_and_a_pattern_hold_files_of_several_kinds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("a.csv", "a.jsonl.gz", "stream.arrow", "a.json"):
        (tmp_path / name).write_bytes(FILES[name])
    (tmp_path / "deep" / "b.csv").write_bytes(CSV)
    (tmp_path / "README.md").write_text("about")
    with caplog.at_level(logging.WARNING):
        assert list(read_examples(tmp_path)) == MEANT * 3
    assert "a.json, deep is not read" in caplog.text  # nothing is left out in silence
    assert list(read_examples(tmp_path / "**" / "*.csv")) == MEANT * 2
    with pytest.raises(ValueError, match=r"README.md: not a known kind of file"):
        read_examples(tmp_path / "*")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_examples(tmp_path / "*.jsonl")
