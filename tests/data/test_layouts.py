"""Invariants: every layout means the same examples; what it cannot mean is refused by the name the user's file has."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwen3emb_train.data.layouts import LAYOUTS
from qwen3emb_train.data.readers import BadLinesError, ReadingConfig, read_examples, read_reranking_examples
from qwen3emb_train.data.records import TrainingExample


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def passage(text: str) -> dict[str, str]:
    return {"docid": "7", "title": "", "text": text}


# Per layout the same three lines: no negatives, one, two. (Those after it with another name are variants.)
SAME: dict[str, list[dict[str, Any]]] = {
    "qwen3emb": [
        {"query": "q", "positive": "p"},
        {"query": "q", "positives": ["p"], "negatives": ["n"]},
        {"query": "q", "positive": "p", "negatives": ["n", "m"]},
    ],
    "sentence-transformers": [
        {"anchor": "q", "positive": "p", "id": 1},
        {"anchor": "q", "positive": "p", "negative": "n"},
        {"anchor": "q", "positive": "p", "negative_10": "m", "negative_2": "n"},
    ],
    "sentence-transformers, query": [
        {"query": "q", "positive": "p"},
        {"query": "q", "positive": "p", "negative_1": "n", "negative_2": None},
        {"query": "q", "positive": "p", "negative_1": "n", "negative_2": "m"},
    ],
    "sentence-transformers, query and answer": [
        {"query": "q", "answer": "p", "query_id": "1"},
        {"question": "q", "answer": "p", "negative": "n"},
        {"question": "q", "document": "p", "negative": ["n", "m"]},
    ],
    "FlagEmbedding": [
        {"query": "q", "pos": ["p"], "neg": [], "id": "1", "pos_scores": [], "neg_scores": []},
        {"query": "q", "pos": ["p"], "neg": ["n"], "type": "normal"},
        {"query": "q", "pos": "p", "neg": ["n", "m"]},
    ],
    "ms-swift": [
        {"messages": user("q"), "positive_messages": [user("p")]},
        {"messages": user("q"), "positive_messages": [user("p")], "negative_messages": [user("n")]},
        {
            "messages": [*user("earlier"), {"role": "assistant", "content": "a"}, *user("q")],
            "positive_messages": [[{"role": "assistant", "content": "p"}]],
            "negative_messages": [user("n"), user("m")],
        },
    ],
    "older ms-swift": [
        {"query": "q", "response": "p"},
        {"query": "q", "response": "p", "rejected_response": "n"},
        {"query": "q", "response": "p", "rejected_response": ["n", "m"]},
    ],
    "Tevatron": [
        {"query_id": "1", "query": "q", "positive_passages": [passage("p")], "negative_passages": []},
        {"query_id": "1", "query": "q", "positive_passages": [passage("p")], "negative_passages": [passage("n")]},
        {"query": "q", "positive_passages": [{"text": "p"}], "negative_passages": [passage("n"), {"text": "m"}]},
    ],
    "Automodel": [
        {"question_id": "1", "question": "q", "pos_doc": ["p"], "neg_doc": []},
        {"question": "q", "pos_doc": "p", "neg_doc": "n", "corpus_id": "c"},
        {"query": "q", "pos_doc": [{"text": "p"}], "neg_doc": ["n", "m"]},
    ],
}

EXAMPLES = [TrainingExample("q", ("p",), negatives) for negatives in ((), ("n",), ("n", "m"))]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_lines(tmp_path: Path, rows: list[dict[str, Any]], **config: Any) -> list[TrainingExample]:
    return list(read_examples(write_lines(tmp_path / "train.jsonl", rows), ReadingConfig(**config)))


def test_the_table_above_covers_every_layout() -> None:
    assert {layout.name for layout in LAYOUTS} <= SAME.keys()


@pytest.mark.parametrize("layout", SAME)
def test_all_layouts_mean_the_same_examples(tmp_path: Path, layout: str) -> None:
    assert read_lines(tmp_path, SAME[layout]) == EXAMPLES


@pytest.mark.parametrize("layout", SAME)
def test_parquet_means_what_json_lines_mean(tmp_path: Path, layout: str) -> None:
    """Ragged rows become nulls there, and lists stay lists (so a text in a list's place is written as one)."""
    rows = SAME[layout]
    lists = {name for row in rows for name, value in row.items() if isinstance(value, list)}
    rows = [
        {name: [row[name]] if name in lists and isinstance(row[name], str) else row[name] for name in row}
        for row in rows
    ]
    if layout == "Automodel":  # Arrow columns have one type
        rows = rows[:2]
    names = list(dict.fromkeys(name for row in rows for name in row))
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), tmp_path / "train.parquet")
    assert list(read_examples(tmp_path / "train.parquet")) == read_lines(tmp_path, rows)


