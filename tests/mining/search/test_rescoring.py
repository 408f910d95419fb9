"""A cross-encoder's scores decide, are kept, and survive a change of nothing; a yes/no reranker uses instructions."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from qwen3emb_train.data.readers import read_examples
from qwen3emb_train.data.records import TrainingExample, write_examples
from qwen3emb_train.export.cross_encoder import ExportRerankerConfig, RerankerDtype, export_reranker
from qwen3emb_train.mining.config import MiningConfig, Sampling
from qwen3emb_train.mining.negatives import mine_negatives
from qwen3emb_train.models.precision import Precision
from tests.index.reranker_reference import WEB_SEARCH, PlainReranker
from tests.tiny import (
    make_tiny_causal_lm_directory,
    make_tiny_model_directory,
    make_tiny_tokenizer,
    tiny_config,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model_directory(tmp_path_factory.mktemp("model"))


def _make_cross_encoder(path: Path, num_labels: int = 1) -> Path:
    from transformers import AutoModelForSequenceClassification

    path.mkdir(exist_ok=True)
    config = tiny_config("llama", make_tiny_tokenizer(path), 1, 32)
    config.num_labels = num_labels
    with torch.random.fork_rng():
        torch.manual_seed(3)
        cross_encoder = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
        for parameter in cross_encoder.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.15)
    cross_encoder.save_pretrained(path)
    return path


def _examples() -> list[TrainingExample]:
    words = ["cat", "dog", "list", "tree", "river", "Berlin", "query", "fox"]
    return [TrainingExample(f"what is a {word}", (f"A {word} is a thing called {word}.",), ("own",)) for word in words]


def _mine(
    model: Path, directory: Path, examples: Sequence[TrainingExample] | None = None, **settings: Any
) -> list[TrainingExample]:
    write_examples(directory / "in.jsonl", _examples() if examples is None else examples)
    config = MiningConfig(
        model=str(model), examples=str(directory / "in.jsonl"), output_dir=str(directory / "out"), num_negatives=3,
        rank_to=5, precision=Precision.fp32, sampling=Sampling.top, keep_negatives=True, **settings,
    )  # fmt: skip
    return list(read_examples(mine_negatives(config) / "examples.jsonl"))


def test_the_rerankers_scores_decide_and_are_written_for_distillation(model: Path, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    path = _make_cross_encoder(tmp_path / "cross_encoder")
    mined = _mine(model, tmp_path, reranker=str(path), bm25_share=0.5, max_relative_score=None, queries_per_block=3)
    cross_encoder = CrossEncoder(str(path), device="cpu", max_length=512)
    for example, line in zip(mined, (tmp_path / "out/provenance.jsonl").open(), strict=True):
        documents = [*example.positives, *example.negatives]
        scores = cross_encoder.predict([(example.query, document) for document in documents], show_progress_bar=False)
        assert example.scores == pytest.approx(scores.tolist(), abs=2e-5)
        described = json.loads(line)
        assert tuple(one["reranker"] for one in described["positives"] + described["negatives"]) == example.scores
        assert described["negatives"][0]["source"] == "own"
        mined_scores = list(example.scores[2:])
        assert mined_scores == sorted(mined_scores, reverse=True)
    # The limit is on these scores, not on the cosines.
    limit = sorted(example.scores[0] for example in mined if example.scores)[4] + 1e-5
    kept = _mine(model, tmp_path, reranker=str(path), max_relative_score=None, min_positive_score=limit)
    assert len(kept) == 3


def test_a_reranker_with_several_scores_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cross_encoder: gives 3 scores"):
        _mine(model, tmp_path, reranker=str(_make_cross_encoder(tmp_path / "cross_encoder", 3)))


@pytest.fixture(scope="module")
def causal_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_causal_lm_directory(tmp_path_factory.mktemp("model") / "reranker", num_layers=1)


@pytest.fixture(scope="module")
def exported(causal_lm: Path) -> Path:
    settings = {"dtype": RerankerDtype.float32, "instruction": "Judge by topic", "verify": False}
    return export_reranker(
        ExportRerankerConfig(model=str(causal_lm), output_dir=str(causal_lm.with_name("export")), **settings)
    )


@pytest.mark.parametrize("kind", ["causal_lm", "exported"])
def test_a_yes_no_reranker_judges_by_each_querys_instruction(
    model: Path, kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row's own; else the mining's; where that is none, the reranker's. Sentence-Transformers is not asked."""
    import sentence_transformers

    path = request.getfixturevalue(kind)
    monkeypatch.setattr(sentence_transformers, "CrossEncoder", None)
    instructions = ["Find the animal", None, "", "Find the thing", None, None, "Find the animal", None]
    examples = [
        replace(example, instruction=instruction)
        for example, instruction in zip(_examples(), instructions, strict=True)
    ]
    mined = _mine(
        model, tmp_path, examples, reranker=str(path), max_relative_score=None, instruction="Find what is asked for",
        queries_per_block=5, max_tokens=190, tokens_per_batch=2000,
    )  # fmt: skip
    plain = PlainReranker(path, 190)  # the longest lose some tokens
    own = WEB_SEARCH if kind == "causal_lm" else "Judge by topic"
    assert len(mined) == 8
    for example, given in zip(mined, instructions, strict=True):
        assert example.instruction == given
        instruction = own if given == "" else given or "Find what is asked for"
        scores = plain.score(example.query, [*example.positives, *example.negatives], instruction)
        assert example.scores == pytest.approx(scores, abs=2e-5)
    assert plain.score("what is a cat", ["a"], "Find") != pytest.approx(plain.score("what is a cat", ["a"]), abs=1e-3)


def test_an_export_with_an_activation_keeps_it(model: Path, exported: Path, tmp_path: Path) -> None:
    """Its scores are probabilities, which the limits are meant for: Sentence-Transformers gives them."""
    path = Path(shutil.copytree(exported, tmp_path / "sigmoid"))
    settings = json.loads((path / "config_sentence_transformers.json").read_text())
    settings["activation_fn"] = "torch.nn.modules.activation.Sigmoid"
    (path / "config_sentence_transformers.json").write_text(json.dumps(settings))
    (example, *_) = _mine(model, tmp_path, _examples(), reranker=str(path), max_relative_score=None, max_tokens=600)
    logits = PlainReranker(path, 600).score(example.query, [*example.positives, *example.negatives], "Judge by topic")
    assert example.scores == pytest.approx(torch.tensor(logits).sigmoid().tolist(), abs=2e-5)
