"""Opens the models to merge, and checks that they are compatible; errors name the difference."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qwen3emb_train.merging.adapters import ADAPTER_CONFIG, AdaptedWeights, base_of
from qwen3emb_train.merging.bare_weights import BareWeights, is_prefixed
from qwen3emb_train.merging.tokenizers import require_same_ids
from qwen3emb_train.model_directory import LAST_TOKEN, OLD_POOLING_NAMES, Prompts, reading_model
from qwen3emb_train.models.weights import INDEX_FILE, WEIGHTS_FILE, StoredWeights

# Settings that define the function of the weights. Names, dtypes and generation settings may differ.
_ARCHITECTURE_KEYS = (
    "model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "intermediate_size", "hidden_act", "rms_norm_eps", "rope_parameters", "sliding_window", "layer_types",
    "attention_bias", "tie_word_embeddings", "is_causal",
)  # fmt: skip
logger = logging.getLogger(__name__)
_OLD_POOLING_KEYS = {f"pooling_mode_{old}": new for new, old in OLD_POOLING_NAMES.items()}
_OLD_POOLING_KEYS[f"pooling_mode_{LAST_TOKEN}"] = LAST_TOKEN


@dataclass(frozen=True)
class ModelInput:
    """One of the models to merge.

    Attributes:
        directory: as given.
        weights: its tensors; for an adapter those of base plus adapter.
        settings: the directory with its config.json; for an adapter that of its base.
    """

    directory: Path
    weights: StoredWeights | AdaptedWeights | BareWeights
    settings: Path

    @property
    def tokenizer(self) -> Path:
        """The directory with its tokenizer.json; an adapter may have its own."""
        own = (self.directory / "tokenizer.json").is_file()
        return self.directory if own else self.settings


def open_model(directory: Path, base: str | None = None) -> ModelInput:
    """Opens a model directory, or an adapter on its base.

    Args:
        directory: of the model or adapter.
        base: of an adapter; None: the one that the adapter names.

    Raises:
        FileNotFoundError: a directory or file is missing.
        ValueError: weights cannot be read, or the directory holds both an adapter and a full model.
    """
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory}: no such directory. Give a model directory, or an adapter's.")
    if not (directory / ADAPTER_CONFIG).is_file():
        return ModelInput(directory, StoredWeights(directory), directory)
    if (directory / WEIGHTS_FILE).is_file() or (directory / INDEX_FILE).is_file():
        raise ValueError(
            f"{directory}: holds an adapter ({ADAPTER_CONFIG}) and a whole model; whether the adapter is merged into "
            "it already cannot be seen. Remove one of the two."
        )
    settings = base_of(directory, base)
    return ModelInput(directory, AdaptedWeights(directory, settings), settings)


def aligned(models: Sequence[ModelInput]) -> list[ModelInput]:
    """The models with the names of the bare backbone, where some are stored as that and others as causal LMs."""
    prefixed = [is_prefixed(model.weights.names) for model in models]
    if all(prefixed) or not any(prefixed):
        return list(models)
    return [
        replace(model, weights=BareWeights(model.weights)) if is_one else model
        for model, is_one in zip(models, prefixed, strict=True)
    ]


def fitting_names(models: Sequence[ModelInput]) -> list[str]:
    """Names of the tensors to merge, which all models share; a tied language-model head is left out.

    Raises:
        FileNotFoundError: a config.json or tokenizer.json is missing.
        ValueError: two models differ in architecture, tokenizer, pooling, tensor names or shapes.
    """
    first = models[0]
    config = load_config(first.settings)
    names = _names(first, config)
    for other in models[1:]:
        other_config = load_config(other.settings)
        _require_same_architecture(first.directory, config, other.directory, other_config)
        require_same_ids(first.tokenizer, other.tokenizer)
        _require_same_pooling(first.directory, other.directory)
        _require_same_tensors(first, names, other, _names(other, other_config))
    return names


def load_config(directory: Path) -> dict[str, Any]:
    """config.json as transformers parses it, so that old and new spellings (rope_theta) compare equal.

    Raises:
        FileNotFoundError: there is none.
    """
    from transformers import AutoConfig

    if not (directory / "config.json").is_file():
        raise FileNotFoundError(f"{directory}: no config.json. Give a model directory in the Hugging Face layout.")
    with reading_model(directory):
        return dict(AutoConfig.from_pretrained(directory, trust_remote_code=False).to_dict())


def _names(model: ModelInput, config: Mapping[str, Any]) -> list[str]:
    tied = bool(config.get("tie_word_embeddings"))
    return [name for name in model.weights.names if not (tied and name.endswith("lm_head.weight"))]


def _require_same_architecture(
    first: Path, first_config: Mapping[str, Any], second: Path, second_config: Mapping[str, Any]
) -> None:
    different = [key for key in _ARCHITECTURE_KEYS if first_config.get(key) != second_config.get(key)]
    if different:
        values = "; ".join(f"{key}: {first_config.get(key)!r} and {second_config.get(key)!r}" for key in different)
        raise ValueError(
            f"{first} and {second} are not of one architecture. {values}. Merge checkpoints of the same base."
        )


def _require_same_pooling(first: Path, second: Path) -> None:
    ours, theirs = pooling_of(first), pooling_of(second)
    if ours != theirs:
        raise ValueError(
            f"{first} and {second} make one vector of a text in different ways: {ours} and {theirs}. Merge models "
            "trained with one pooling."
        )


def pooling_of(directory: Path) -> str:
    """The pooling of an export ("lasttoken", "mean", ...); of any other directory "lasttoken".

    Raises:
        ValueError: the export has modules with weights of their own, which a merge of the backbone would lose.
    """
    modules_file = directory / "modules.json"
    if not modules_file.is_file():
        return LAST_TOKEN
    modules = json.loads(modules_file.read_text(encoding="utf-8"))
    kinds = {module["type"].rsplit(".", 1)[-1]: module["path"] for module in modules}
    extra = sorted(set(kinds) - {"Transformer", "Pooling", "Normalize"})
    if extra:
        raise ValueError(f"{directory}: has modules {extra} beside the backbone, which a merge would lose.")
    if "Pooling" not in kinds:
        return "none"
    settings = json.loads((directory / kinds["Pooling"] / "config.json").read_text(encoding="utf-8"))
    modes = settings.get("pooling_mode") or [mode for key, mode in _OLD_POOLING_KEYS.items() if settings.get(key)]
    return modes if isinstance(modes, str) else "+".join(modes)


def carried_prompts(models: Sequence[ModelInput]) -> Prompts | None:
    """The prompts of the first model that records any, which the merge keeps; None where none does."""
    return next((prompts for prompts in map(_prompts, models) if prompts is not None), None)


def report_other_prompts(models: Sequence[ModelInput]) -> None:
    """Logs a line for each model that was trained with another instruction than the merge carries on."""
    carried = carried_prompts(models)
    for model in models:
        own = _prompts(model)
        if carried is not None and own is not None and own.query != carried.query:
            logger.warning(
                "instruction differs: %s was trained with %r before queries; the merge carries on the first's, %r.",
                model.directory, own.query, carried.query,
            )  # fmt: skip


def _prompts(model: ModelInput) -> Prompts | None:
    return Prompts.read(model.directory) or Prompts.read(model.settings)


def _require_same_tensors(first: ModelInput, names: list[str], second: ModelInput, others: list[str]) -> None:
    if names != others:
        raise ValueError(
            f"The tensors of the two models have different names: only in {first.directory}: "
            f"{sorted(set(names) - set(others))[:5]}; only in {second.directory}: "
            f"{sorted(set(others) - set(names))[:5]}. If they differ by an lm_head, pass that one through a training "
            "checkpoint or the export program first: both write the bare backbone."
        )
    for name in names:
        if first.weights.shape(name) != second.weights.shape(name):
            raise ValueError(
                f"tensor {name!r} has shape {first.weights.shape(name)} in {first.directory} and "
                f"{second.weights.shape(name)} in {second.directory}. Merge checkpoints of the same base model."
            )
