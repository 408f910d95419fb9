"""Passages and personas are written once, atomically, and read back unchanged."""

import os
from pathlib import Path

import pytest

from data_synth.documents import DocumentsConfig
from data_synth.personas import PersonasConfig
from data_synth.preparation import PASSAGES_FILE, prepare_passages

BODY = "The ferry sails twice a day from May to September, and on Fridays only in winter, except in storms."


def sources(tmp_path: Path) -> dict[str, DocumentsConfig]:
    for name in ("one", "two"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "same.txt").write_text(BODY)
        (tmp_path / name / "own.txt").write_text(f"{BODY} This is {name}.")
        (tmp_path / name / "bad.txt").write_bytes(b"\xff\xfe\x00")
    return {name: DocumentsConfig(path=str(tmp_path / name)) for name in ("one", "two")}


def test_passages_are_streamed_back_with_personas_and_texts_occur_once(tmp_path: Path) -> None:
    prepared = prepare_passages(sources(tmp_path), PersonasConfig(), tmp_path / "out")
    passages = list(prepared)
    assert [(passage.source, passage.document) for passage in passages] == [
        ("one", "own.txt"), ("one", "same.txt"), ("two", "own.txt"),
    ]  # fmt: skip
    assert all(len(passage.personas) == 5 for passage in passages)
    assert list(prepared) == passages, "each iteration begins anew"
    reasons = [(entry.source, entry.reason) for entry in prepared.rejected()]
    assert reasons == [("one", "not_unicode"), ("two", "not_unicode"), ("two", "duplicate")]
    assert prepared.counts == {"passages": 3, "rejected": 3}


def test_what_is_up_to_date_is_not_written_again(tmp_path: Path) -> None:
    documents = sources(tmp_path)
    out = tmp_path / "out"
    prepare_passages(documents, None, out)
    os.utime(out / PASSAGES_FILE, ns=(1, 1))  # a mark that only a second writing removes
    assert len(list(prepare_passages(documents, None, out))) == 3
    assert (out / PASSAGES_FILE).stat().st_mtime_ns == 1
    (tmp_path / "one" / "own.txt").write_text(f"{BODY} Other.")
    assert len(list(prepare_passages(documents, None, out))) == 3
    (out / PASSAGES_FILE).write_text("")
    documents["one"].max_tokens = 99
    assert len(list(prepare_passages(documents, None, out))) == 3


def test_no_passage_at_all_is_an_error_that_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.txt").write_bytes(b"a\0b")
    documents = {"one": DocumentsConfig(path=str(tmp_path / "in"))}
    with pytest.raises(ValueError, match=r"bad\.txt: binary"):
        prepare_passages(documents, None, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
    with pytest.raises(FileNotFoundError, match=r"documents\.one\.path"):
        prepare_passages({"one": DocumentsConfig(path=str(tmp_path / "absent"))}, None, tmp_path / "out")
    with pytest.raises(ValueError, match="no source"):
        prepare_passages({}, None, tmp_path / "out")
