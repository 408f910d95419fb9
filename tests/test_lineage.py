"""Directories are whole or absent; digests see contents; records carry their parents."""

import os
import platform
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


def made(out: Path, source: Path) -> bool:
    def write(output: lineage.Output) -> dict[str, int]:
        (output.directory / "inner").mkdir()
        for name in ("a", "inner/b"):
            (output.directory / name).write_text(name * 10)
        return {}

    return lineage.produce("p", out, {}, {"in": source}, write)


def test_up_to_date_looks_at_the_output_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights cut to 1,000 bytes, or deleted, were 'up to date'."""
    (tmp_path / "in").write_text("x")
    out = tmp_path / "out"
    assert made(out, tmp_path / "in")
    assert not made(out, tmp_path / "in")
    (out / "inner" / "b").unlink()
    assert made(out, tmp_path / "in"), "what is missing is made again"
    assert (out / "inner" / "b").read_text() == "inner/b" * 10
    (out / "a").write_text("cut")
    with pytest.raises(ValueError, match=r"out/a: has 3 bytes, and p wrote 10"):  # a user may have edited it
        made(out, tmp_path / "in")
    (out / "a").unlink()
    assert made(out, tmp_path / "in")


def test_a_flipped_bit_is_named_by_its_digest(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("x")
    made(tmp_path / "out", tmp_path / "in")
    record = lineage.read_record(tmp_path / "out")
    assert record is not None
    lineage.require_unchanged(tmp_path / "out", record.digests)
    (tmp_path / "out" / "inner" / "b").write_text("inner/c" * 10)
    with pytest.raises(ValueError, match="inner/b: its bytes are not those that were written"):
        lineage.require_unchanged(tmp_path / "out", record.digests)


@pytest.mark.parametrize("content", ["{", "[]", '{"program": 1}', "[" * 10_000, '{"a": 1}', "\x00"])
def test_a_garbage_record_is_no_reason_to_delete_what_lies_beside_it(content: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run\.json: not a run record .*Move this one file away"):
        lineage.read_record(tmp_path)


def test_what_a_killed_writer_left_goes_with_the_next_one(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    left = tmp_path / f".a.{platform.node()}.{child}.tmp"
    others = [tmp_path / f".a.elsewhere.{child}.tmp", tmp_path / f".a.{platform.node()}.{os.getppid()}.tmp"]
    for path in (left, *others):
        path.write_text("half")
    lineage.write_text(tmp_path / "a", "whole")
    assert not left.exists()
    assert all(path.exists() for path in others), "they may still be written"


def test_a_pattern_has_the_digest_of_its_files(tmp_path: Path) -> None:
    """Data may be given as a pattern; a changed, a new and a removed file are all noticed."""
    for name in ("a.jsonl", "b.jsonl", "c.txt"):
        (tmp_path / name).write_text(name)
    pattern = tmp_path / "*.jsonl"
    found = [lineage.digest(pattern)]
    (tmp_path / "c.txt").write_text("of no concern")
    assert lineage.digest(pattern) == lineage.digest_cached(pattern, tmp_path / "notes") == found[0]
    (tmp_path / "a.jsonl").write_text("changed")
    found.append(lineage.digest_cached(pattern, tmp_path / "notes"))
    (tmp_path / "d.jsonl").write_text("new")
    found.append(lineage.digest_cached(pattern, tmp_path / "notes"))
    assert len(set(found)) == 3
    with pytest.raises(FileNotFoundError):
        lineage.digest(tmp_path / "*.parquet")
