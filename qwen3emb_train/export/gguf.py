"""Writes a GGUF file for llama.cpp from a model directory or an export: weights, tokenizer, last-token pooling.

Keys of the file state what llama.cpp would otherwise guess: the pooling type (without it, mean pooling), the EOS token
with ``add_eos_token`` (``<|endoftext|>``, not the tokenizer's eos_token), and the name of the pre-tokenizer. llama.cpp
does not normalise text to Unicode NFC as the Qwen tokenizer does, so its input must be NFC text.
"""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train import lineage
from qwen3emb_train.data.tokenization import TextTokenizer, load_tokenizer
from qwen3emb_train.export.backbone import backbone_names, read_json, write_prompts_beside
from qwen3emb_train.export.gguf_tokenizer import GgufVocabulary, gguf_vocabulary
from qwen3emb_train.export.samples import REAL_TEXTS
from qwen3emb_train.index.inference import TextEncoder
from qwen3emb_train.models.weights import StoredWeights

PROGRAM = "export_gguf"
LEAST_COSINE = 0.999

# llama.cpp's names. RoPE of its llama rotates adjacent components, that of its qwen3 halves, as in transformers.
_ARCHITECTURES = {"qwen3": "QWEN3", "llama": "LLAMA"}
_ROTATES_NEIGHBOURS = {"llama"}


