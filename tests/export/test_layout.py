"""Every JSON file of an export, to the byte: the layout of Qwen/Qwen3-Embedding (docs/sources.md).

The models have the released configurations; of their weights only what the files do not depend on is smaller.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from qwen3emb_train.export.sentence_transformers import ExportDtype
from tests.export.folders import export, least_cosine, read
from tests.tiny import make_tiny_model_directory, make_tiny_tokenizer

MODULES = """\
[
  {
    "idx": 0,
    "name": "0",
    "path": "",
    "type": "sentence_transformers.models.Transformer"
  },
  {
    "idx": 1,
    "name": "1",
    "path": "1_Pooling",
    "type": "sentence_transformers.models.Pooling"
  },
  {
    "idx": 2,
    "name": "2",
    "path": "2_Normalize",
    "type": "sentence_transformers.models.Normalize"
  }
]
"""

POOLING = """\
{
  "word_embedding_dimension": %d,
  "pooling_mode_cls_token": false,
  "pooling_mode_mean_tokens": false,
  "pooling_mode_max_tokens": false,
  "pooling_mode_mean_sqrt_len_tokens": false,
  "pooling_mode_weightedmean_tokens": false,
  "pooling_mode_lasttoken": true,
  "pooling_mode": "lasttoken",
  "include_prompt": true
}
"""

SENTENCE_TRANSFORMERS = r"""{
  "prompts": {
    "query": "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:",
    "document": ""
  },
  "default_prompt_name": null,
  "similarity_fn_name": "cosine",
  "__version__": {
    "sentence_transformers": "2.7.0"
  }
}
"""

SENTENCE_BERT = """\
{
  "max_seq_length": 8192,
  "do_lower_case": false
}
"""

TOKENIZER_CONFIG = """\
{
  "add_prefix_space": false,
  "bos_token": null,
  "eos_token": "<|im_end|>",
  "model_max_length": 8192,
  "pad_token": "<|endoftext|>",
  "tokenizer_class": "Qwen2Tokenizer",
  "unk_token": "<|endoftext|>",
  "padding_side": "left"
}
"""

# The released config.json as transformers 4.51 wrote it, but for float32: what an export of ours starts from.
RELEASED: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 151643,
    "eos_token_id": 151643, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024, "initializer_range": 0.02,
    "intermediate_size": 3072, "max_position_embeddings": 32768, "max_window_layers": 28, "model_type": "qwen3",
    "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
    "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True,
    "torch_dtype": "float32", "transformers_version": "4.51.3", "use_cache": True, "use_sliding_window": False,
    "vocab_size": 151669,
}  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    "0.6B": {},
    "4B": {
        "hidden_size": 2560, "intermediate_size": 9728, "num_attention_heads": 32, "num_hidden_layers": 36,
        "max_position_embeddings": 40960, "max_window_layers": 36, "eos_token_id": 151645, "vocab_size": 151665,
    },
    "8B": {
        "hidden_size": 4096, "intermediate_size": 12288, "num_attention_heads": 32, "num_hidden_layers": 36,
        "max_position_embeddings": 40960, "max_window_layers": 36, "eos_token_id": 151645, "vocab_size": 151665,
        "tie_word_embeddings": False,
    },
}  # fmt: skip

CONFIG = """\
{
  "transformers_version": "%(version)s",
  "architectures": [
    "Qwen3ForCausalLM"
  ],
  "dtype": "bfloat16",
  "vocab_size": %(vocab_size)d,
  "hidden_size": %(hidden_size)d,
  "intermediate_size": %(intermediate_size)d,
  "num_hidden_layers": %(num_hidden_layers)d,
  "num_attention_heads": %(num_attention_heads)d,
  "num_key_value_heads": 8,
  "head_dim": 128,
  "hidden_act": "silu",
  "max_position_embeddings": %(max_position_embeddings)d,
  "initializer_range": 0.02,
  "rms_norm_eps": 1e-06,
  "tie_word_embeddings": %(tie)s,
  "rope_parameters": {
    "rope_theta": 1000000,
    "rope_type": "default"
  },
  "attention_bias": false,
  "use_sliding_window": false,
  "sliding_window": null,
  "max_window_layers": %(max_window_layers)d,
  "layer_types": [
%(layer_types)s
  ],
  "attention_dropout": 0.0,
  "bos_token_id": 151643,
  "eos_token_id": %(eos_token_id)d,
  "model_type": "qwen3",
  "torch_dtype": "bfloat16",
  "rope_theta": 1000000,
  "rope_scaling": null
}
"""


def _released_directory(path: Path, size: str) -> Path:
    """The released configuration; of the weights the final norm and four rows of the embedding."""
    path.mkdir()
    make_tiny_tokenizer(path)
    config = RELEASED | SIZES[size]
    (path / "config.json").write_text(json.dumps(config))
    dim = config["hidden_size"]
    save_file({"embed_tokens.weight": torch.ones(4, dim), "norm.weight": torch.ones(dim)}, path / "model.safetensors")
    return path


@pytest.mark.parametrize("size", SIZES)
def test_every_json_file_of_a_released_shape_to_the_byte(tmp_path: Path, size: str) -> None:
    folder = export(
        _released_directory(tmp_path / "model", size),
        tmp_path / size,
        verify=False,
        dtype=ExportDtype.bfloat16,
        max_tokens=8192,
    )
    config = RELEASED | SIZES[size]
    expected = CONFIG % (
        config
        | {
            "version": transformers.__version__,
            "tie": json.dumps(config["tie_word_embeddings"]),
            "layer_types": ",\n".join(['    "full_attention"'] * config["num_hidden_layers"]),
        }
    )
    files = {
        "config.json": expected,
        "modules.json": MODULES,
        "1_Pooling/config.json": POOLING % config["hidden_size"],
        "2_Normalize/config.json": "{}\n",
        "sentence_bert_config.json": SENTENCE_BERT,
        "config_sentence_transformers.json": SENTENCE_TRANSFORMERS,
        "tokenizer_config.json": TOKENIZER_CONFIG,
    }
    for name, text in files.items():
        assert (folder / name).read_text(encoding="utf-8") == text, name
    others = {"README.md", "merges.txt", "model.safetensors", "run.json", "tokenizer.json", "vocab.json"}
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {*files, *others}


def test_every_field_that_was_released_is_exported_with_its_value(tmp_path: Path) -> None:
    folder = export(
        _released_directory(tmp_path / "model", "0.6B"),
        tmp_path / "out",
        verify=False,
        dtype=ExportDtype.bfloat16,
        max_tokens=8192,
    )
    written = read(folder / "config.json")
    for name, value in RELEASED.items():
        if name not in ("transformers_version", "use_cache", "torch_dtype"):
            assert written[name] == value, name


def test_the_tokenizer_is_written_for_old_readers_too(tmp_path: Path) -> None:
    """tokenizer.json's post-processor, and the two files of the tokenizer's Python form in transformers 4."""
    folder = export(make_tiny_model_directory(tmp_path / "model", num_layers=1), tmp_path / "out", verify=False)
    stored = read(folder / "tokenizer.json")
    assert (stored["truncation"], stored["padding"]) == (None, None)
    assert stored["post_processor"]["single"][-1] == {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    assert read(folder / "vocab.json") == stored["model"]["vocab"]
    first, *merges = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    assert first == "#version: 0.2"
    assert merges == [" ".join(merge) for merge in stored["model"]["merges"]]


def test_a_model_of_the_released_width_is_loaded_by_all_readers(tmp_path: Path) -> None:
    """0.6B but for one layer and a small vocabulary, random. The export verifies itself; here are the loads again."""
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel, AutoTokenizer, Qwen3Config

    model = tmp_path / "model"
    model.mkdir()
    vocab_size = make_tiny_tokenizer(model)
    small = {"vocab_size": vocab_size, "num_hidden_layers": 1, "bos_token_id": 0, "eos_token_id": 0}
    torch.manual_seed(0)
    config = Qwen3Config(**{key: value for key, value in (RELEASED | small).items() if key != "torch_dtype"})
    AutoModel.from_config(config, dtype=torch.float32).save_pretrained(model)
    folder = export(model, tmp_path / "out", dtype=ExportDtype.bfloat16, max_tokens=32)
    texts = ["What is the capital of China?", "重力"]
    by_sentence_transformers = SentenceTransformer(
        str(folder), device="cpu", model_kwargs={"dtype": torch.float32}
    ).encode(texts, convert_to_tensor=True)
    batch = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        states = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()(**batch).last_hidden_state
    assert by_sentence_transformers.shape == (2, 1024)
    assert least_cosine(states[:, -1], by_sentence_transformers) > 0.99999
