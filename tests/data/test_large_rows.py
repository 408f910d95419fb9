"""What would fill the memory is refused by its row number, and reading goes on behind it."""

import bz2
import gzip
import json
import lzma
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qwen3emb_train.data import rows, tables
from qwen3emb_train.data.corpus import read_texts
from qwen3emb_train.data.readers import BadLinesError, ReadingConfig, read_examples
from qwen3emb_train.data.rows import file_rows
from qwen3emb_train.data.validation import MAX_ROW_BYTES, MAX_TEXT_CHARACTERS, InvalidExampleError
from qwen3emb_train.evaluation.tasks.reading import read_lines

GOOD = json.dumps({"query": "a", "positive": "b"})
SKIP = ReadingConfig(skip_bad_lines=True)


def problem_of(path: Path) -> str:
    with pytest.raises(BadLinesError) as caught:
        list(read_examples(path))
    assert len(list(read_examples(path, SKIP, rejected_path=path.with_name("rejected.jsonl")))) == 2
    return str(caught.value)


def test_a_text_that_no_model_reads_to_its_end_is_refused(tmp_path: Path) -> None:
    long = json.dumps({"query": "a", "positive": "x" * (MAX_TEXT_CHARACTERS + 1)})
    (tmp_path / "a.jsonl").write_text(f"{GOOD}\n{long}\n{GOOD}\n")
    assert "a.jsonl:2: positive: has 1,000,001 characters" in problem_of(tmp_path / "a.jsonl")
    (tmp_path / "c.jsonl").write_text(json.dumps({"_id": "1", "text": "x" * (MAX_TEXT_CHARACTERS + 1)}))
    with pytest.raises(ValueError, match=r"c\.jsonl:1: text: has 1,000,001 characters"):
        read_texts(tmp_path / "c.jsonl")


def test_sets_for_evaluation_have_the_same_caps(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "x" * (MAX_TEXT_CHARACTERS + 1)}))
    (line,) = read_lines(tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match=r"a\.jsonl:1: text: has 1,000,001 characters"):
        line.text("text")
    (tmp_path / "a.tsv").write_text(f"a\tb\n{'x' * (MAX_ROW_BYTES + 1)}\n")
    with pytest.raises(ValueError, match=r"a\.tsv:2: row: takes over"):
        read_lines(tmp_path / "a.tsv", "a", "b")


PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": lambda content: gzip.compress(content, 1),
    ".xz": lambda content: lzma.compress(content, preset=0),
    ".bz2": bz2.compress,
    ".zst": lambda content: zstd(content),
}


def zstd(content: bytes) -> bytes:
    pa = pytest.importorskip("pyarrow")
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as file:
        file.write(content)
    return bytes(sink.getvalue().to_pybytes())


@pytest.mark.parametrize("suffix", [".jsonl", *(f".jsonl{packed}" for packed in PACK)])
def test_a_line_is_not_held_beyond_its_cap(suffix: str, tmp_path: Path) -> None:
    content = f"{GOOD}\n{'x' * (MAX_ROW_BYTES + 7)}\n{GOOD}\n".encode()
    path = tmp_path / f"a{suffix}"
    path.write_bytes(PACK[path.suffix](content) if path.suffix in PACK else content)
    assert f"a{suffix}:2: row: takes {MAX_ROW_BYTES + 8:,} bytes" in problem_of(path)


def test_a_parquet_cell_that_unpacks_to_hundreds_of_megabytes_is_not_unpacked(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    with pq.ParquetWriter(path, pa.schema([("query", "string"), ("positive", "string")]), compression="zstd") as file:
        for positive in ("b", "x" * (3 * MAX_ROW_BYTES), "b"):
            file.write_table(pa.table({"query": ["a"], "positive": [positive]}))
    assert path.stat().st_size < 100_000
    assert "a.parquet:2: row: takes over" in problem_of(path)
    script = f"""
import resource
from pathlib import Path
from qwen3emb_train.data.rows import file_rows
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert len(list(file_rows(Path({str(path)!r})))) == 3
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    grown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert int(grown) * 1024 < 2 * MAX_ROW_BYTES, f"{grown} KiB"


def test_a_large_cell_between_small_ones_is_the_only_one_refused(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    positives = ["b", "x" * (MAX_ROW_BYTES + 1), "c"]
    pq.write_table(pa.table({"query": ["a"] * 3, "positive": positives}), tmp_path / "a.parquet", compression="none")
    assert "a.parquet:2: row: takes" in problem_of(tmp_path / "a.parquet")


def test_a_gzip_bomb_of_blank_lines_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wb", 9) as file:
        file.write(f"{GOOD}\n{GOOD}\n".encode())
        for _ in range(20):
            file.write((b" " * 4095 + b"\n") * 4096)
    assert "unpacked to over 500 times its size" in problem_of(path)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".csv.zst", ".tsv"])
def test_a_line_of_a_csv_file_is_not_held_beyond_its_cap(suffix: str, tmp_path: Path) -> None:
    mark = "\t" if suffix == ".tsv" else ","
    long = MAX_ROW_BYTES + 7
    content = f"query{mark}positive\na{mark}b\n{'x' * long}{mark}b\na{mark}b\n".encode()
    path = tmp_path / f"a{suffix}"
    path.write_bytes(PACK[path.suffix](content) if path.suffix in PACK else content)
    assert f"a{suffix}:3: row: takes {long + 3:,} bytes" in problem_of(path)
    assert [line for line, _ in file_rows(path)] == [2, 3, 4]


def test_a_row_of_many_lines_of_a_csv_file_has_the_same_cap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_ROW_BYTES", 1000)
    row = ",".join(['"' + "x\n" * 10 + '"'] * 100)
    (tmp_path / "a.csv").write_text(f"query,positive\na,b\n{row}\n")
    (line, _), (bad, problem), *_ = file_rows(tmp_path / "a.csv")
    assert (line, bad) == (2, 3)
    assert isinstance(problem, InvalidExampleError)
    assert "takes over" in problem.reason


def test_a_header_beyond_the_cap_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x" * (MAX_ROW_BYTES + 1))
    with pytest.raises(ValueError, match=r"a\.csv:1: row: takes"):
        list(file_rows(tmp_path / "a.csv"))


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_large_arrow_row_is_the_only_one_refused(is_stream: bool, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"query": ["a"] * 3, "positive": ["b", "x" * (MAX_ROW_BYTES + 1), "c"]})
    new_file = pa.ipc.new_stream if is_stream else pa.ipc.new_file
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, new_file(sink, table.schema) as file:
        file.write_table(table)
    assert "a.arrow:2: row: takes" in problem_of(tmp_path / "a.arrow")


def test_a_large_object_of_an_array_is_the_only_one_refused(tmp_path: Path) -> None:
    long = json.dumps({"query": "a", "positive": ["x" * 900_000] * (MAX_ROW_BYTES // 900_000 + 1)})
    (tmp_path / "a.json").write_text(f"[{GOOD},{long},{GOOD}]")
    assert "a.json:2: row: takes over" in problem_of(tmp_path / "a.json")


@pytest.mark.parametrize("suffix", [".csv.gz", ".json.gz"])
def test_a_bomb_of_another_kind_ends(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_BOMB_BYTES", 2**20)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress((b"query,positive\na,b\n" if suffix == ".csv.gz" else b"[") + b" " * 2**22))
    with pytest.raises(ValueError, match="unpacked to over 500 times its size"):
        list(read_examples(path))
