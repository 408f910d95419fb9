"""Writing a store: the same bytes whatever the number of processes, and nothing left of a failure."""

import json
from pathlib import Path

import numpy as np
import pytest

from qwen3emb_train.data import store_writing
from qwen3emb_train.data.readers import BadLinesError, ReadingConfig
from qwen3emb_train.data.records import TrainingExample, write_examples
from qwen3emb_train.data.token_store import TokenStore, open_token_store
from qwen3emb_train.data.tokenization import TextTokenizer, load_tokenizer, text_hash

LANGUAGES = ["", "fr", "de", "en"]


@pytest.fixture
def tokenizer(tiny_qwen3: Path) -> TextTokenizer:
    return load_tokenizer(str(tiny_qwen3))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Five shards, JSON Lines and Parquet; languages appear in another order in each, scores in one of them only."""
    for shard in range(5):
        examples = [
            TrainingExample(
                f"query {shard} {row}",
                (f"positive {row}",) * (1 + row % 2),
                tuple(f"negative {row} {n}" for n in range(row % 3)),
                language=LANGUAGES[(shard * 3 + row) % 4],
                scores=tuple(float(row + n) for n in range(1 + row % 2 + row % 3)) if shard == 3 else None,
            )
            for row in range(7 + shard)
        ]
        write_examples(tmp_path / "shards" / f"{shard}.{'parquet' if shard % 2 else 'jsonl'}", examples)
    return tmp_path / "shards"


def files_of(store: TokenStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.directory.iterdir()}


def test_the_bytes_do_not_depend_on_the_number_of_processes(
    tokenizer: TextTokenizer, shards: Path, tmp_path: Path
) -> None:
    bad = '{"query": "a", "positive": ""}\n'
    (shards / "0.jsonl").write_text(bad + (shards / "0.jsonl").read_text())
    (shards / "4b.jsonl").write_text(bad + bad)  # a shard without a good line
    reading = ReadingConfig(skip_bad_lines=True)
    one = open_token_store(shards, tokenizer, tmp_path / "one", reading=reading, processes=1)
    two = open_token_store(shards, tokenizer, tmp_path / "two", reading=reading, processes=2)
    assert files_of(one) == files_of(two)
    assert set(files_of(one)) == {
        "meta.json", "rejected.jsonl", "ids.bin", "text_ends.bin", "text_hashes.bin", "row_ends.bin",
        "num_positives.bin", "scores.bin", "languages.bin",
    }  # fmt: skip
    assert len(files_of(one)["rejected.jsonl"].splitlines()) == 3
    assert one.num_rows == 7 + 8 + 9 + 10 + 11
    assert one.row_ends[-1] == len(one.text_ends) == len(one.text_hashes)
    assert one.text_ends[-1] == len(one.ids)
    assert one.scores is not None
    assert one.scores[~np.isnan(one.scores)].tolist() == [
        float(row + n) for row in range(10) for n in range(1 + row % 2 + row % 3)
    ]
    assert one.languages is not None
    assert [one.language_names[number] for number in one.languages] == [
        LANGUAGES[(shard * 3 + row) % 4] for shard in range(5) for row in range(7 + shard)
    ]
    rows = one.row_spans(np.array([0, 7, 44]))[0]  # first of shards 0 and 1, last of 4
    for text, expected in zip(rows.tolist(), ["query 0 0", "query 1 0", "query 4 10"], strict=True):
        assert one.text_hashes[text] == text_hash(expected)
        start, length = (int(part[0]) for part in one.text_spans(np.array([text])))
        assert one.ids[start : start + length].tolist() == tokenizer.tokenize_without_eos([expected])[0]


def test_rows_are_the_same_when_they_come_in_many_small_pieces(
    tokenizer: TextTokenizer, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = open_token_store(shards, tokenizer, tmp_path / "whole")
    monkeypatch.setattr(store_writing, "_ROWS_AT_ONCE", 3)
    monkeypatch.setattr(store_writing, "_VALUES_AT_ONCE", 5)
    assert files_of(open_token_store(shards, tokenizer, tmp_path / "pieces")) == files_of(whole)


def test_a_bad_line_in_another_process_is_reported_as_ever_and_leaves_nothing(
    tokenizer: TextTokenizer, shards: Path, tmp_path: Path
) -> None:
    (shards / "2.jsonl").write_text(json.dumps({"query": "q", "positive": ""}) + "\n")
    with pytest.raises(BadLinesError, match=r"2.jsonl:1: positive: is empty") as caught:
        open_token_store(shards, tokenizer, tmp_path / "cache", processes=2)
    assert caught.value.bad_lines[0].line == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] in ([], ["digests"])


def test_a_source_of_bad_lines_only_is_refused(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"query": "a", "positive": ""}\n')
    with pytest.raises(ValueError, match="no training example"):
        open_token_store(
            tmp_path / "rows.jsonl", tokenizer, tmp_path / "cache", reading=ReadingConfig(skip_bad_lines=True)
        )
