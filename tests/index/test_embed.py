"""The program ``embed``: a corpus file in, the same store out whoever does the work."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from qwen3emb_train import lineage
from qwen3emb_train.cli.front_door import main
from qwen3emb_train.data.corpus import read_texts
from qwen3emb_train.index.embed import EmbedCorpusConfig, EmbedEngine, Progress, check_corpus, embed
from qwen3emb_train.index.inference import TextEncoder
from qwen3emb_train.index.vector_store import VectorStore
from qwen3emb_train.models.precision import Precision
from tests.index.store_setup import contents, make_texts


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Half of the documents have titles; a blank line; no id in the last line."""
    lines = [
        json.dumps({"_id": text_id, "text": text} | ({"title": f"Title {number}"} if number % 2 else {}))
        for number, (text_id, text) in enumerate(make_texts(22))
    ]
    (tmp_path / "corpus.jsonl").write_text("\n".join([*lines[:5], "", *lines[5:], json.dumps({"text": "nameless"})]))
    return tmp_path / "corpus.jsonl"


def _config(corpus: Path, model: Path, output: str = "vectors", **settings: Any) -> EmbedCorpusConfig:
    return EmbedCorpusConfig(
        model=str(model),
        corpus=str(corpus),
        output_dir=str(corpus.parent / output),
        **({"rows_per_shard": 4, "precision": Precision.fp32} | settings),
    )


def _without_record(directory: Path) -> dict[str, bytes]:
    """``run.json`` holds the time."""
    return {name: content for name, content in contents(directory).items() if name != lineage.RUN_FILE}


def test_the_store_holds_the_corpus_with_its_titles(corpus: Path, tiny_qwen3: Path) -> None:
    store = VectorStore.open(embed(_config(corpus, tiny_qwen3)))
    texts = read_texts(corpus)
    assert store.ids() == list(texts)
    assert store.ids()[-1] == "line 24"
    expected = TextEncoder.load(str(tiny_qwen3), precision="fp32").encode(list(texts.values()))
    torch.testing.assert_close(store.rows(0, 23), expected, atol=1e-6, rtol=1e-5)


def test_the_command_makes_a_store_and_says_where_it_came_from(
    corpus: Path, tiny_qwen3: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = corpus.parent / "out"
    command = ["embed", f"model={tiny_qwen3}", f"corpus={corpus}", f"output_dir={output}", "dim=8", "dtype=binary"]
    assert main(command) == 0
    assert f"embedded: {output}" in capsys.readouterr().out
    store, record = VectorStore.open(output), lineage.read_record(output)
    assert (store.num_rows, store.dim) == (23, 8)
    assert record is not None
    assert record.program == "embed"
    assert record.metrics == {"num_rows": 23, "dim": 8, "fingerprint": store.fingerprint}
    assert record.inputs == {"corpus": lineage.digest(corpus), "model": lineage.digest(tiny_qwen3)}
    written = (output / "run.json").stat().st_ino
    assert main([*command, "num_processes=3", "verify=true"]) == 0
    assert (output / "run.json").stat().st_ino == written, "nothing was made, so the record stays"

    corpus.write_text(corpus.read_text().replace("nameless", "Nameless"))
    assert main(command) == 2
    assert "the text of document 'line 24' has changed" in capsys.readouterr().err
    assert main([*command, "overwrite=true"]) == 0
    assert (output / "run.json").stat().st_ino != written


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"_id": "x"}', "corpus.jsonl:25: field 'text'"),
        ('{"_id": "d3", "text": "x"}', "corpus.jsonl:25: field '_id': 'd3' occurs twice"),
        ("{", "corpus.jsonl:25: line: is not JSON"),
    ],
)
def test_a_bad_last_line_is_found_before_anything_is_encoded(
    corpus: Path, tiny_qwen3: Path, line: str, named: str
) -> None:
    corpus.write_text(corpus.read_text() + "\n" + line)
    with pytest.raises(ValueError, match=named):
        embed(_config(corpus, tiny_qwen3))
    assert not (corpus.parent / "vectors").exists()


def test_equal_hashes_of_different_ids_are_no_duplicates(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen3emb_train.index.embed.text_hash", lambda text_id: len(text_id))
    assert check_corpus(corpus) == 23


def test_missing_inputs_are_named(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.jsonl: no such file"):
        embed(_config(tmp_path / "no.jsonl", tmp_path / "missing"))
    with pytest.raises(FileNotFoundError, match=r"model .*missing: no such directory"):
        embed(_config(corpus, tmp_path / "missing"))


def test_progress_is_the_first_ranks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Progress(10, interval=0.0)(4)
    assert "embedded 4 texts now, of 10 in the corpus" in capsys.readouterr().out
    Progress(10, interval=60.0)(4)
    monkeypatch.setenv("RANK", "1")
    Progress(10, interval=0.0)(4)
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_ray_makes_the_same_store_and_continues_one(corpus: Path, tiny_qwen3: Path) -> None:
    """A local Ray with two actors finishes a store that processes began, and remakes none of its shards."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'qwen3emb-train[ray]'")
    whole = embed(_config(corpus, tiny_qwen3, "whole"))
    begun = Path(shutil.copytree(whole, corpus.parent / "begun"))
    for gone in ("store.json", "run.json"):
        (begun / gone).unlink()
    for number in (0, 2, 3, 5):
        shutil.rmtree(begun / f"shard_0000{number}")
    kept = {number: (begun / f"shard_0000{number}" / "shard.json").stat().st_ino for number in (1, 4)}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80 * 2**20)
    try:
        embed(_config(corpus, tiny_qwen3, "begun", engine=EmbedEngine.ray, num_processes=2))
        assert embed(_config(corpus, tiny_qwen3, "begun", engine=EmbedEngine.ray)) == begun, (
            "a complete one needs no actor"
        )
    finally:
        ray.shutdown()
    assert _without_record(begun) == _without_record(whole)
    assert {n: (begun / f"shard_0000{n}" / "shard.json").stat().st_ino for n in kept} == kept


def test_without_ray_the_remedy_is_named(corpus: Path, tiny_qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ImportError, match=r"qwen3emb-train\[ray\]"):
        embed(_config(corpus, tiny_qwen3, engine=EmbedEngine.ray))
