"""Texts by id: bad lines are named, titles are joined, ids are optional for a corpus and required for a set."""

from pathlib import Path

import pytest

from qwen3emb_train.data.corpus import read_texts


def write(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_titles_stand_on_a_line_of_their_own_and_ids_may_be_missing(tmp_path: Path) -> None:
    path = write(tmp_path, '{"_id": "a", "title": "T", "text": "x"}', "", '{"text": "y"}', '{"id": 7, "text": "z"}')
    assert read_texts(path) == {"a": "T\nx", "line 3": "y", "7": "z"}
    with pytest.raises(ValueError, match=r"corpus.jsonl:3: field '_id' is None"):
        read_texts(path, ids_required=True)


@pytest.mark.parametrize("line", ['{"title": "no text"}', '{"text": 3}', "[1]", "{", '{"text": "a", "title": 3}'])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(ValueError, match=r"corpus\.jsonl:2: "):
        read_texts(write(tmp_path, '{"text": "fine"}', line))


def test_a_query_with_an_instruction_of_its_own_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, '{"text": "fine", "instruction": ""}', '{"text": "x", "instruction": "Find it"}')
    assert len(read_texts(path)) == 2  # a document may have such a column
    with pytest.raises(ValueError, match=r"corpus.jsonl:2: field 'instruction': .*sets.NAME.instruction"):
        read_texts(path, are_queries=True)


def test_an_id_twice_an_empty_file_and_no_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"corpus.jsonl:2: field '_id': 'a' occurs twice"):
        read_texts(write(tmp_path, '{"_id": "a", "text": "x"}', '{"_id": "a", "text": "y"}'))
    with pytest.raises(ValueError, match="holds no lines"):
        read_texts(write(tmp_path, ""))
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_texts(tmp_path / "absent.jsonl")