class GgufDtype(str, Enum):
    """Type of the matrices; norms are always float32, as llama.cpp requires."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@dataclass
class ExportGgufConfig:
    """Settings of a GGUF export.

    Attributes:
        model: a model directory or an export: a Qwen3 or Llama decoder with a byte-level BPE tokenizer.
        output_dir: receives NAME.gguf, the prompts that the model was trained with
            (config_sentence_transformers.json; llama.cpp puts none before a text), and run.json; its last component is
            NAME.
        dtype: of the matrices.
        max_tokens: context length recorded in the file; at most the positions of the backbone.
        verify: embed texts with llama.cpp (package xllamacpp, where installed) and compare.
    """

    model: str = "???"
    output_dir: str = "???"
    dtype: GgufDtype = GgufDtype.bfloat16
    max_tokens: int = 8192
    verify: bool = True


def export_gguf(config: ExportGgufConfig) -> Path:
    """Writes and verifies the file; returns its path.

    Raises:
        FileNotFoundError: the model directory lacks a file.
        ImportError: the ``gguf`` package is missing.
        ValueError: llama.cpp has no counterpart of this model or tokenizer, its vectors differ from ours, or
            ``max_tokens`` leaves no room for the verification.
    """
    source, output = Path(config.model), Path(config.output_dir)
    if importlib.util.find_spec("gguf") is None:
        raise ImportError("Writing a GGUF file needs the gguf package: pip install 'qwen3emb-train[gguf]'")
    file_name = f"{output.name}.gguf"
    if config.verify:
        _require_room(source, config.max_tokens)

    def write(made: lineage.Output) -> dict[str, Any]:
        file = made.directory / file_name
        write_gguf(source, file, config.dtype, config.max_tokens)
        write_prompts_beside(source, made.directory)
        figures = compare_with_llama_cpp(file, source) if config.verify else {"verified": False}
        print("  llama.cpp: " + ", ".join(f"{name} {figure}" for name, figure in figures.items()))
        return {"verification": figures}

    lineage.produce(PROGRAM, output, lineage.settings_of(config), {"model": source}, write)
    return output / file_name


def _require_room(source: Path, max_tokens: int) -> None:
    longest = max(map(len, load_tokenizer(str(source)).tokenize(list(REAL_TEXTS), 2048)))
    if max_tokens < longest:
        raise ValueError(
            f"max_tokens={max_tokens}: the texts of the verification have up to {longest} tokens. Raise it, or set "
            "verify=false."
        )


def write_gguf(source: Path, file: Path, dtype: GgufDtype, max_tokens: int) -> None:
    """Writes the file with one tensor in memory at a time.

    Args:
        source: model directory.
        file: to write.
        dtype: of the matrices.
        max_tokens: context length recorded in the file.

    Raises:
        ValueError: llama.cpp does not support the model or its tokenizer, or a weight does not fit float16.
    """
    from gguf import GGUFWriter

    config = read_json(source / "config.json")
    if config.get("model_type") not in _ARCHITECTURES:
        raise ValueError(
            f"{source}: model_type is {config.get('model_type')!r}; GGUF files are written for {list(_ARCHITECTURES)}."
        )
    weights = StoredWeights(source)
    plan = list(_tensor_plan(source, weights, config, dtype))
    tokenizer = load_tokenizer(str(source))
    vocabulary = gguf_vocabulary(tokenizer, num_rows=weights.shape(backbone_names(weights)["embed_tokens.weight"])[0])
    writer = GGUFWriter(None, config["model_type"])
    _add_architecture(writer, config, dtype, max_tokens)
    _add_tokenizer(writer, vocabulary, tokenizer)
    for name, shape, kind, _ in plan:
        item_size = {"F32": 4, "F16": 2, "BF16": 2}[kind.name]
        numel = torch.Size(shape).numel()
        writer.add_tensor_info(name, shape, _array_dtype(kind), numel * item_size, raw_dtype=kind)
    writer.write_header_to_file(file)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, _, kind, load in plan:
        writer.write_tensor_data(_as_array(load(), kind))
    writer.close()


def _tensor_plan(
    source: Path, weights: StoredWeights, config: dict[str, Any], dtype: GgufDtype
) -> Iterator[tuple[str, tuple[int, ...], Any, Any]]:
    """GGUF name, shape, type and loader of every tensor."""
    from gguf import MODEL_ARCH, GGMLQuantizationType, get_tensor_name_map

    arch = MODEL_ARCH[_ARCHITECTURES[config["model_type"]]]
    names = get_tensor_name_map(arch, config["num_hidden_layers"])
    matrix = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}[dtype.value]
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, stored in backbone_names(weights).items():
        target = names.get_name(f"model.{name}", try_suffixes=(".weight", ".bias"))
        if target is None:
            raise ValueError(f"{source}: llama.cpp's {arch.name} has no counterpart of tensor {name!r}.")
        shape = weights.shape(stored)
        module = name.split(".")[-2] if "." in name else name
        num_heads = heads.get(module) if config["model_type"] in _ROTATES_NEIGHBOURS else None

        def load(stored: str = stored, num_heads: int | None = num_heads) -> Float[Tensor, "..."]:
            tensor = weights.load(stored).float()
            return tensor if num_heads is None else interleave_rotary_halves(tensor, num_heads)

        yield target, shape, GGMLQuantizationType[matrix if len(shape) > 1 else "F32"], load


def interleave_rotary_halves(weight: Float[Tensor, "rows ..."], num_heads: int) -> Float[Tensor, "rows ..."]:
    """Reorders the rows of a query or key projection: components (i, i + half) of each head become adjacent."""
    half = len(weight) // num_heads // 2
    return weight.view(num_heads, 2, half, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def _add_architecture(writer: Any, config: dict[str, Any], dtype: GgufDtype, max_tokens: int) -> None:
    from gguf import LlamaFileType, PoolingType

    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default" or config.get("rope_scaling"):
        raise ValueError(f"config.json scales its rotary positions ({rope}): only plain ones are written to GGUF.")
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(min(max_tokens, config["max_position_embeddings"]))
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_pooling_type(PoolingType.LAST)
    if config.get("is_causal") is False:
        writer.add_causal_attention(False)
    file_type = {"float32": "ALL_F32", "bfloat16": "MOSTLY_BF16", "float16": "MOSTLY_F16"}[dtype.value]
    writer.add_file_type(LlamaFileType[file_type])


def _add_tokenizer(writer: Any, vocabulary: GgufVocabulary, tokenizer: TextTokenizer) -> None:
    writer.add_vocab_size(len(vocabulary.tokens))
    writer.add_tokenizer_model("gpt2")  # llama.cpp's name of byte-level BPE
    writer.add_tokenizer_pre(vocabulary.pre_tokenizer)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.token_types)
    writer.add_token_merges(vocabulary.merges)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.eos_token_id)
    if len(tokenizer.bos_ids) > 1:
        raise ValueError(
            f"the tokenizer puts {[*tokenizer.bos_ids]} before a text; GGUF files can name one such token."
        )
    if tokenizer.bos_ids:
        writer.add_bos_token_id(tokenizer.bos_ids[0])
    writer.add_add_bos_token(bool(tokenizer.bos_ids))
    writer.add_add_eos_token(True)


def _array_dtype(kind: Any) -> Any:
    import numpy as np

    return np.dtype({"F32": np.float32, "F16": np.float16, "BF16": np.uint16}[kind.name])


def _as_array(tensor: Float[Tensor, "..."], kind: Any) -> Any:
    target = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind.name]
    rounded = tensor.to(target).contiguous()
    if not torch.isfinite(rounded).all():
        raise ValueError("a weight does not fit float16 (it ends at 65504): choose bfloat16 or float32.")
    return (rounded.view(torch.uint16) if kind.name == "BF16" else rounded).numpy()


def compare_with_llama_cpp(file: Path, source: Path) -> dict[str, Any]:
    """Least cosine between the vectors of llama.cpp and ours on texts in many languages.

    Raises:
        ValueError: it is below 0.999.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        return {"skipped": "llama.cpp is not installed: pip install 'qwen3emb-train[gguf]' and export again"}
    expected = TextEncoder.load(str(source), precision="fp32", device="cpu").encode(REAL_TEXTS)
    cosines = (embed_with_llama_cpp(file, REAL_TEXTS) * expected).sum(dim=1)
    least, text = float(cosines.min()), REAL_TEXTS[int(cosines.argmin())]
    if not least >= LEAST_COSINE:
        raise ValueError(
            f"llama.cpp's vector of {text!r} has cosine {least:.6f} to ours (mean {float(cosines.mean()):.6f}); "
            f"below {LEAST_COSINE} the file is not published."
        )
    return {"least_cosine": least, "num_texts": len(REAL_TEXTS)}


def embed_with_llama_cpp(file: Path, texts: tuple[str, ...]) -> Float[Tensor, "texts dim"]:
    """Vectors from llama.cpp's server, with all settings that a GGUF file holds taken from the file."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(file)
    parameters.verbosity = 0  # errors only
    parameters.embedding = True
    parameters.n_parallel = 1
    parameters.n_ctx = 2048
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = torch.get_num_threads()
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(parameters)
    answer = server.handle_embeddings({"input": list(texts)})
    return torch.tensor([row["embedding"] for row in sorted(answer["data"], key=lambda row: int(row["index"]))])
