"""A GGUF file gives our vectors in llama.cpp: the pooling, the EOS token and the tokenizer are in the file."""

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from qwen3emb_train import lineage
from qwen3emb_train.data.tokenization import load_tokenizer
from qwen3emb_train.export.gguf import (
    ExportGgufConfig,
    GgufDtype,
    compare_with_llama_cpp,
    export_gguf,
    interleave_rotary_halves,
    write_gguf,
)
from qwen3emb_train.export.gguf_tokenizer import pre_tokenizer_name
from qwen3emb_train.export.samples import REAL_TEXTS
from tests.export.folders import edit, export
from tests.tiny import make_tiny_model_directory

pytestmark = pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="the gguf package is not installed")
needs_llama_cpp = pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is not installed")
QWEN_TOKENIZER = Path(os.environ.get("QWEN3EMB_DATA", Path.home() / ".cache" / "qwen3emb-data")) / "qwen3-tokenizer"


def test_there_are_fifty_texts_in_five_languages_and_more() -> None:
    assert len(set(REAL_TEXTS)) == 50


def _fields(file: Path) -> dict[str, Any]:
    from gguf import GGUFReader

    return {name: field.contents() for name, field in GGUFReader(file).fields.items()}


@needs_llama_cpp
@pytest.mark.parametrize(
    ("family", "dtype"),
    [("llama", GgufDtype.float32), *(("qwen3", dtype) for dtype in GgufDtype)],
)
def test_llama_cpp_gives_our_vectors(tmp_path: Path, family: str, dtype: GgufDtype) -> None:
    """The two families rotate their positions differently; the server is told nothing but the file."""
    model = make_tiny_model_directory(tmp_path / "model", family=family)
    file = export_gguf(ExportGgufConfig(model=str(model), output_dir=str(tmp_path / "out"), dtype=dtype))
    assert file == tmp_path / "out" / "out.gguf"
    record = lineage.read_record(tmp_path / "out")
    assert record is not None
    least = record.metrics["verification"]["least_cosine"]
    assert least >= {"float32": 0.99999}.get(dtype.value, 0.999)


def test_the_file_says_how_vectors_are_made(tmp_path: Path) -> None:
    from gguf import PoolingType

    model = make_tiny_model_directory(tmp_path / "model")
    write_gguf(model, tmp_path / "x.gguf", GgufDtype.float32, max_tokens=100)
    fields = _fields(tmp_path / "x.gguf")
    assert fields["qwen3.pooling_type"] == PoolingType.LAST
    assert fields["qwen3.context_length"] == 100
    assert fields["tokenizer.ggml.add_eos_token"] is True
    assert fields["tokenizer.ggml.add_bos_token"] is False
    closing = load_tokenizer(str(model)).eos_token_id
    assert fields["tokenizer.ggml.eos_token_id"] == closing
    assert fields["tokenizer.ggml.tokens"][closing] == "<|endoftext|>"
    assert fields["tokenizer.ggml.pre"] == "qwen2"


@needs_llama_cpp
def test_a_bidirectional_model_stays_one(tmp_path: Path) -> None:
    model = make_tiny_model_directory(tmp_path / "model")
    edit(model / "config.json", lambda config: config.update(is_causal=False))
    write_gguf(model, tmp_path / "x.gguf", GgufDtype.float32, 512)
    assert compare_with_llama_cpp(tmp_path / "x.gguf", model)["least_cosine"] >= 0.99999


@needs_llama_cpp
def test_a_file_that_pools_by_mean_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gguf

    model = make_tiny_model_directory(tmp_path / "model")
    original = gguf.GGUFWriter.add_pooling_type
    monkeypatch.setattr(
        gguf.GGUFWriter, "add_pooling_type", lambda self, _: original(self, gguf.PoolingType.MEAN)
    )  # what converters do that know nothing of the model's pooling
    with pytest.raises(ValueError, match=r"llama\.cpp's vector of .* has cosine"):
        export_gguf(ExportGgufConfig(model=str(model), output_dir=str(tmp_path / "out")))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@needs_llama_cpp
@pytest.mark.data
@pytest.mark.skipif(not QWEN_TOKENIZER.is_dir(), reason=f"no Qwen3 tokenizer at {QWEN_TOKENIZER} (set QWEN3EMB_DATA)")
def test_llama_cpp_gives_our_vectors_with_the_real_qwen_tokenizer(tmp_path: Path) -> None:
    """An export as the source, the embedding padded to 151,936 rows as in the base models."""
    from transformers import AutoModel, Qwen3Config

    model = tmp_path / "model"
    shutil.copytree(QWEN_TOKENIZER, model)
    config = Qwen3Config(
        vocab_size=151936, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, tie_word_embeddings=True, max_position_embeddings=512,
        rope_parameters={"rope_theta": 1e6, "rope_type": "default"},
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = AutoModel.from_config(config, dtype=torch.float32)
        for parameter in backbone.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.15)
    backbone.save_pretrained(model)
    folder = export(model, tmp_path / "exported", verify=False)
    write_gguf(folder, tmp_path / "x.gguf", GgufDtype.float32, 512)
    assert compare_with_llama_cpp(tmp_path / "x.gguf", folder)["least_cosine"] >= 0.9999


def test_a_context_without_room_for_the_verification_is_refused_at_once(tmp_path: Path) -> None:
    model = make_tiny_model_directory(tmp_path / "model")
    with pytest.raises(ValueError, match=r"max_tokens=2: the texts of the verification have up to \d+ tokens"):
        export_gguf(ExportGgufConfig(model=str(model), output_dir=str(tmp_path / "out"), max_tokens=2))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gemma3_text"}, "GGUF files are written for"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}, "scales its rotary positions"),
    ],
)
def test_what_llama_cpp_would_run_otherwise_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    model = make_tiny_model_directory(tmp_path / "model", num_layers=1)
    edit(model / "config.json", lambda config: config.update(change))
    with pytest.raises(ValueError, match=message):
        write_gguf(model, tmp_path / "x.gguf", GgufDtype.float32, 512)


def test_pre_tokenizers_are_named_or_refused() -> None:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    assert pre_tokenizer_name(byte_level) == "gpt-2"
    assert pre_tokenizer_name({"type": "Sequence", "pretokenizers": [digits, byte_level]}) == "smollm"
    for unknown in (None, digits, byte_level | {"add_prefix_space": True}):
        with pytest.raises(ValueError, match="is not known here"):
            pre_tokenizer_name(unknown)


def test_rotary_halves_become_neighbours() -> None:
    rows = torch.arange(8.0)[:, None]  # two heads of four components
    assert interleave_rotary_halves(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
