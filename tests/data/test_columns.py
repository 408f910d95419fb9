"""Columns under other names: one mapping, wherever a source is read; a name that is not there is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from qwen3emb_train.data.corpus import read_texts
from qwen3emb_train.data.mixture import SourceConfig
from qwen3emb_train.data.readers import (
    BadLinesError,
    ColumnsConfig,
    ReadingConfig,
    read_examples,
    read_lines,
    read_reranking_examples,
)
from qwen3emb_train.data.records import RerankingExample, TrainingExample


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_columns_are_read_under_other_names(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"Frage": "q", "answers": ["p", "r"], "hard": ["n"], "id": 3})
    columns = {"query": "Frage", "positives": "answers", "negatives": "hard"}
    meant = TrainingExample("q", ("p", "r"), ("n",))
    assert list(read_examples(path, columns=columns)) == [meant]
    assert [line.example for line in read_lines(path, columns=columns)] == [meant]
    assert list(read_reranking_examples(path, columns=columns)) == [RerankingExample.from_training(meant)]
    judged = write(tmp_path / "b.jsonl", {"q": "q", "docs": ["d"], "rel": [1]})
    columns = {"query": "q", "documents": "docs", "labels": "rel"}
    assert list(read_reranking_examples(judged, columns=columns)) == [RerankingExample("q", ("d",), (1,))]


def test_a_column_that_is_named_takes_the_place_of_one_that_is_not(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"query": "keywords", "question": "q", "positive": "n", "negative": "p"})
    columns = {"query": "question", "positive": "negative", "negative": "positive"}
    assert list(read_examples(path, columns=columns)) == [TrainingExample("q", ("p",), ("n",))]


def test_a_name_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"question": "q", "answer": "p"})
    with pytest.raises(BadLinesError, match=r"a.jsonl:1: qestion: is not there, .* There are: 'question', 'answer'"):
        list(read_examples(path, columns={"query": "qestion"}))
    with pytest.raises(ValueError, match=r"a.jsonl:1: body: is not there"):
        read_texts(path, columns={"text": "body"})


def test_other_unknown_columns_are_still_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"question": "q", "answer": "p", "url": "u"})
    columns = {"query": "question", "positive": "answer"}
    with pytest.raises(BadLinesError, match="url: is not a known field"):
        list(read_examples(path, columns=columns))
    assert list(read_examples(path, ReadingConfig(ignored_columns=["url"]), columns=columns))


def test_a_corpus_may_call_its_texts_otherwise(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"nr": "d1", "body": "b", "head": "h"})
    assert read_texts(path, columns={"text": "body", "title": "head", "_id": "nr"}) == {"d1": "h\nb"}


@pytest.mark.parametrize("kind", [ColumnsConfig, SourceConfig])
def test_a_misspelt_name_of_ours_is_refused_with_the_nearest(kind: type[ColumnsConfig]) -> None:
    with pytest.raises(ValueError, match=r"columns.qurey=question: there is no 'qurey'.*Did you mean columns.query\?"):
        kind(columns={"qurey": "question"})


def test_examples_and_corpus_share_one_mapping() -> None:
    config = ColumnsConfig(columns={"query": "question", "text": "body"})
    assert (config.example_columns, config.corpus_columns) == ({"query": "question"}, {"text": "body"})
