"""The transformers part of an export: weights, config.json and tokenizer, readable by old and new versions alike."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.data.tokenization import TextTokenizer
from qwen3emb_train.models.weights import StoredWeights, require_finite, write_weights

MAX_SHARD_BYTES = 5_000_000_000
_LM_HEAD = "lm_head.weight"
_PREFIX = "model."


def write_backbone_weights(source: Path, target: Path, dtype: torch.dtype) -> None:
    """Casts and writes the weights shard by shard, under the names of the bare backbone, as the official repo does.

    A language-model head is left out (an encoder has none); the embedding keeps its number of rows.

    Raises:
        ValueError: a weight is not finite, before or after the cast.
    """
    weights = StoredWeights(source)
    stored_names = {name.removeprefix(_PREFIX): name for name in weights.names if name != _LM_HEAD}

    def cast(name: str) -> Float[Tensor, "..."]:
        tensor = weights.load(stored_names[name]).to(dtype)
        require_finite(tensor, name, source)  # float16 ends at 65504
        return tensor

    sizes = {name: math.prod(weights.shape(stored)) * dtype.itemsize for name, stored in stored_names.items()}
    write_weights(target, sizes, cast, MAX_SHARD_BYTES)


def write_config(source: Path, target: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Writes config.json with the keys that old and new readers look for, and returns it.

    ``architectures`` is the causal LM, as in the official repo: vLLM and llama.cpp choose their code by it.
    transformers 5 writes ``dtype`` and ``rope_parameters`` where 4.x reads ``torch_dtype`` and ``rope_theta``; without
    the latter 4.x would silently take its default of 10000. A bidirectional backbone keeps ``is_causal: false``, which
    transformers 5 honours; readers that do not know the key run the model causally.
    """
    from transformers import AutoConfig, PreTrainedConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    generic = PreTrainedConfig().to_dict()  # what says nothing about this model (id2label, return_dict, ...)
    kept = {"tie_word_embeddings", "transformers_version"}
    full = AutoConfig.from_pretrained(source).to_dict()
    config = {key: value for key, value in full.items() if key in kept or key not in generic or generic[key] != value}
    for private in ("_name_or_path", "_attn_implementation", "use_cache"):  # how training ran it, not what it is
        config.pop(private, None)
    model_type = config["model_type"]
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ValueError(
            f"{source}/config.json: model_type {model_type!r} is not a causal language model of transformers."
        )
    config["architectures"] = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]]
    config["dtype"] = config["torch_dtype"] = str(dtype).removeprefix("torch.")
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:
        config["rope_theta"] = rope["rope_theta"]
        is_plain = rope.get("rope_type", "default") == "default"
        config["rope_scaling"] = None if is_plain else {k: v for k, v in rope.items() if k != "rope_theta"}
    write_json(target / "config.json", config)
    return config


def write_tokenizer(source: Path, target: Path, tokenizer: TextTokenizer, max_tokens: int) -> None:
    """Writes tokenizer.json, the closing token inside its post-processor, and a tokenizer_config.json for all readers.

    transformers 5 names a generic class ``TokenizersBackend`` and lists ``extra_special_tokens``; 4.x, vLLM, llama.cpp
    and mlx built on it fail on both (reliability.md H), so the base model's class and the old spelling are written.
    """
    tokenizer.save(target)
    file = target / "tokenizer_config.json"
    written = read_json(file)
    base_file = source / "tokenizer_config.json"
    base = read_json(base_file) if base_file.is_file() else {}
    classes = [settings.get("tokenizer_class") for settings in (base, written)]
    named = [name for name in classes if name not in (None, "TokenizersBackend")]
    written["tokenizer_class"] = named[0] if named else "PreTrainedTokenizerFast"
    for key in ("backend", "is_local", "local_files_only"):
        written.pop(key, None)
    if isinstance(written.get("extra_special_tokens"), list):
        written["additional_special_tokens"] = written.pop("extra_special_tokens")
    written["pad_token"] = written.get("pad_token") or tokenizer.closing_token
    written["padding_side"] = "left"
    written["model_max_length"] = max_tokens
    write_json(file, written)


def read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
