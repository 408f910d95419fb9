"""Invariants: what is written reads back equal; a wrong example is refused by the name of its field; a file is there
whole or not at all."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3emb_train.data.readers import read_examples, read_reranking_examples
from qwen3emb_train.data.records import RerankingExample, TrainingExample, write_examples
from qwen3emb_train.data.validation import InvalidExampleError

FULL = TrainingExample(
    query="Wie hoch ist der Brocken?",
    positives=("1141 m", "Der Brocken misst 1141 Meter."),
    negatives=("Die Zugspitze ist der höchste Berg.",),
    task="qa",
    instruction="Beantworte die Frage",
    source="berge",
    language="de",
    scores=(0.9, 0.8, -1.5),
)
PLAIN = TrainingExample(query="q", positives=("p",))


def test_json_leaves_out_what_reads_back_by_itself() -> None:
    assert PLAIN.to_json() == {"query": "q", "positives": ["p"], "task": "retrieval"}
    assert TrainingExample.from_json(PLAIN.to_json()) == PLAIN
    assert TrainingExample.from_json(FULL.to_json()) == FULL


def test_an_empty_instruction_stays_apart_from_none() -> None:
    """None is left to the data source; the empty one says that there is none."""
    bare = TrainingExample(query="q", positives=("p",), instruction="")
    assert TrainingExample.from_json(bare.to_json()).instruction == ""


def test_one_text_may_stand_for_a_list_of_one() -> None:
    assert TrainingExample.from_json({"query": "q", "positive": "p"}) == PLAIN
    assert TrainingExample.from_json({"query": "q", "positives": "p", "negatives": None}) == PLAIN
    assert TrainingExample.from_json({"query": "q", "positive": ["p", "r"]}).positives == ("p", "r")


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"query": None}, "query", "missing"),
        ({"query": "  \n"}, "query", "empty"),
        ({"query": 5}, "query", "int 5"),
        ({"query": "\ud800"}, "query", "surrogate"),
        ({"query": "Instruct: find it\nQuery: q"}, "query", "template"),
        ({"positive": ""}, "positive", "empty"),
        ({"positive": ["p", ""]}, "positive[1]", "empty"),
        ({"positive": {"text": "p"}}, "positive", "list of texts"),
        ({"positive": None}, "positives", "no positive"),
        ({"positive": []}, "positive", "no positive"),
        ({"positives": ["p"]}, "positive", "also positives"),
        ({"negatives": ["n", None]}, "negatives[1]", "missing"),
        ({"negatives": ["n", ["m"]]}, "negatives[1]", "list ['m']"),
        ({"negatives": ["n", "p "]}, "negatives[1]", "equal to a positive"),
        ({"scores": [1.0]}, "scores", "does not match"),
        ({"scores": 3}, "scores", "does not match"),
        ({"scores": [1.0, float("nan")]}, "scores[1]", "finite"),
        ({"scores": [float("inf"), 1]}, "scores[0]", "finite"),
        ({"scores": [10**400, 1]}, "scores[0]", "finite"),
        ({"scores": [True, 1]}, "scores[0]", "finite"),
        ({"scores": ["1", 1]}, "scores[0]", "finite"),
        ({"task": ""}, "task", "empty"),
        ({"source": 3}, "source", "int 3"),
        ({"instruction": ["x"]}, "instruction", "list"),
        ({"instruction": "Instruct: find it"}, "instruction", "template"),
        ({"negative": ["n"]}, "negative", "not a known field"),
    ],
)
def test_a_wrong_example_is_refused_by_the_name_of_its_field(change: dict[str, Any], field: str, reason: str) -> None:
    row = {"query": "q", "positive": "p", "negatives": ["n"]}
    TrainingExample.from_json(row)  # else the cases below would prove nothing
    with pytest.raises(InvalidExampleError) as error:
        TrainingExample.from_json(row | change)
    assert error.value.field == field
    assert reason in error.value.reason
    assert error.value.remedy


def test_an_unknown_field_is_answered_with_the_nearest_known() -> None:
    with pytest.raises(InvalidExampleError, match="Did you mean positive"):
        TrainingExample.from_json({"query": "q", "positve": "p"})


def test_a_wrapped_query_may_be_trained_on_as_it_is_when_the_line_says_so() -> None:
    row = {"query": "Instruct: find it\nQuery: q", "positive": "p", "instruction": ""}
    assert TrainingExample.from_json(row).query == row["query"]


def test_reranking_labels_are_checked_like_texts() -> None:
    example = RerankingExample(query="q", documents=("a", "b"), labels=(1, 0), instruction="judge")
    assert RerankingExample.from_json(example.to_json()) == example
    assert RerankingExample.from_json({"query": "q", "documents": ["a", "b"], "labels": [True, 0.0]}).labels == (1, 0)
    for labels, documents, field in (
        ([1], ["a", "b"], "labels"),
        ([1, 2], ["a", "b"], "labels[1]"),
        ([1, 0], ["a", "a"], "documents[1]"),
        ([], [], "documents"),
    ):
        with pytest.raises(InvalidExampleError) as error:
            RerankingExample.from_json({"query": "q", "documents": documents, "labels": labels})
        assert error.value.field == field


def test_a_training_example_judges_its_own_documents() -> None:
    example = RerankingExample.from_training(FULL)
    assert example.documents == FULL.positives + FULL.negatives
    assert example.labels == (1, 1, 0)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_what_is_written_reads_back_equal(tmp_path: Path, suffix: str) -> None:
    examples = [FULL, PLAIN, TrainingExample("q", ("p",), tuple("abc"), instruction="")] * 500
    path = tmp_path / "new" / f"train{suffix}"
    assert write_examples(path, iter(examples)) == len(examples)
    assert list(read_examples(path)) == examples


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_reranking_examples_read_back_equal_and_so_do_none(tmp_path: Path, suffix: str) -> None:
    examples = [RerankingExample("q", ("a", "b"), (0, 1)), RerankingExample("r", ("c",), (0,), "judge", "s")]
    assert write_examples(tmp_path / f"judged{suffix}", examples) == 2
    assert list(read_reranking_examples(tmp_path / f"judged{suffix}")) == examples
    assert write_examples(tmp_path / f"none{suffix}", []) == 0
    assert list(read_examples(tmp_path / f"none{suffix}")) == []


def test_a_line_is_readable_by_people(tmp_path: Path) -> None:
    write_examples(tmp_path / "train.jsonl", [TrainingExample("北京?", ("a\nb",))])
    text = (tmp_path / "train.jsonl").read_text(encoding="utf-8")
    assert text == '{"query": "北京?", "positives": ["a\\nb"], "task": "retrieval"}\n'


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_an_interrupted_file_leaves_the_old_one_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"train{suffix}"
    write_examples(path, [PLAIN])

    def interrupted() -> Iterator[TrainingExample]:
        yield FULL
        raise RuntimeError("out of power")

    with pytest.raises(RuntimeError, match="out of power"):
        write_examples(path, interrupted())
    assert list(read_examples(path)) == [PLAIN]
    assert [child.name for child in tmp_path.iterdir()] == [path.name]


def test_an_example_that_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"example 2 is not written: positives\[0\]: is empty"):
        write_examples(tmp_path / "train.jsonl", [PLAIN, TrainingExample("q", ("",))])
    assert not list(tmp_path.iterdir())


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.jsonl or \.parquet"):
        write_examples(tmp_path / "train.csv", [PLAIN])


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: not text.isspace())


@settings(max_examples=60, deadline=None)
@given(query=TEXTS, positive=TEXTS, negatives=st.lists(TEXTS, max_size=3))
def test_any_unicode_survives_both_formats(
    tmp_path_factory: pytest.TempPathFactory, query: str, positive: str, negatives: list[str]
) -> None:
    """Line and paragraph separators, emojis, newlines, NUL: a text is a text."""
    kept = tuple(text for text in negatives if text.strip() != positive.strip())
    marked = TrainingExample("\u2028" + query + "\U0001f600\r\n\x85", (positive + "\ufeff\x00",), kept)
    directory = tmp_path_factory.mktemp("unicode")
    for path in (directory / "train.jsonl", directory / "train.parquet"):
        write_examples(path, [marked, PLAIN])
        assert list(read_examples(path)) == [marked, PLAIN]
    escaped = json.dumps(marked.to_json())
    (directory / "escaped.jsonl").write_text(escaped + "\r\n" + escaped, encoding="ascii")
    assert list(read_examples(directory / "escaped.jsonl")) == [marked, marked]
