"""The transformers part of an export: weights, config.json and tokenizer, for transformers 4.x and 5."""

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.data.reranker_tokens import RerankerTokenizer, load_reranker_tokenizer
from qwen3emb_train.data.tokenization import TextTokenizer
from qwen3emb_train.model_directory import Prompts, reading_model
from qwen3emb_train.models.text_parts import text_config, text_names
from qwen3emb_train.models.weights import StoredWeights, TensorSpec, require_finite, write_weights

MAX_SHARD_BYTES = 5_000_000_000
_LM_HEAD = "lm_head.weight"
_PREFIX = "model."
_SLOW_FORMS = ("Qwen2Tokenizer", "GPT2Tokenizer")


def write_backbone_weights(source: Path, target: Path, dtype: torch.dtype) -> None:
    """Casts and writes the weights shard by shard under the names of the bare backbone, as in Qwen/Qwen3-Embedding.

    A language-model head is left out; the embedding keeps its number of rows.

    Args:
        source: model directory.
        target: existing directory to write to.
        dtype: of the stored weights.

    Raises:
        ValueError: a weight is not finite, before or after the cast.
    """
    weights = StoredWeights(source)
    _write_cast(weights, backbone_names(weights), target, dtype)


def _write_cast(weights: StoredWeights, stored_names: dict[str, str], target: Path, dtype: torch.dtype) -> None:
    def cast(name: str) -> Float[Tensor, "..."]:
        tensor = weights.load(stored_names[name]).to(dtype)
        require_finite(tensor, name, weights.directory)  # float16 ends at 65504
        return tensor

    specs = {name: TensorSpec(dtype, weights.shape(stored)) for name, stored in stored_names.items()}
    write_weights(target, specs, cast, MAX_SHARD_BYTES)


def backbone_names(weights: StoredWeights) -> dict[str, str]:
    """Name in the bare backbone -> stored name, without the prefix and the head of a causal LM, and without images."""
    names = text_names(weights.names)
    return {name.removeprefix(_PREFIX): stored for name, stored in names.items() if name != _LM_HEAD}


