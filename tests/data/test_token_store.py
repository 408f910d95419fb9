"""Tokenised once, memory-mapped, keyed by contents; batches built from it are what the texts say."""

import json
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from qwen3emb_train import lineage
from qwen3emb_train.data import store_parts
from qwen3emb_train.data.batch_plan import Step
from qwen3emb_train.data.collators import EmbeddingCollator
from qwen3emb_train.data.instructions import format_query
from qwen3emb_train.data.mixture import LengthConfig, SourceConfig
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


def collate(tokenizer: TextTokenizer, source: Path, tmp_path: Path, config: SourceConfig):  # type: ignore[no-untyped-def]
    store = open_token_store(source, tokenizer, tmp_path / "cache", instruction=config.instruction)
    collator = EmbeddingCollator(
        {"s": config}, {"s": store}, LengthConfig(64, 6), eos_token_id=tokenizer.eos_token_id, seed=0
    )
    return collator(0, Step("s", "retrieval", np.zeros(3, dtype=np.int64), np.arange(3), 0), (0,))


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
    assert [ids[i] for i in batch.query_idx.tolist()] == [*expected_queries, expected_queries[0]]
    documents = ["first", "also first", "second", "third"]
    assert [ids[i] for i in batch.positive_idx.tolist()] == tokenizer.tokenize(documents, 6)
    assert [ids[i] for i in batch.negative_idx.tolist()] == tokenizer.tokenize(
        ["second", "third", "fourth", "first"], 6
    )
    assert batch.positive_query_idx.tolist() == [0, 0, 1, 2]
    assert batch.negative_query_idx.tolist() == [0, 0, 0, 2]
    assert batch.texts.num_texts == 2 + 5  # 'one', 'second', 'third', 'first' occur twice and lie there once
    assert len(set(batch.text_hash.tolist())) == 7


def test_the_store_is_reused_until_something_that_decides_the_ids_changes(
    tokenizer: TextTokenizer, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    first = open_token_store(source, tokenizer, cache)
    with monkeypatch.context() as context:
        context.setattr(store_parts, "read_examples", lambda *args, **kwargs: pytest.fail("read again"))
        copy = source.with_name("moved.jsonl")
        copy.write_bytes(source.read_bytes())
        assert open_token_store(copy, tokenizer, cache).key == first.key  # contents count, not the path
    assert open_token_store(source, tokenizer, cache, instruction="Other").key != first.key
    source.write_text(source.read_text() + json.dumps({"query": "x", "positive": "y"}) + "\n")
    assert open_token_store(source, tokenizer, cache).num_rows == first.num_rows + 1


def test_rows_of_another_task_are_found_although_their_tokens_are_there(
    tokenizer: TextTokenizer, source: Path, tmp_path: Path
) -> None:
    source.write_text(json.dumps({"query": "a", "positive": "b", "task": "sts"}) + "\n")
    assert open_token_store(source, tokenizer, tmp_path / "cache", task="sts").num_rows == 1
    with pytest.raises(ValueError, match="task: is 'sts', but 'retrieval' is the task of its source"):
        open_token_store(source, tokenizer, tmp_path / "cache")
    source.write_text(json.dumps({"query": "a", "positive": "b", "task": "Given a b, find its a"}) + "\n")
    with pytest.raises(ValueError, match=r"a sentence .* read it as such: data\.NAME\.columns\.instruction=task"):
        open_token_store(source, tokenizer, tmp_path / "cache")


def test_a_failed_reading_leaves_no_store(tokenizer: TextTokenizer, source: Path, tmp_path: Path) -> None:
    source.write_text('{"query": "a", "positive": ""}\n')
    with pytest.raises(ValueError, match="positive"):
        open_token_store(source, tokenizer, tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] in ([], ["digests"])


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


def test_scores_and_languages_are_kept_for_the_rows_that_bring_them(tokenizer: TextTokenizer, source: Path) -> None:
    plain = open_token_store(source, tokenizer, source.parent / "cache")
    assert plain.scores is None
    assert plain.languages is None
    rows = [ROWS[0] | {"scores": [0.5, 0.25, -1, 0, 1], "language": "en"}, ROWS[1] | {"language": "de"}, ROWS[2]]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    store = open_token_store(source, tokenizer, source.parent / "cache")
    assert store.scores is not None
    nan = float("nan")
    np.testing.assert_array_equal(store.scores, [nan, 0.5, 0.25, -1, 0, 1] + [nan] * 5)
    assert store.languages is not None
    assert [store.language_names[number] for number in store.languages] == ["en", "de", ""]


def test_tokens_of_a_row_are_those_of_its_cut_and_closed_texts(tokenizer: TextTokenizer, source: Path) -> None:
    store = open_token_store(source, tokenizer, source.parent / "cache")
    expected = []
    for row in range(store.num_rows):
        query, positives, negatives = texts_of_row(store, row)
        tokens = [len(tokenizer.tokenize([text], 3)[0]) for text in (*positives, *negatives)]
        expected.append(len(tokenizer.tokenize([query], 4)[0]) + sum(tokens))
    assert store.row_tokens(np.arange(store.num_rows), 4, 3).tolist() == expected


def texts_of_row(store, row: int) -> tuple[str, list[str], list[str]]:  # type: ignore[no-untyped-def]
    """From the lines, checked against the spans of the store."""
    line = ROWS[row]
    positives = line.get("positives", [line.get("positive")])
    (query,), (negative,), (end,) = (part.tolist() for part in store.row_spans(np.array([row])))
    assert negative - query - 1 == len(positives)
    assert end - negative == len(line.get("negatives", []))
    instruction = line.get("instruction")
    return format_query(instruction, line["query"]), positives, line.get("negatives", [])  # type: ignore[arg-type]


def test_a_changed_file_is_noticed_and_an_unchanged_one_not_read_again(
    tokenizer: TextTokenizer, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = source.parent / "cache"
    os.utime(source, (1, 1))
    first = open_token_store(source, tokenizer, cache)
    with monkeypatch.context() as context:
        context.setattr(lineage, "file_digest", lambda path: pytest.fail("read again"))
        assert open_token_store(source, tokenizer, cache).key == first.key
    text = source.read_text()
    source.write_text(text.replace("first", "fifth"))  # as many bytes
    os.utime(source, (1, 1))  # a deceiver: size, time and inode as noted
    assert open_token_store(source, tokenizer, cache).contents == first.contents
    assert open_token_store(source, tokenizer, cache, verify_contents=True).contents != first.contents
    source.write_text(text.replace("first", "sixth"))
    assert open_token_store(source, tokenizer, cache).contents != first.contents


def test_a_damaged_store_is_named(tokenizer: TextTokenizer, source: Path) -> None:
    store = open_token_store(source, tokenizer, source.parent / "cache")
    (store.directory / "ids.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"damaged token store of .*Delete it"):
        open_token_store(source, tokenizer, source.parent / "cache")


def test_a_flipped_bit_of_a_store_is_named_when_contents_are_verified(tokenizer: TextTokenizer, source: Path) -> None:
    store = open_token_store(source, tokenizer, source.parent / "cache")
    content = bytearray((store.directory / "ids.bin").read_bytes())
    content[4] ^= 1
    (store.directory / "ids.bin").write_bytes(content)
    with pytest.raises(ValueError, match=r"ids\.bin: its bytes are not those"):
        open_token_store(source, tokenizer, source.parent / "cache", verify_contents=True)
