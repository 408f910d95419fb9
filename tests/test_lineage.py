"""Directories are whole or absent; digests see contents; records carry their parents."""

import os
from pathlib import Path

import pytest

from qwen3emb_train import lineage
from qwen3emb_train.lineage import digests


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


def test_a_cached_digest_is_the_digest_and_reads_only_what_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, directory = tmp_path / "cache", tmp_path / "data"
    (directory / "inner").mkdir(parents=True)
    for name in ("a", "inner/b", "run.json"):
        (directory / name).write_text(name)
        os.utime(directory / name, (1, 1))
    read: list[str] = []

    original = digests.file_digest

    def counted(path: Path) -> str:
        read.append(path.name)
        return original(path)

    monkeypatch.setattr(digests, "file_digest", counted)
    assert lineage.digest_cached(directory, cache) == lineage.digest(directory)
    read.clear()
    assert lineage.digest_cached(directory, cache) == lineage.digest_cached(directory, cache)
    assert lineage.digest_cached(directory / "a", cache) == original(directory / "a")
    assert read == ["a"]  # asked for by itself it has notes of its own
    read.clear()
    (directory / "a").write_text("A")  # the same size
    assert lineage.digest_cached(directory, cache) != lineage.digest_cached(directory / "inner", cache)
    assert read == ["a", "b"]
    assert lineage.digest_cached(directory, cache) == lineage.digest(directory)
    (directory / "c").write_text("c")
    assert lineage.digest_cached(directory, cache) == lineage.digest(directory)
    (directory / "c").unlink()
    assert lineage.digest_cached(directory, cache) == lineage.digest(directory)


def test_a_file_changed_a_moment_ago_is_read_again(tmp_path: Path) -> None:
    """Its next change might leave the same time stamp."""
    file = tmp_path / "a"
    file.write_text("one")
    state = file.stat()
    first = lineage.digest_cached(file, tmp_path / "cache")
    file.write_text("two")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert lineage.digest_cached(file, tmp_path / "cache") != first


def test_verifying_reads_everything(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("one")
    os.utime(file, (1, 1))
    first = lineage.digest_cached(file, tmp_path / "cache")
    file.write_text("two")
    os.utime(file, (1, 1))
    assert lineage.digest_cached(file, tmp_path / "cache") == first  # the stated limit of the notes
    verified = lineage.digest_cached(file, tmp_path / "cache", verify=True)
    assert verified == lineage.digest(file) == lineage.digest_cached(file, tmp_path / "cache")


def test_damaged_notes_and_missing_files(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("one")
    os.utime(file, (1, 1))
    lineage.digest_cached(file, tmp_path / "cache")
    (notes,) = (tmp_path / "cache").iterdir()
    notes.write_text("{")
    assert lineage.digest_cached(file, tmp_path / "cache") == lineage.digest(file)
    with pytest.raises(FileNotFoundError, match="no such file or directory"):
        lineage.digest_cached(tmp_path / "absent", tmp_path / "cache")
