"""The real Qwen tokenizer through an exported folder: the released ids (docs/sources.md)."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from qwen3emb_train.data.instructions import DEFAULT_INSTRUCTION, format_query
from tests.export.folders import export, read

DATA = Path(os.environ.get("QWEN3EMB_DATA", Path.home() / ".cache" / "qwen3emb-data")) / "qwen3-tokenizer"

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"the Qwen3 tokenizer is not at {DATA} (set QWEN3EMB_DATA)"),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the released vocabulary, small otherwise."""
    from transformers import AutoModel, Qwen3Config

    model = tmp_path_factory.mktemp("models") / "model"
    shutil.copytree(DATA, model)
    config = Qwen3Config(
        vocab_size=151669, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, tie_word_embeddings=True, max_position_embeddings=256,
    )  # fmt: skip
    AutoModel.from_config(config, dtype=torch.float32).save_pretrained(model)
    return export(model, model.parent / "out", max_tokens=64)


def test_the_released_ids(exported: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(exported)
    assert tokenizer("test")["input_ids"] == [1944, 151643]
    assert len(tokenizer("a")["input_ids"]) == 2
    query = tokenizer(format_query(DEFAULT_INSTRUCTION, "What is the capital of China?"))["input_ids"]
    document = tokenizer("The capital of China is Beijing.")["input_ids"]
    assert (len(query), query[-1]) == (27, 151643)
    assert (len(document), document[-1]) == (8, 151643)
    assert tokenizer("a " * 500, truncation=True, max_length=16)["input_ids"][-1] == 151643
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (151645, 151643)


def test_sentence_transformers_sees_the_same_ids(exported: Path) -> None:
    from sentence_transformers import SentenceTransformer

    features = SentenceTransformer(str(exported), device="cpu").preprocess(["test"])
    assert features["input_ids"].tolist() == [[1944, 151643]]


def test_its_settings_are_the_released_ones(exported: Path) -> None:
    settings = read(exported / "tokenizer_config.json")
    assert settings["tokenizer_class"] == "Qwen2Tokenizer"
    assert (settings["eos_token"], settings["pad_token"]) == ("<|im_end|>", "<|endoftext|>")
    kinds = [part["type"] for part in read(exported / "tokenizer.json")["post_processor"]["processors"]]
    assert kinds == ["ByteLevel", "TemplateProcessing"]
