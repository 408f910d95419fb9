"""Writing a store: the same bytes whatever the number of processes, and nothing left of a failure."""

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qwen3emb_train.data import store_parts, store_writing
from qwen3emb_train.data.readers import BadLinesError, ReadingConfig
from qwen3emb_train.data.records import TrainingExample, write_examples
from qwen3emb_train.data.shared_work import Claim, publish, unique_directory
from qwen3emb_train.data.token_store import TokenStore, open_token_store
from qwen3emb_train.data.tokenization import TextTokenizer, load_tokenizer, text_hash

LANGUAGES = ["", "fr", "de", "en"]


@pytest.fixture
def tokenizer(tiny_qwen3: Path) -> TextTokenizer:
    return load_tokenizer(str(tiny_qwen3))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Five shards, JSON Lines and Parquet; languages appear in another order in each, scores in one of them only."""
    for shard in range(5):
        examples = [
            TrainingExample(
                f"query {shard} {row}",
                (f"positive {row}",) * (1 + row % 2),
                tuple(f"negative {row} {n}" for n in range(row % 3)),
                language=LANGUAGES[(shard * 3 + row) % 4],
                scores=tuple(float(row + n) for n in range(1 + row % 2 + row % 3)) if shard == 3 else None,
            )
            for row in range(7 + shard)
        ]
        write_examples(tmp_path / "shards" / f"{shard}.{'parquet' if shard % 2 else 'jsonl'}", examples)
    return tmp_path / "shards"


@pytest.fixture
def cut_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a few lines."""
    monkeypatch.setattr(store_writing, "_PART_BYTES", 700)


def files_of(store: TokenStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.directory.iterdir()}


@pytest.mark.usefixtures("cut_small")
def test_the_bytes_do_not_depend_on_the_number_of_processes(
    tokenizer: TextTokenizer, shards: Path, tmp_path: Path
) -> None:
    bad = '{"query": "a", "positive": ""}\n'
    (shards / "0.jsonl").write_text(bad + (shards / "0.jsonl").read_text())
    (shards / "4b.jsonl").write_text(bad + bad)  # a shard without a good line
    reading = ReadingConfig(skip_bad_lines=True)
    one = open_token_store(shards, tokenizer, tmp_path / "one", reading=reading, processes=1)
    two = open_token_store(shards, tokenizer, tmp_path / "two", reading=reading, processes=2)
    assert files_of(one) == files_of(two)
    assert set(files_of(one)) == {
        "meta.json", "rejected.jsonl", "ids.bin", "text_ends.bin", "text_hashes.bin", "row_ends.bin",
        "num_positives.bin", "scores.bin", "languages.bin",
    }  # fmt: skip
    assert len(files_of(one)["rejected.jsonl"].splitlines()) == 3
    assert one.num_rows == 7 + 8 + 9 + 10 + 11
    assert one.row_ends[-1] == len(one.text_ends) == len(one.text_hashes)
    assert one.text_ends[-1] == len(one.ids)
    assert one.scores is not None
    assert one.scores[~np.isnan(one.scores)].tolist() == [
        float(row + n) for row in range(10) for n in range(1 + row % 2 + row % 3)
    ]
    assert one.languages is not None
    assert [one.language_names[number] for number in one.languages] == [
        LANGUAGES[(shard * 3 + row) % 4] for shard in range(5) for row in range(7 + shard)
    ]
    rows = one.row_spans(np.array([0, 7, 44]))[0]  # first of shards 0 and 1, last of 4
    for text, expected in zip(rows.tolist(), ["query 0 0", "query 1 0", "query 4 10"], strict=True):
        assert one.text_hashes[text] == text_hash(expected)
        start, length = (int(part[0]) for part in one.text_spans(np.array([text])))
        assert one.ids[start : start + length].tolist() == tokenizer.tokenize_without_eos([expected])[0]


