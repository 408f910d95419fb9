"""Two model directories become a third: slerp over their weights, tensor by tensor.

The report's third stage merges checkpoints of the fine-tuning run by slerp (TR section 3.2). Memory: one tensor of each
input, their interpolation, and the output shard being filled, never a whole model (unless one shard holds it).
"""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train import lineage
from qwen3emb_train.merging.slerp import slerp
from qwen3emb_train.models.weights import StoredWeights, require_finite, write_weights

PROGRAM = "merge"

# What decides the function that the weights compute. Names, dtypes and generation settings may differ.
_ARCHITECTURE_KEYS = (
    "model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "intermediate_size", "hidden_act", "rms_norm_eps", "rope_parameters", "sliding_window", "layer_types",
    "attention_bias", "tie_word_embeddings", "is_causal",
)  # fmt: skip
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "vocab.json", "merges.txt", "chat_template.jinja",
)  # fmt: skip
_PER_CALL_STATE = ("truncation", "padding")


class MergeDtype(str, Enum):
    """``same``: each tensor in the inputs' dtype (the wider one where they differ)."""

    same = "same"
    float32 = "float32"
    bfloat16 = "bfloat16"


@dataclass
class MergeConfig:
    """What is merged.

    Attributes:
        models: the two model directories; a checkpoint's is ``.../checkpoints/step_000100/model``.
        t: position on the arc: 0 is the first model, 1 the second, 0.5 the middle.
        output_dir: the model directory to write.
        dtype: data type of the stored result; the interpolation itself is float32.
        max_shard_bytes: largest weights file.
    """

    models: list[str] = field(default_factory=list)
    t: float = 0.5
    output_dir: str = "???"
    dtype: MergeDtype = MergeDtype.same
    max_shard_bytes: int = 5_000_000_000

    def __post_init__(self) -> None:
        if len(self.models) != 2:
            raise ValueError(
                f"models names {len(self.models)} directories {self.models}; slerp takes exactly two. To merge more, "
                "merge two and merge the result with the next (t = 1/3 for the third gives equal shares)."
            )
        if not 0.0 <= self.t <= 1.0:
            raise ValueError(f"t is {self.t}; use a value from 0 (only the first model) to 1 (only the second).")
        if self.max_shard_bytes < 1:
            raise ValueError(f"max_shard_bytes is {self.max_shard_bytes}; use a positive number, e.g. 5000000000.")


def merge_models(config: MergeConfig) -> Path:
    """Merges and returns the written directory; does nothing where it is up to date.

    Raises:
        FileNotFoundError: an input lacks a file it needs.
        ValueError: the models differ in architecture, vocabulary, tensor names or shapes; an input holds an adapter or
            a non-finite value; two tensors are opposite.
    """
    output = Path(config.output_dir)
    inputs = {f"model_{position}": Path(path) for position, path in enumerate(config.models)}
    recorded = json.loads(json.dumps(asdict(config)))
    if lineage.is_up_to_date(output, PROGRAM, recorded, inputs):
        print(f"{output}: up to date")
        return output
    first, second = (StoredWeights(path) for path in inputs.values())
    hf_config = _load_config(first.directory)
    _require_same_architecture(hf_config, _load_config(second.directory), config.models)
    _require_same_tokenizer(first.directory, second.directory)
    names = _shared_names(first, second, tied=bool(hf_config.get("tie_word_embeddings")))
    dtypes = {name: _output_dtype(config.dtype, first.dtype(name), second.dtype(name)) for name in names}

    def merged(name: str) -> Float[Tensor, "..."]:
        a, b = first.load(name), second.load(name)
        try:
            result = slerp(a, b, config.t).to(dtypes[name])
        except ValueError as error:
            raise ValueError(f"tensor {name!r}: {error}") from None
        require_finite(result, name, output)
        return result

    with lineage.atomic_directory(output) as directory:
        sizes = {name: math.prod(first.shape(name)) * dtypes[name].itemsize for name in names}
        write_weights(directory, sizes, merged, config.max_shard_bytes)
        _copy_settings(first.directory, directory, set(dtypes.values()))
        weights = {"weights": {"model_0": 1.0 - config.t, "model_1": config.t}}
        lineage.write_record(directory, lineage.new_record(PROGRAM, recorded, inputs, **weights))
    return output


def _load_config(directory: Path) -> dict[str, Any]:
    """config.json as transformers understands it, so that old and new spellings (rope_theta) compare equal."""
    from transformers import AutoConfig

    if not (directory / "config.json").is_file():
        raise FileNotFoundError(f"{directory}: no config.json. Give a model directory in the Hugging Face layout.")
    return dict(AutoConfig.from_pretrained(directory).to_dict())


def _require_same_architecture(first: Mapping[str, Any], second: Mapping[str, Any], models: list[str]) -> None:
    different = [key for key in _ARCHITECTURE_KEYS if first.get(key) != second.get(key)]
    if different:
        values = "; ".join(f"{key}: {first.get(key)!r} and {second.get(key)!r}" for key in different)
        raise ValueError(
            f"{models[0]} and {models[1]} are not of one architecture. {values}. Merge checkpoints of the same base."
        )


def _require_same_tokenizer(first: Path, second: Path) -> None:
    tokenizers = []
    for directory in (first, second):
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing. Copy the tokenizer files of the model it was trained from.")
        tokenizers.append(json.loads(path.read_text(encoding="utf-8")))
    sections = sorted({*tokenizers[0], *tokenizers[1]} - set(_PER_CALL_STATE))
    different = [name for name in sections if tokenizers[0].get(name) != tokenizers[1].get(name)]
    if different:
        raise ValueError(
            f"{first} and {second}: their tokenizer.json differ in {different}, so the same text gives other ids. "
            "Merge models trained with one tokenizer (a post_processor alone: save both with the same closing token)."
        )


def _shared_names(first: StoredWeights, second: StoredWeights, *, tied: bool) -> list[str]:
    """Names of the tensors to merge, the same in both; a tied lm_head is the embedding again and is left out."""
    names, others = (
        [name for name in weights.names if not (tied and name.endswith("lm_head.weight"))]
        for weights in (first, second)
    )
    if names != others:
        raise ValueError(
            f"The tensors of the two models have different names: only in {first.directory}: "
            f"{sorted(set(names) - set(others))[:5]}; only in {second.directory}: "
            f"{sorted(set(others) - set(names))[:5]}. If they differ by a 'model.' prefix or an lm_head, pass one "
            "of them through a training checkpoint or the export program first: both write the bare backbone."
        )
    for name in names:
        if first.shape(name) != second.shape(name):
            raise ValueError(
                f"tensor {name!r} has shape {first.shape(name)} in {first.directory} and {second.shape(name)} in "
                f"{second.directory}. Merge checkpoints of the same base model."
            )
    return names


def _output_dtype(asked: MergeDtype, first: torch.dtype, second: torch.dtype) -> torch.dtype:
    if asked is MergeDtype.same:
        return torch.promote_types(first, second)
    return {MergeDtype.float32: torch.float32, MergeDtype.bfloat16: torch.bfloat16}[asked]


def _copy_settings(source: Path, target: Path, dtypes: set[torch.dtype]) -> None:
    """config.json (with the dtype now stored), and the tokenizer files as they are."""
    hf_config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    if len(dtypes) == 1:
        stored = str(dtypes.pop()).removeprefix("torch.")
        hf_config.update({key: stored for key in ("dtype", "torch_dtype") if key in hf_config})
    (target / "config.json").write_text(json.dumps(hf_config, indent=2) + "\n", encoding="utf-8")
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
