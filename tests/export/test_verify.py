"""verify_export notices what users' readers would get wrong, and a failed export is not published."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from qwen3emb_train.export import sentence_transformers
from qwen3emb_train.export.sentence_transformers import ExportConfig, ExportDtype, export_model
from qwen3emb_train.export.verify import verify_export
from tests.tiny import make_tiny_model_directory


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_tiny_model_directory(tmp_path / "model", num_layers=1)


def _config(model: Path, **settings: Any) -> ExportConfig:
    return ExportConfig(model=str(model), output_dir=str(model.parent / "out"), dtype=ExportDtype.float32, **settings)


def _edit(path: Path, change: Callable[[Any], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def _mean_pooling(directory: Path) -> None:
    change = {"pooling_mode_lasttoken": False, "pooling_mode_mean_tokens": True, "pooling_mode": "mean"}
    _edit(directory / "1_Pooling" / "config.json", lambda pooling: pooling.update(change))


def _no_closing_token(directory: Path) -> None:
    _edit(directory / "tokenizer.json", lambda tokenizer: tokenizer.update(post_processor=None))


def _other_weights(directory: Path) -> None:
    weights = load_file(directory / "model.safetensors")
    weights["layers.0.mlp.down_proj.weight"] *= 3
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def _lost_weight(directory: Path) -> None:
    weights = load_file(directory / "model.safetensors")
    del weights["norm.weight"]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def _other_rope(directory: Path) -> None:
    _edit(directory / "config.json", lambda config: config["rope_parameters"].update(rope_theta=3.0))
    _edit(directory / "config.json", lambda config: config.update(rope_theta=3.0))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_mean_pooling, r"Below 0.99999: \{'sentence_transformers'"),
        (_no_closing_token, "gives other ids than the trainer's"),
        (_other_weights, r"'transformers_left_padded': 0.*'sentence_transformers_single'"),
        (_lost_weight, r"lack \['norm.weight'\]"),
        (_other_rope, "Below 0.99999: .*transformers_single"),
    ],
)
def test_a_damaged_export_is_noticed(model: Path, damage: Callable[[Path], None], message: str) -> None:
    exported = export_model(_config(model, verify=False))
    damage(exported)
    with pytest.raises(ValueError, match=message):
        verify_export(exported, model)


def test_a_wrong_prompt_is_noticed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Sentence-Transformers puts before a query is compared as applied, not as written."""
    from sentence_transformers import SentenceTransformer

    exported = export_model(_config(model, verify=False))
    original = SentenceTransformer.encode

    def with_a_space(self: Any, texts: list[str], prompt_name: str | None = None, **settings: Any) -> Any:
        if prompt_name is None:
            return original(self, texts, **settings)
        return original(self, texts, prompt=self.prompts[prompt_name] + " ", **settings)

    monkeypatch.setattr(SentenceTransformer, "encode", with_a_space)
    with pytest.raises(ValueError, match=r"Below 0.99999: \{'sentence_transformers_prompt_query'"):
        verify_export(exported, model)


def test_a_failed_export_is_not_published(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = sentence_transformers.write_modules

    def damaged(directory: Path, *arguments: Any) -> None:
        write(directory, *arguments)
        _mean_pooling(directory)

    monkeypatch.setattr(sentence_transformers, "write_modules", damaged)
    with pytest.raises(ValueError, match="it was not published"):
        export_model(_config(model))
    assert [path.name for path in model.parent.iterdir()] == ["model"]


def test_without_sentence_transformers_the_check_says_it_was_skipped(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    figures = verify_export(export_model(_config(model, verify=False)), model)
    assert figures["sentence_transformers"].startswith("skipped: pip install")
    assert figures["transformers_single"] >= 0.99999
