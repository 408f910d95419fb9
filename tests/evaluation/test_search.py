"""A search returns the nearest documents in order, and cached vectors are those that would be computed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qwen3emb_train.evaluation.search import Hit, SearchConfig, format_hits, search
from qwen3emb_train.index.inference import TextEncoder
from qwen3emb_train.models.precision import Precision
from tests.evaluation.tiny_set import write_tiny_set
from tests.tiny import make_tiny_model_directory


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model_directory(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_tiny_set(tmp_path / "set") / "corpus.jsonl"


def _config(model: Path, corpus: Path, **settings: Any) -> SearchConfig:
    settings = {"query": "Le chat dort sur le canapé.", "instruction": "", "precision": Precision.fp32} | settings
    return SearchConfig(model=str(model), corpus=str(corpus), **settings)


def test_a_document_is_found_by_its_own_text(model: Path, corpus: Path) -> None:
    hits = search(_config(model, corpus, top_k=2))
    assert [hit.rank for hit in hits] == [1, 2]
    assert (hits[0].id, hits[0].text) == ("d3", "Le chat dort sur le canapé.")
    assert hits[0].score == pytest.approx(1.0, abs=1e-5)
    assert hits[1].score < hits[0].score


def test_scores_are_cosines_of_the_truncated_vectors(model: Path, corpus: Path) -> None:
    hits = search(_config(model, corpus, dim=8, instruction="Find"))
    encoder = TextEncoder.load(str(model), precision="fp32")
    query = encoder.encode(["Instruct: Find\nQuery:Le chat dort sur le canapé."], dim=8)
    for hit in hits:
        assert hit.score == pytest.approx((query @ encoder.encode([hit.text], dim=8).T).item(), abs=1e-5)


def test_cached_vectors_give_the_same_hits_without_encoding_the_corpus(
    model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(model, corpus, cache_dir=str(tmp_path / "cache"))
    first = search(config)
    encoded: list[int] = []
    original = TextEncoder.encode

    def counted(self: TextEncoder, texts: list[str], **settings: Any) -> torch.Tensor:
        encoded.append(len(texts))
        return original(self, texts, **settings)

    monkeypatch.setattr(TextEncoder, "encode", counted)
    assert search(config) == first
    assert encoded == [1]


@pytest.mark.parametrize("damage", ["rows", "bytes", "nothing left"])
def test_a_short_cache_is_short_not_done(model: Path, corpus: Path, tmp_path: Path, damage: str) -> None:
    """A file with 4 of 11 vectors searched 4 documents."""
    config = _config(model, corpus, cache_dir=str(tmp_path / "cache"), top_k=3)
    first = search(config)
    (file,) = (tmp_path / "cache").iterdir()
    whole = file.read_bytes()
    if damage == "rows":
        np.save(file, np.load(file)[:1])
    else:
        file.write_bytes(whole[: len(whole) // 2 if damage == "bytes" else 0])
    assert search(config) == first
    assert file.read_bytes() == whole


def test_a_hit_cannot_command_the_terminal() -> None:
    shown = format_hits([Hit(1, 0.5, "d\x1b[2J", "before\x1b]0;owned\x07 \x9b31mafter \u202egnihton")])
    assert shown.isprintable()
    assert "\\x1b]0;owned\\x07 \\x9b31mafter \\u202egnihton" in shown


def test_one_file_of_the_cache_serves_every_dimension(model: Path, corpus: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    plain = [search(_config(model, corpus, dim=dim)) for dim in (None, 8)]
    assert [search(_config(model, corpus, dim=dim, cache_dir=cache)) for dim in (None, 8)] == plain
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("change", ["corpus", "model", "max_tokens"])
def test_the_cache_is_not_used_for_other_vectors(model: Path, corpus: Path, tmp_path: Path, change: str) -> None:
    cache = tmp_path / "cache"
    search(_config(model, corpus, cache_dir=str(cache)))
    settings: dict[str, Any] = {"max_tokens": {"max_tokens": 4}}.get(change, {})
    if change == "corpus":
        corpus.write_text(corpus.read_text(encoding="utf-8").replace("chat", "chien"), encoding="utf-8")
    if change == "model":
        model = make_tiny_model_directory(tmp_path / "other", seed=1)
    search(_config(model, corpus, cache_dir=str(cache), **settings))
    assert len(list(cache.iterdir())) == 2


def test_hits_are_printed_one_a_line() -> None:
    hits = [Hit(1, 0.98765, "d1", "two\nlines"), Hit(2, 0.5, "d2", "x" * 30)]
    assert format_hits(hits, width=10).splitlines() == [
        "  1  0.9877  d1  two lines",
        "  2  0.5000  d2  xxxxxxx...",
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"top_k": 0}, "top_k is 0"), ({"query": " "}, "query is empty"), ({"num_processes": 0}, "num_processes is 0")],
)
def test_bad_settings_are_refused_at_the_door(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchConfig(**({"model": "m", "corpus": "c", "query": "q"} | settings))
