"""What a sample of the data says is what the batches will hold."""

import json
from pathlib import Path

import pytest

from qwen3emb_train.data.instructions import format_query
from qwen3emb_train.data.mixture import LengthConfig, MixtureConfig, SourceConfig
from qwen3emb_train.data.readers import ReadingConfig
from qwen3emb_train.data.tokenization import load_tokenizer
from qwen3emb_train.planning.work import RowShape, largest_row, mix, sample_row
from tests.training.setup import write_rows


def test_means_are_those_of_the_tokenised_rows(tmp_path: Path, tiny_qwen3: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    tokenizer = load_tokenizer(str(tiny_qwen3))
    source = SourceConfig(path=str(path), instruction="Find it", max_positives=1, max_negatives=1)
    found = sample_row(source, LengthConfig(max_query_tokens=12), ReadingConfig(), tokenizer, 1000)
    lengths = [len(ids) for ids in tokenizer.tokenize([format_query("Find it", row["query"]) for row in rows], 12)]
    assert found.query_tokens == pytest.approx(sum(lengths) / len(rows))
    assert (found.rows, found.positives) == (24, 1.0)
    assert found.negatives == pytest.approx(sum(min(1, len(row["negatives"])) for row in rows) / 24)
    assert found.origin == "all 24 rows, tokenised"


def test_rows_of_a_long_file_are_estimated_from_its_size(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"query": f"q{i:05}", "positive": "p" * 40}) + "\n" for i in range(5000)))
    found = sample_row(SourceConfig(path=str(path)), LengthConfig(), ReadingConfig(), None, 100)
    assert found.rows == pytest.approx(5000, rel=0.01)
    assert found.document_tokens == 11
    assert "4 characters" in found.origin
    (tmp_path / "shards").mkdir()
    for name in "ab":
        (tmp_path / "shards" / f"{name}.jsonl").write_text(path.read_text())
    source = SourceConfig(path=str(tmp_path / "shards"))
    assert sample_row(source, LengthConfig(), ReadingConfig(), None, 100).rows == pytest.approx(10_000, rel=0.01)


def test_parquet_rows_are_counted(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    table = pa.table({"query": ["how"] * 700, "positive": ["so"] * 700})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    source = SourceConfig(path=str(tmp_path / "rows.parquet"))
    assert sample_row(source, LengthConfig(), ReadingConfig(), None, 50).rows == 700


def test_sources_count_by_their_share_of_the_steps() -> None:
    sources = {"big": SourceConfig(path="a"), "small": SourceConfig(path="b", weight=3.0, max_rows=50)}
    rows = {
        "big": RowShape(10.0, 100.0, 1.0, 0.0, 300, "x"),
        "small": RowShape(20.0, 200.0, 1.0, 4.0, 100, "y"),
    }
    mixed = mix(rows, sources, MixtureConfig(alpha=1.0))  # 300 : 3 * 50
    assert mixed.query_tokens == pytest.approx(10 * 2 / 3 + 20 / 3)
    assert mixed.negatives == pytest.approx(4 / 3)
    assert mixed.tokens == pytest.approx((110 * 2 + 1020) / 3)
    assert mixed.rows == 350
    together = mix(rows, sources, MixtureConfig(alpha=1.0, mixed_share=1.0))
    assert together.query_tokens == pytest.approx((10 * 300 + 20 * 50) / 350), "one stream: rows by their numbers"


def test_without_a_file_every_text_has_its_limit() -> None:
    row = largest_row(SourceConfig(path="x", max_negatives=7), LengthConfig(100, 200))
    assert (row.query_tokens, row.document_tokens, row.texts, row.tokens) == (100, 200, 9, 1700)
    assert mix({"a": row}, {"a": SourceConfig(path="x")}, MixtureConfig()).rows is None


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(ValueError, match="no training example"):
        sample_row(SourceConfig(path=str(tmp_path / "rows.jsonl")), LengthConfig(), ReadingConfig(), None, 10)