def test_rows_are_the_same_when_they_come_in_many_small_pieces(
    tokenizer: TextTokenizer, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = open_token_store(shards, tokenizer, tmp_path / "whole")
    monkeypatch.setattr(store_parts, "_ROWS_AT_ONCE", 3)
    monkeypatch.setattr(store_parts, "_VALUES_AT_ONCE", 5)
    assert files_of(open_token_store(shards, tokenizer, tmp_path / "pieces")) == files_of(whole)


@pytest.mark.usefixtures("cut_small")
def test_a_bad_line_in_another_process_is_reported_as_ever_and_leaves_nothing(
    tokenizer: TextTokenizer, shards: Path, tmp_path: Path
) -> None:
    (shards / "2.jsonl").write_text(json.dumps({"query": "q", "positive": ""}) + "\n")
    with pytest.raises(BadLinesError, match=r"2.jsonl:1: positive: is empty") as caught:
        open_token_store(shards, tokenizer, tmp_path / "cache", processes=2)
    assert caught.value.bad_lines[0].line == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] in ([], ["digests"])


def test_a_source_of_bad_lines_only_is_refused(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"query": "a", "positive": ""}\n')
    with pytest.raises(ValueError, match="no training example"):
        open_token_store(
            tmp_path / "rows.jsonl", tokenizer, tmp_path / "cache", reading=ReadingConfig(skip_bad_lines=True)
        )