def test_files_of_several_layouts_may_be_concatenated(tmp_path: Path) -> None:
    rows = [row for rows in SAME.values() for row in rows]
    assert len(read_lines(tmp_path, rows)) == len(rows)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {
                "query": "q",
                "pos": ["p", "r"],
                "neg": ["n"],
                "pos_scores": [1, 0.5],
                "neg_scores": [-1],
                "prompt": "Find",
            },
            TrainingExample("q", ("p", "r"), ("n",), instruction="Find", scores=(1.0, 0.5, -1.0)),
        ),
        (
            {"anchor": "q", "positive": "p", "negative": "n", "scores": [1, 0], "task": "qa", "source": "s"},
            TrainingExample("q", ("p",), ("n",), task="qa", source="s", scores=(1.0, 0.0)),
        ),
        (
            {
                "messages": [{"role": "system", "content": "Find"}, *user("q")],
                "positive_messages": [user("p"), user("r")],
            },
            TrainingExample("q", ("p", "r"), instruction="Find"),
        ),
        (
            {
                "query": "q",
                "positive_passages": [{"title": "T", "text": "p"}],
                "negative_passages": [],
                "language": "en",
            },
            TrainingExample("q", ("T p",), language="en"),
        ),
    ],
)
def test_scores_instructions_and_several_positives_arrive(
    tmp_path: Path, row: dict[str, Any], expected: TrainingExample
) -> None:
    assert read_lines(tmp_path, [row]) == [expected]


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ({"anchor": "q", "positive": "p", "negative_1": "n", "negative_3": ""}, "negative_3", "empty"),
        ({"anchor": "q", "positive": "p", "negative": "p"}, "negative", "equal to a positive"),
        ({"anchor": "q", "positive": "", "negative": "n"}, "positive", "empty"),
        ({"anchor": "q", "query": "q", "positive": "p", "negative": "n"}, "query", "same as anchor"),
        ({"anchor": "q", "positive": "p", "label": 0.2}, "label", "graded"),
        ({"anchor": "q", "positive": "p", "negatives": ["n"]}, "negatives", "not a known field"),
        ({"query": "q", "pos": [], "neg": ["n"]}, "pos", "no positive"),
        ({"query": "q", "pos": ["p", ""], "neg": []}, "pos[1]", "empty"),
        ({"query": "q", "pos": ["p"], "neg": ["n", "p"]}, "neg[1]", "equal to a positive"),
        ({"query": "q", "pos": 5, "pos_scores": [1]}, "pos", "list of texts"),
        ({"query": "q", "pos": ["p"], "negs": ["n"]}, "negs", "not a known field"),
        ({"query": "q", "pos": ["p"], "neg": ["n"], "pos_scores": [1]}, "pos_scores + neg_scores", "does not match"),
        ({"query": "q", "pos": ["p"], "pos_scores": [], "neg_scores": [1]}, "pos_scores", "0 for 1"),
        ({"query": "q", "pos": ["p"], "pos_scores": 1}, "pos_scores", "lists"),
        ({"query": "q", "pos": ["p"], "prompt": 1}, "instruction", "int 1"),
        ({"messages": "q", "positive_messages": [user("p")]}, "messages", "list of messages"),
        ({"messages": [], "positive_messages": [user("p")]}, "messages", "missing"),
        ({"messages": user("q"), "positive_messages": user("p")}, "positive_messages[0]", "list of messages"),
        ({"messages": user("q"), "positive_messages": [[]]}, "positive_messages[0]", "missing"),
        ({"messages": user("q"), "positive_messages": []}, "positive_messages", "no positive"),
        (
            {"messages": user("q"), "positive_messages": [[{"role": "system", "content": "x"}, *user("p")]]},
            "positive_messages[0]",
            "system message",
        ),
        ({"messages": user("q"), "positive_messages": [user("p")], "images": ["a.png"]}, "images", "not a known field"),
        ({"query": "q", "response": "p", "label": 0.8}, "label", "graded"),
        ({"query": "q", "positive_passages": [{"docid": "3"}]}, "positive_passages[0]", "no text"),
        ({"question": "q", "pos_doc": ["p"], "neg_doc": [{"id": "3"}]}, "neg_doc[0]", "no text"),
    ],
)
def test_a_line_is_refused_by_the_name_its_file_has(
    tmp_path: Path, row: dict[str, Any], field: str, reason: str
) -> None:
    with pytest.raises(BadLinesError) as error:
        read_lines(tmp_path, [row])
    (bad_line,) = error.value.bad_lines
    assert bad_line.field == field
    assert reason in bad_line.reason


