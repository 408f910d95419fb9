"""Directories are whole or absent; digests see contents; records carry their parents."""

from pathlib import Path

import pytest

from qwen3emb_train import lineage


def test_a_failed_directory_leaves_nothing_and_keeps_the_old_one(tmp_path: Path) -> None:
    final = tmp_path / "out"
    with lineage.atomic_directory(final) as temporary:
        (temporary / "a").write_text("old")
        assert not final.exists()

    def fail_half_way() -> None:
        with lineage.atomic_directory(final) as temporary:
            (temporary / "a").write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert (final / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_stop_between_the_two_renames_is_mended(tmp_path: Path) -> None:
    final = tmp_path / "out"
    with lineage.atomic_directory(final) as temporary:
        (temporary / "a").write_text("old")
    final.rename(tmp_path / ".out.replaced")  # what a kill at that moment leaves
    with pytest.raises(RuntimeError), lineage.atomic_directory(final):
        raise RuntimeError
    assert (final / "a").read_text() == "old"


def test_digests_depend_on_contents_and_names_not_on_the_run_record(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_text("1")
    first = lineage.digest(tmp_path / "d")
    lineage.write_text(tmp_path / "d" / "run.json", "{}")
    assert lineage.digest(tmp_path / "d") == first
    (tmp_path / "d" / "a").rename(tmp_path / "d" / "b")
    assert lineage.digest(tmp_path / "d") != first
    with pytest.raises(FileNotFoundError, match="no such file or directory"):
        lineage.digest(tmp_path / "none")


def test_up_to_date_means_same_program_config_and_contents(tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_text("x")
    out = tmp_path / "out"
    out.mkdir()
    assert not lineage.is_up_to_date(out, "p", {"a": 1}, {"in": source})
    lineage.write_record(out, lineage.new_record("p", {"a": 1}, {"in": source}, score=0.5))
    assert lineage.is_up_to_date(out, "p", {"a": 1}, {"in": source})
    assert not lineage.is_up_to_date(out, "q", {"a": 1}, {"in": source})
    assert not lineage.is_up_to_date(out, "p", {"a": 2}, {"in": source})
    source.write_text("y")
    assert not lineage.is_up_to_date(out, "p", {"a": 1}, {"in": source})


def test_a_record_carries_its_ancestors(tmp_path: Path) -> None:
    parent = tmp_path / "parent" / "model"
    parent.mkdir(parents=True)
    lineage.write_record(tmp_path / "parent", lineage.new_record("train", {}, {}, loss=1.0))
    record = lineage.new_record("merge", {}, {"model": parent})
    assert record.parents["model"]["program"] == "train"
    assert "torch" in record.environment["versions"]
