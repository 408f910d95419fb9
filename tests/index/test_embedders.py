"""Whatever kind of model directory: the same texts, prompted in the same way, give the same vectors."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from qwen3emb_train.index import embedders
from qwen3emb_train.index.embed_config import EmbedConfig
from qwen3emb_train.index.embed_texts import embed_texts
from qwen3emb_train.index.embedders import EmbeddingSettings, load_embedder, model_identity
from qwen3emb_train.index.inference import TextEncoder
from qwen3emb_train.models.precision import Precision

sentence_transformers = pytest.importorskip("sentence_transformers", reason="Sentence-Transformers is not installed")

TEXTS = ["The quick brown fox", "return the number of items in the list", "Berlin"]
SETTINGS = EmbeddingSettings(precision=Precision.fp32)


def _save(model: Path, target: Path, mode: str) -> Path:
    """The tiny model as a Sentence-Transformers directory with another query prompt than the card's."""
    from sentence_transformers.models import Normalize, Pooling, Transformer

    folder = target / "hf"
    folder.mkdir(parents=True)
    TextEncoder.load(str(model)).tokenizer.save(folder)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(model / name, folder / name)
    modules = [Transformer(str(folder), max_seq_length=24), Pooling(32, pooling_mode=mode), Normalize()]
    prompts = {"query": "Find: ", "document": "Text: "}
    sentence_transformers.SentenceTransformer(modules=modules, prompts=prompts, device="cpu").save_pretrained(
        str(target / mode)
    )
    return target / mode


@pytest.fixture(scope="module")
def last(tmp_path_factory: pytest.TempPathFactory, tiny_qwen3: Path) -> Path:
    return _save(tiny_qwen3, tmp_path_factory.mktemp("last"), "lasttoken")


@pytest.fixture(scope="module")
def mean(tmp_path_factory: pytest.TempPathFactory, tiny_qwen3: Path) -> Path:
    return _save(tiny_qwen3, tmp_path_factory.mktemp("mean"), "mean")


@pytest.mark.parametrize("instruction", [None, "", "Look up"])
def test_the_packed_encoder_gives_what_was_published(last: Path, instruction: str | None) -> None:
    """Prompts, EOS token and the limit of tokens included; the last text is longer than the limit."""
    texts = [*TEXTS, " ".join(TEXTS * 4)]
    published, packed = (load_embedder(str(last), SETTINGS, as_published=flag) for flag in (True, False))
    torch.testing.assert_close(
        packed.encode_queries(texts, instruction), published.encode_queries(texts, instruction), atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(packed.encode_documents(texts), published.encode_documents(texts), atol=1e-5, rtol=1e-4)


def test_only_last_token_pooling_goes_through_the_packed_encoder(
    last: Path, mean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TextEncoder, "load", None)
    load_embedder(str(mean), SETTINGS, as_published=False)
    load_embedder(str(last), SETTINGS)
    more = Path(shutil.copytree(last, tmp_path / "more"))
    modules = json.loads((more / "modules.json").read_text())
    modules.insert(2, {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (more / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match="Dense"):  # its sizes are missing; ours would ignore it
        load_embedder(str(more), SETTINGS, as_published=False)
    with pytest.raises(TypeError):
        load_embedder(str(last), SETTINGS, as_published=False)


def test_a_store_of_a_mean_pooling_model_holds_sentence_transformers_vectors(mean: Path, tmp_path: Path) -> None:
    config = EmbedConfig(precision=Precision.fp32, rows_per_shard=2)
    store = embed_texts(zip("abc", TEXTS, strict=True), str(mean), tmp_path / "store", config)
    expected = sentence_transformers.SentenceTransformer(str(mean), device="cpu").encode(
        TEXTS, prompt="Text: ", convert_to_tensor=True
    )
    torch.testing.assert_close(store.rows(0, 3), expected, atol=1e-6, rtol=1e-5)


def test_a_store_of_a_last_token_model_goes_through_the_packed_encoder(
    last: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    config = EmbedConfig(precision=Precision.fp32)
    store = embed_texts(zip("abc", TEXTS, strict=True), str(last), tmp_path / "store", config)
    packed = load_embedder(str(last), SETTINGS, as_published=False).encode_documents(TEXTS)
    torch.testing.assert_close(store.rows(0, 3), packed, atol=1e-6, rtol=1e-5)
    with pytest.raises(ImportError, match="is a Sentence-Transformers model; to load it: pip install"):
        load_embedder(str(last), SETTINGS)


def test_a_models_identity_is_its_contents(tiny_qwen3: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_qwen3, tmp_path / "copy"))
    assert model_identity(str(copy)) == model_identity(str(tiny_qwen3))
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert model_identity(str(copy)) != model_identity(str(tiny_qwen3))
    with pytest.raises(FileNotFoundError, match="no such directory"):
        model_identity(str(tmp_path / "missing"))
    with pytest.raises(FileNotFoundError, match="no model of that name"):
        model_identity("nobody/nothing")


def test_a_hub_models_identity_names_its_commit(
    tiny_qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a cache laid out as the hub's: two commits of a name are two models."""
    from huggingface_hub import constants

    commit = "0123456789" * 4
    snapshot = tmp_path / "models--somebody--tiny" / "snapshots" / commit
    shutil.copytree(tiny_qwen3, snapshot)
    (tmp_path / "models--somebody--tiny" / "refs").mkdir()
    (tmp_path / "models--somebody--tiny" / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.TRANSFORMERS_CACHE", str(tmp_path), raising=False)
    assert model_identity("somebody/tiny") == f"somebody/tiny@{commit}"


def test_an_empty_instruction_is_no_prompt(last: Path) -> None:
    packed = load_embedder(str(last), SETTINGS, as_published=False)
    assert torch.equal(packed.encode_queries(TEXTS, ""), TextEncoder.load(str(last), precision="fp32").encode(TEXTS))


def test_the_number_of_processes_reaches_our_encoder(last: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all other settings; that they give the same vectors is tested in test_inference.py."""
    asked: dict[str, object] = {}

    def one_instead(model: str, *, num_processes: int, **how: Any) -> TextEncoder:
        asked.update(how, num_processes=num_processes)
        return TextEncoder.load(model, **how)

    monkeypatch.setattr(embedders, "ParallelTextEncoder", one_instead)
    load_embedder(str(last), replace(SETTINGS, num_processes=2), as_published=False)
    assert asked == {"num_processes": 2, "num_layers": None, "max_tokens": 24, "precision": "fp32", "device": "auto"}