def write_config(source: Path, target: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Writes config.json with the keys of transformers 4.x and 5, and returns it.

    ``architectures`` is the causal LM, as in Qwen/Qwen3-Embedding: vLLM and llama.cpp choose their code by it.
    transformers 5 writes ``dtype`` and ``rope_parameters`` where 4.x reads ``torch_dtype`` and ``rope_theta``; without
    the latter 4.x would silently take its default of 10000. A bidirectional backbone keeps ``is_causal: false``, which
    transformers 5 applies; other readers run the model causally.

    Args:
        source: model directory.
        target: existing directory to write to.
        dtype: of the stored weights.

    Raises:
        ValueError: the model is not a causal language model of transformers.
    """
    from transformers import AutoConfig, PreTrainedConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    generic = PreTrainedConfig().to_dict()  # defaults of every model (id2label, return_dict, ...)
    kept = {"tie_word_embeddings", "transformers_version"}
    with reading_model(source):
        full = text_config(AutoConfig.from_pretrained(source, trust_remote_code=False)).to_dict()
    config = {key: value for key, value in full.items() if key in kept or key not in generic or generic[key] != value}
    for private in (
        "_name_or_path",
        "_model_name_or_path",
        "_attn_implementation",
        "use_cache",
    ):  # settings of the training process, not of the model
        config.pop(private, None)
    model_type = config["model_type"]
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ValueError(
            f"{source}/config.json: model_type {model_type!r} is not a causal language model of transformers."
        )
    config["architectures"] = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]]
    for token in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if config.get(token, 0) is None:
            del config[token]
    config["dtype"] = config["torch_dtype"] = str(dtype).removeprefix("torch.")
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:
        config["rope_theta"] = rope["rope_theta"]
        is_plain = rope.get("rope_type", "default") == "default"
        config["rope_scaling"] = None if is_plain else {k: v for k, v in rope.items() if k != "rope_theta"}
    write_json(target / "config.json", config)
    return config


def dim_and_positions(source: Path) -> tuple[int, int | None]:
    """Components of a state, and the longest text where the family has a limit; families name both differently."""
    from transformers import AutoConfig

    config = text_config(AutoConfig.from_pretrained(source, trust_remote_code=False))
    return int(config.hidden_size), getattr(config, "max_position_embeddings", None)


def write_causal_lm_weights(source: Path, target: Path, dtype: torch.dtype, *, tied: bool) -> None:
    """Casts and writes the weights under the names of the causal LM.

    Args:
        source: model directory.
        target: existing directory to write to.
        dtype: of the stored weights.
        tied: whether the head is the embedding; it is written only if not.

    Raises:
        ValueError: a weight is not finite, or the head is missing.
    """
    weights = StoredWeights(source)
    head = text_names(weights.names).get(_LM_HEAD)
    if not tied and head is None:
        raise ValueError(
            f"{source}: config.json says tie_word_embeddings=false, but there is no {_LM_HEAD}. A reranker scores with "
            "its language-model head: give a directory that was saved with it."
        )
    stored_names = {f"{_PREFIX}{name}": stored for name, stored in backbone_names(weights).items()}
    if not tied and head is not None:
        stored_names[_LM_HEAD] = head
    _write_cast(weights, stored_names, target, dtype)


def write_tokenizer(source: Path, target: Path, tokenizer: TextTokenizer, max_tokens: int) -> None:
    """Writes tokenizer.json, whose post-processor appends the EOS token, and its config for transformers 4.x and 5.

    Args:
        source: model directory.
        target: existing directory to write to.
        tokenizer: of the model.
        max_tokens: longest text, the EOS token included.
    """
    tokenizer.save(target)
    _write_tokenizer_config(source, target, max_tokens, pad_token=tokenizer.eos_token)


def write_prompts_beside(source: Path, target: Path) -> None:
    """Copies what stands before texts, for formats that have no place for it, and prints that of queries."""
    prompts = Prompts.read(source)
    if prompts is not None:
        prompts.write(target)
        print(f"  before each query: {prompts.query!r}")


def write_reranker_tokenizer(source: Path, target: Path, max_tokens: int) -> RerankerTokenizer:
    """Writes and returns the tokenizer of a reranker, which appends nothing: the template ends the text.

    Args:
        source: model directory.
        target: existing directory to write to.
        max_tokens: longest text, prefix and suffix included.
    """
    tokenizer = load_reranker_tokenizer(str(source))
    tokenizer.save(target)
    pad_token = tokenizer.hf.pad_token or tokenizer.hf.eos_token
    _write_tokenizer_config(source, target, max_tokens, pad_token=pad_token)
    return tokenizer


def _write_tokenizer_config(source: Path, target: Path, max_tokens: int, pad_token: str) -> None:
    """tokenizer_config.json for 4.x, vLLM, llama.cpp and mlx, and the files of slow tokenizers.

    transformers 5 writes the generic class ``TokenizersBackend`` and ``extra_special_tokens`` as a list; 4.x, and
    software that uses it, raises an error on both. So the class of the base model and the old key are written.
    """
    file = target / "tokenizer_config.json"
    written = read_json(file)
    base_file = source / "tokenizer_config.json"
    base = read_json(base_file) if base_file.is_file() else {}
    classes = [settings.get("tokenizer_class") for settings in (base, written)]
    named = [name for name in classes if name not in (None, "TokenizersBackend")]
    written["tokenizer_class"] = named[0] if named else "PreTrainedTokenizerFast"
    for key in ("backend", "is_local", "local_files_only"):
        written.pop(key, None)
    if written.get("add_prefix_space", False) is None:
        written["add_prefix_space"] = False
    if isinstance(written.get("extra_special_tokens"), list):
        written["additional_special_tokens"] = written.pop("extra_special_tokens")
    written["pad_token"] = written.get("pad_token") or pad_token
    written["padding_side"] = "left"
    written["model_max_length"] = max_tokens
    write_json(file, written)
    if written["tokenizer_class"] in _SLOW_FORMS:
        _write_slow_tokenizer(target)


def _write_slow_tokenizer(target: Path) -> None:
    """vocab.json and merges.txt, which the Python tokenizers of 4.x read."""
    model = read_json(target / "tokenizer.json")["model"]
    vocabulary = json.dumps(model["vocab"], ensure_ascii=False)
    (target / "vocab.json").write_text(vocabulary, encoding="utf-8")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (target / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