def one_file(path: Path, rows: int = 200, bad: tuple[int, ...] = ()) -> Path:
    """Lines of uneven length, blank ones among them; ``bad``: line numbers without a positive."""
    lines = [
        json.dumps(
            {"query": f"q {row}", "positive": "" if row + 1 in bad else "x\u2028 " * (row % 23)} | {"language": "de"}
        )
        if row % 17 or row + 1 in bad
        else ""
        for row in range(rows)
    ]
    lines = [
        line.replace('"x', '"text x') if '"positive": ""' not in line or i + 1 in bad else ""
        for i, line in enumerate(lines)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("part_bytes", [97, 700, 2000])
def test_one_file_cut_into_parts_gives_the_bytes_of_the_whole(
    tokenizer: TextTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part_bytes: int
) -> None:
    source = one_file(tmp_path / "rows.jsonl", 60, bad=(2, 30, 31, 55))
    reading = ReadingConfig(skip_bad_lines=True)
    whole = open_token_store(source, tokenizer, tmp_path / "whole", reading=reading)
    monkeypatch.setattr(store_writing, "_PART_BYTES", part_bytes)
    assert len(store_writing._parts([source])) > 1
    cut = open_token_store(source, tokenizer, tmp_path / "cut", reading=reading, processes=1)
    assert files_of(cut) == files_of(whole)
    rejected = [json.loads(line) for line in files_of(cut)["rejected.jsonl"].splitlines()]
    assert [line["line"] for line in rejected] == [2, 30, 31, 55]
    assert sorted(path.name for path in (tmp_path / "cut").iterdir() if path.name != "digests") == [cut.directory.name]


@pytest.mark.usefixtures("cut_small")
def test_a_bad_line_of_a_later_part_is_named_by_its_line_in_the_file(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    source = one_file(tmp_path / "rows.jsonl", bad=(150,))
    with pytest.raises(BadLinesError, match=r"rows.jsonl:150: positive: is empty"):
        open_token_store(source, tokenizer, tmp_path / "cache", processes=1)


def open_at_once(source: str, model: str, cache: str, barrier, found) -> None:  # type: ignore[no-untyped-def]
    store_writing._PART_BYTES = 20_000
    tokenizer = load_tokenizer(model)
    barrier.wait()
    store = open_token_store(Path(source), tokenizer, Path(cache), processes=1)
    found.put((store.num_rows, len(store.ids)))


def test_processes_that_want_a_store_at_once_make_it_together(
    tokenizer: TextTokenizer, tiny_qwen3: Path, tmp_path: Path
) -> None:
    """Eight ranks of a host whose cache nobody filled: each used to write over the others."""
    source = tmp_path / "rows.jsonl"
    source.write_text(
        "".join(json.dumps({"query": f"what is {i}", "positive": f"t {i} " * 6}) + "\n" for i in range(4000))
    )
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(2), context.Queue()
    arguments = (str(source), str(tiny_qwen3), str(tmp_path / "cache"), barrier, found)
    processes = [context.Process(target=open_at_once, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    opened = [found.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    alone = open_token_store(source, tokenizer, tmp_path / "alone")
    assert opened == [(4000, len(alone.ids))] * 2
    (store,) = (path for path in (tmp_path / "cache").iterdir() if path.name != "digests")
    assert {path.name: path.read_bytes() for path in store.iterdir()} == files_of(alone)


@pytest.mark.parametrize("name", ["ids", "text_ends", "text_hashes", "row_ends", "num_positives"])
def test_a_store_that_is_short_is_named_and_never_used(
    tokenizer: TextTokenizer, shards: Path, tmp_path: Path, name: str
) -> None:
    store = open_token_store(shards, tokenizer, tmp_path / "cache")
    file = store.directory / f"{name}.bin"
    file.write_bytes(file.read_bytes()[:-16])
    with pytest.raises(ValueError, match=r"damaged token store of .* of .* numbers.*Delete it"):
        open_token_store(shards, tokenizer, tmp_path / "cache")


def test_finished_parts_of_a_killed_process_are_kept_and_its_claims_fall_to_the_next(
    tokenizer: TextTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_writing, "_PART_BYTES", 700)
    source = one_file(tmp_path / "rows.jsonl")
    num_parts = len(store_writing._parts([source]))
    written = []
    real = store_writing.write_part

    def killed(directory, spans, how, tick):  # type: ignore[no-untyped-def]
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(spans)
        real(directory, spans, how, tick)

    with monkeypatch.context() as context:
        context.setattr(store_writing, "write_part", killed)
        context.setattr(Claim, "release", lambda self: None)  # as SIGKILL leaves it
        context.setattr(store_writing.shutil, "rmtree", lambda *args, **kwargs: None)
        with pytest.raises(KeyboardInterrupt):
            open_token_store(source, tokenizer, tmp_path / "cache", processes=1)
    for claim in (tmp_path / "cache").rglob("part_*.claim"):
        claim.write_text(json.dumps({"host": os.uname().nodename, "pid": dead_pid(), "started": "1"}))
    for claim in (tmp_path / "cache" / "digests").glob("*.claim"):
        claim.unlink()
    monkeypatch.setattr(store_writing, "write_part", lambda *args: (written.append(args[1]), real(*args)))
    again = open_token_store(source, tokenizer, tmp_path / "cache", processes=1)
    assert len(written) == num_parts
    assert files_of(again) == files_of(open_token_store(source, tokenizer, tmp_path / "alone", processes=1))


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_claim_is_held_by_the_living_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = Claim(tmp_path / "work" / "piece.claim")
    assert claim.take()
    assert not claim.take()
    assert claim.is_held()
    owner = json.loads(claim.path.read_text())
    claim.path.write_text(json.dumps(owner | {"started": "0"}))  # the process id was given out again
    assert not claim.is_held()
    claim.path.write_text(json.dumps(owner | {"host": "elsewhere"}))
    assert claim.is_held()
    os.utime(claim.path, (1, 1))
    assert not claim.is_held()
    assert claim.take()
    claim.release()
    assert not claim.is_held()


def test_what_is_published_first_stays(tmp_path: Path) -> None:
    first, second = unique_directory(tmp_path, "x"), unique_directory(tmp_path, "x")
    for number, directory in enumerate((first, second)):
        (directory / "file").write_text(str(number))
    assert publish(first, tmp_path / "x")
    assert not publish(second, tmp_path / "x")
    assert (tmp_path / "x" / "file").read_text() == "0"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
