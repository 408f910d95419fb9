"""A name of the hub becomes files of datasets' cache; where it cannot, one line says so."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qwen3emb_train.data.readers import read_examples
from qwen3emb_train.data.records import TrainingExample
from qwen3emb_train.data.rows import source_path

datasets = pytest.importorskip("datasets")
ROWS = [{"query": f"q{number}", "positive": f"p{number}"} for number in range(4)]


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the hub is asked for; it holds one data set in two files, and other splits beside it."""
    calls: list[Any] = []
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "[cache]", num_shards=2)
    files = sorted((tmp_path / "[cache]").glob("*.arrow"))
    named = [file.rename(file.with_name(f"set-train-{number:05d}-of-00002.arrow")) for number, file in enumerate(files)]
    (tmp_path / "[cache]" / "set-test.arrow").write_bytes(b"another split")

    def load(name: str, configuration: str | None, split: str) -> SimpleNamespace:
        calls.append((name, configuration, split))
        return SimpleNamespace(cache_files=[{"filename": str(file)} for file in named])

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.chdir(tmp_path)
    return calls


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("org/some-set", ("org/some-set", None, "train")),
        ("org/some-set:test", ("org/some-set", None, "test")),
        ("org/some-set:en:dev", ("org/some-set", "en", "dev")),
    ],
)
def test_a_name_means_a_split_of_a_data_set(name: str, meant: Any, asked: list[Any]) -> None:
    found = [example.query for example in read_examples(source_path(name))]
    assert (asked, found) == ([meant], ["q0", "q1", "q2", "q3"])


@pytest.mark.parametrize(
    "name", ["missing.jsonl", "here/missing", "a/b/c", "missing", "org/set.csv", "../org/set", "/org/set"]
)
def test_a_path_is_never_asked_for(name: str, asked: list[Any], tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    assert (source_path(name), asked) == (Path(name), [])
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_examples(source_path(name))


def test_what_exists_is_read_from_there(asked: list[Any], tmp_path: Path) -> None:
    (tmp_path / "org" / "set").mkdir(parents=True)
    (tmp_path / "org" / "set" / "a.csv").write_text("query,positive\nq,p\n")
    assert list(read_examples(source_path("org/set"))) == [TrainingExample("q", ("p",))]
    assert asked == []


def test_without_a_network_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach 'org/set' on the Hub\n(OfflineModeIsEnabled)")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(FileNotFoundError, match=r"org/set: no such file .* \(OfflineModeIsEnabled\)\. Check") as error:
        source_path("org/set")
    assert "\n" not in str(error.value)