def test_unknown_columns_are_listed_with_the_layouts_that_are_understood(tmp_path: Path) -> None:
    with pytest.raises(BadLinesError) as error:
        read_lines(tmp_path, [{"query": "q", "positve": "p"}] * 5)
    message = str(error.value)
    assert "train.jsonl:1: columns: the columns found are of no known layout: 'positve', 'query'" in message
    assert "'positve' looks like 'positive'" in message
    for layout in LAYOUTS:
        assert layout.name in message
    assert len(error.value.bad_lines) == 1  # the other four would say the same


def test_what_a_later_line_lacks_is_named_in_the_layout_of_its_file(tmp_path: Path) -> None:
    with pytest.raises(BadLinesError, match=r"train\.jsonl:2: pos: there is no positive"):
        read_lines(tmp_path, [{"query": "q", "pos": ["p"], "neg": []}, {"query": "q", "neg": ["n"]}])


def test_a_refused_line_does_not_change_how_the_next_is_read(tmp_path: Path) -> None:
    """A line of another layout with an unknown column must not leave its layout behind."""
    good = {"query": "q", "pos": ["p"], "neg": ["n"]}
    bad = {"query": "q", "response": "p", "stray": 1}
    with pytest.raises(BadLinesError) as error:
        read_lines(tmp_path, [good, bad, good, good])
    assert [bad_line.line for bad_line in error.value.bad_lines] == [2]


def test_a_null_column_of_the_first_row_still_says_the_layout(tmp_path: Path) -> None:
    with pytest.raises(BadLinesError, match=r"train\.jsonl:1: pos: there is no positive"):
        read_lines(tmp_path, [{"query": "q", "pos": None, "neg": ["n"]}])


@pytest.mark.parametrize("row", [{"query": "q", "positive": "p"}, {"anchor": "q", "positive": "p"}])
def test_columns_may_be_ignored_by_name(tmp_path: Path, row: dict[str, Any]) -> None:
    with pytest.raises(BadLinesError, match="ignored_columns"):
        read_lines(tmp_path, [row | {"difficulty": 3}])
    assert read_lines(tmp_path, [row | {"difficulty": 3}], ignored_columns=["difficulty"])


@pytest.mark.parametrize(
    "written", ["['a', 'b']", "['a' 'b']", '["a", null]', "array(['a'\n 'b'], dtype=object)", "[['a']]"]
)
@pytest.mark.parametrize(
    "columns", [("query", "positive"), ("query", "pos"), ("anchor", "positive"), ("query", "positive_passages")]
)
def test_a_list_written_as_text_is_refused_and_not_trained_as_a_text(
    tmp_path: Path, columns: tuple[str, str], written: str
) -> None:
    """What pandas makes of a list in a CSV file."""
    path = write_lines(tmp_path / "a.jsonl", [dict(zip(columns, ("q", written), strict=True))])
    with pytest.raises(BadLinesError, match=rf"a.jsonl:1: {columns[1]}: is a list written as text"):
        list(read_examples(path))


@pytest.mark.parametrize("name", ["negatives", "negative", "negative_2", "neg"])
def test_so_are_negatives(tmp_path: Path, name: str) -> None:
    row = {"query": "q", "pos" if name == "neg" else "positive": "p", name: "['n', 'm']"}
    more = {"negative_1": "n"} if name == "negative_2" else {}
    with pytest.raises(BadLinesError, match=rf"{name}: is a list written as text"):
        list(read_examples(write_lines(tmp_path / "a.jsonl", [row | more])))


@pytest.mark.parametrize(
    "text", ["[1, 2, 3]", "[x for x in 'abc']", "[a]['b']", "[ -f 'file' ]", "['a', 'b'", "[a](b)"]
)
def test_a_text_with_brackets_is_a_text(tmp_path: Path, text: str) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"query": "q", "positive": text}])
    assert list(read_examples(path)) == [TrainingExample("q", (text,))]


def test_a_text_that_looks_like_a_list_is_taken_from_a_list_of_one(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"query": "q", "positives": ["['a']"]}])
    assert list(read_examples(path)) == [TrainingExample("q", ("['a']",))]


@pytest.mark.parametrize("layout", SAME)
def test_identifiers_are_ignored_in_every_layout(tmp_path: Path, layout: str) -> None:
    names = ("id", "_id", "ID", "Unnamed: 0", "Unnamed: 0.1", "__index_level_0__", "", "level_0", "doc_id", "uuid")
    rows = [row | dict.fromkeys(names, 7) for row in SAME[layout]]
    assert list(read_examples(write_lines(tmp_path / "a.jsonl", rows))) == EXAMPLES
    judged = {"query": "q", "documents": ["d"], "labels": [1]} | dict.fromkeys(names, 7)
    assert next(read_reranking_examples(write_lines(tmp_path / "b.jsonl", [judged]))).documents == ("d",)
