"""What another library makes of a damaged model directory is one message that names the directory."""

import json
from pathlib import Path
from typing import Any

import pytest

from qwen3emb_train.data.tokenization import load_tokenizer
from qwen3emb_train.model_directory import reading_model, shard_names
from qwen3emb_train.models.loading import ModelConfig, load_encoder
from tests.tiny import make_tiny_model_directory


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_tiny_model_directory(tmp_path / "model", num_layers=1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", "x"),
        ("hidden_size", None),
        ("rope_parameters", 7),
        ("layer_types", {}),
        ("model_type", []),
    ],
)
def test_a_value_of_a_wrong_type_in_its_settings(model: Path, key: str, value: Any) -> None:
    settings = json.loads((model / "config.json").read_text()) | {key: value}
    (model / "config.json").write_text(json.dumps(settings))
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        load_encoder(ModelConfig(path=str(model)))
    assert str(model) in str(caught.value)


@pytest.mark.parametrize("content", ['{"model": {"vocab": {"a": {}}}}', "[]", "{", "null", '{"model": 7}'])
def test_a_tokenizer_that_is_none(model: Path, content: str) -> None:
    (model / "tokenizer.json").write_text(content)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        load_tokenizer(str(model))
    assert str(model) in str(caught.value)


def test_only_what_is_no_message_is_put_into_words() -> None:
    for error in (FileNotFoundError("as it is"), ValueError("as it is")):
        with pytest.raises(type(error), match=r"^as it is$"), reading_model("m"):
            raise error
    with pytest.raises(ValueError, match=r"m: cannot be loaded \(KeyError: 'a'\)"), reading_model("m"):
        raise KeyError("a")


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "/etc/passwd", "a/b.safetensors"])
def test_an_index_that_names_files_elsewhere_is_refused_by_every_loader(model: Path, name: str) -> None:
    """transformers itself would read them."""
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"norm.weight": name}}))
    (model / "model.safetensors").unlink()
    for load in (lambda: shard_names(index), lambda: load_encoder(ModelConfig(path=str(model)))):
        with pytest.raises(ValueError, match="which is not a file beside it"):
            load()
