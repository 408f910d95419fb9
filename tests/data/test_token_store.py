"""Tokenised once, memory-mapped, keyed by contents; batches built from it are what the texts say."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from qwen3emb_train.data import token_store
from qwen3emb_train.data.collators import EmbeddingCollator, LengthConfig
from qwen3emb_train.data.instructions import format_query
from qwen3emb_train.data.mixture import SourceConfig, Step
from qwen3emb_train.data.readers import ReadingConfig
from qwen3emb_train.data.token_store import copy_rejected, open_token_store
from qwen3emb_train.data.tokenization import TextTokenizer, load_tokenizer

ROWS = [
    {"query": "one", "positives": ["first", "also first"], "negatives": ["second", "third", "fourth"]},
    {"query": "two", "positive": "second", "instruction": "Own instruction"},
    {"query": "one", "positive": "third", "negatives": ["first"]},
]


@pytest.fixture
def tokenizer(tiny_qwen3: Path) -> TextTokenizer:
    return load_tokenizer(str(tiny_qwen3))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def collate(tokenizer: TextTokenizer, source: Path, tmp_path: Path, config: SourceConfig, *, step: int = 0):  # type: ignore[no-untyped-def]
    store = open_token_store(source, tokenizer, tmp_path / "cache", instruction=config.instruction)
    collator = EmbeddingCollator([store], ["s"], [config], LengthConfig(64, 6), seed=0)
    return collator(step, Step(0, np.array([0, 1, 2])))


def test_a_batch_holds_each_distinct_text_once_with_the_right_tokens(
    tokenizer: TextTokenizer, source: Path, tmp_path: Path
) -> None:
    batch = collate(tokenizer, source, tmp_path, SourceConfig(path=str(source), instruction="Default"))
    starts = batch.texts.cu_seqlens.tolist()
    ids = [batch.texts.input_ids[a:b].tolist() for a, b in pairwise(starts)]
    queries = ["one", "two"]
    expected_queries = tokenizer.tokenize(
        [format_query("Default", queries[0]), format_query("Own instruction", queries[1])], 64
    )
    assert [ids[i] for i in batch.query_rows.tolist()] == [*expected_queries, expected_queries[0]]
    documents = ["first", "also first", "second", "third"]
    assert [ids[i] for i in batch.positive_rows.tolist()] == tokenizer.tokenize(documents, 6)
    assert [ids[i] for i in batch.negative_rows.tolist()] == tokenizer.tokenize(
        ["second", "third", "fourth", "first"], 6
    )
    assert batch.positive_owner.tolist() == [0, 0, 1, 2]
    assert batch.negative_owner.tolist() == [0, 0, 0, 2]
    assert batch.texts.num_texts == 2 + 5  # 'one', 'second', 'third', 'first' occur twice and lie there once
    assert len(set(batch.identity.tolist())) == 7


def test_limits_on_positives_and_negatives_are_drawn_by_step_and_row(
    tokenizer: TextTokenizer, source: Path, tmp_path: Path
) -> None:
    config = SourceConfig(path=str(source), max_positives=1, max_negatives=2)
    batches = [collate(tokenizer, source, tmp_path, config, step=step) for step in range(8)]
    assert all(batch.positive_owner.tolist() == [0, 1, 2] for batch in batches)
    assert all(batch.negative_owner.tolist() == [0, 0, 2] for batch in batches)
    drawn = [tuple(batch.identity[batch.negative_rows].tolist()) for batch in batches]
    assert len(set(drawn)) > 1
    again = collate(tokenizer, source, tmp_path, config, step=5)
    assert tuple(again.identity[again.negative_rows].tolist()) == drawn[5]


def test_the_store_is_reused_until_something_that_decides_the_ids_changes(
    tokenizer: TextTokenizer, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    first = open_token_store(source, tokenizer, cache)
    with monkeypatch.context() as context:
        context.setattr(token_store, "read_examples", lambda *args, **kwargs: pytest.fail("read again"))
        copy = source.with_name("moved.jsonl")
        copy.write_bytes(source.read_bytes())
        assert open_token_store(copy, tokenizer, cache).key == first.key  # contents count, not the path
    assert open_token_store(source, tokenizer, cache, instruction="Other").key != first.key
    source.write_text(source.read_text() + json.dumps({"query": "x", "positive": "y"}) + "\n")
    assert open_token_store(source, tokenizer, cache).num_rows == first.num_rows + 1


def test_a_failed_reading_leaves_no_store(tokenizer: TextTokenizer, source: Path, tmp_path: Path) -> None:
    source.write_text('{"query": "a", "positive": ""}\n')
    with pytest.raises(ValueError, match="positive"):
        open_token_store(source, tokenizer, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_skipped_lines_are_kept_beside_the_run(tokenizer: TextTokenizer, source: Path, tmp_path: Path) -> None:
    source.write_text(source.read_text() + '{"query": "a", "positive": ""}\n')
    store = open_token_store(source, tokenizer, tmp_path / "cache", reading=ReadingConfig(skip_bad_lines=True))
    assert store.num_rows == len(ROWS)
    assert copy_rejected(store, tmp_path / "rejected.jsonl")
    assert "positive" in (tmp_path / "rejected.jsonl").read_text()


def test_an_empty_source_is_refused(tokenizer: TextTokenizer, source: Path, tmp_path: Path) -> None:
    source.write_text("\n")
    with pytest.raises(ValueError, match="no training example"):
        open_token_store(source, tokenizer, tmp_path / "cache")
