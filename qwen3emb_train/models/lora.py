"""LoRA by peft: which layers get adapters, and their updates added to the weights that are saved."""

import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from qwen3emb_train.models.dropout import TextDropout, TextKeys
from qwen3emb_train.models.quantization import dequantized, is_quantized
from qwen3emb_train.models.text_model import at_least_float32

_ALL_LINEAR = "all-linear"
_NAME = re.compile(r"[\w.\-]+")


@dataclass
class LoraConfig:
    """Low-rank adapters (peft); saved models have them merged.

    Attributes:
        rank: inner dimension; 0 = no adapters, all weights are trained; 32 is a usual rank. The report names LoRA but
            no rank.
        alpha: scale numerator: the update is multiplied by alpha / rank.
        dropout: on the adapters' input, from 0 to below 1.
        target_modules: linear layers to adapt, as peft has it: "all-linear" = every one; names or ends of names, as in
            [q_proj, v_proj]; or one regular expression over whole names.
    """

    rank: int = 0
    alpha: int = 64
    dropout: float = 0.0
    target_modules: Any = _ALL_LINEAR

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ValueError(f"model.lora.rank is {self.rank}; use 0 for full training, or a rank such as 32.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.lora.dropout is {self.dropout}; use 0 (none) to below 1, usually 0.05 or 0.1.")
        self.target_modules = _names_or_pattern(self.target_modules)


def _names_or_pattern(given: Any) -> str | list[str]:
    """A list of names; a text that is neither a name nor names with commas between them is a regular expression.

    Raises:
        ValueError: anything else.
    """
    key = "model.lora.target_modules"
    if isinstance(given, str):
        parts = [part.strip() for part in given.split(",")]
        if given == _ALL_LINEAR:
            return given
        if all(_NAME.fullmatch(part) for part in parts):
            return parts
        try:
            re.compile(given)
        except re.error as error:
            raise ValueError(f"{key} is {given!r}: neither names nor a regular expression ({error}).") from None
        return given
    if not isinstance(given, list | tuple) or not given or not all(isinstance(name, str) for name in given):
        raise ValueError(f"{key} is {given!r}: give names as in [q_proj, v_proj], a regular expression or all-linear.")
    return _ALL_LINEAR if list(given) == [_ALL_LINEAR] else list(given)


def add_lora(backbone: Any, lora: LoraConfig) -> Any:
    """The backbone with peft's adapters, the rest frozen.

    Raises:
        ValueError: ``target_modules`` names no linear layer of it.
    """
    import peft

    settings = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout,
        target_modules=_targets(backbone, lora.target_modules), task_type="FEATURE_EXTRACTION",
    )  # fmt: skip
    adapted = peft.get_peft_model(backbone, settings)
    for layer in _lora_layers(adapted):
        layer.cast_input_dtype_enabled = False  # to float32, from which autocast would round it back
    return adapted


def _lora_layers(backbone: Any) -> list[Any]:
    from peft.tuners.lora import LoraLayer

    return [module for module in backbone.modules() if isinstance(module, LoraLayer)]


def _targets(backbone: nn.Module, given: str | list[str]) -> str | list[str]:
    """The full names of the layers that are meant."""
    from transformers.pytorch_utils import Conv1D

    linear = [name for name, module in backbone.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    ends = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
    if not linear:
        raise ValueError("model.lora.rank is set, but the model has no linear layer to adapt: use rank=0.")
    if given == _ALL_LINEAR:
        return given
    if isinstance(given, str):
        found = [name for name in linear if re.fullmatch(given, name)]
        if not found:
            raise ValueError(
                f"model.lora.target_modules={given}: matches no linear layer. Full names are such as {linear[0]}; "
                f"their ends: {ends}."
            )
        return found
    targets: list[str] = []
    for part in given:
        found = [name for name in linear if name == part or name.endswith(f".{part}")]
        if not found:
            raise ValueError(
                f"model.lora.target_modules has {part!r}, which is no linear layer of this model. There are: {ends}."
            )
        targets += found
    return list(dict.fromkeys(targets))


def is_peft(backbone: Any) -> bool:
    return hasattr(backbone, "peft_config")


def bare(backbone: Any) -> Any:
    """The transformers model under its adapters, if it has any."""
    return backbone.get_base_model() if is_peft(backbone) else backbone


def with_adapters(backbone: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under their own names, each update added on the CPU.

    Args:
        backbone: with adapters.
        weights: of the backbone and its adapters, by peft's names.
    """
    from peft.tuners.lora import LoraLayer

    for name, module in bare(backbone).named_modules():
        if isinstance(module, LoraLayer):
            base, a, b = (
                at_least_float32(weights.pop(f"{name}.{part}.weight").detach().cpu())
                for part in ("base_layer", "lora_A.default", "lora_B.default")
            )
            if is_quantized(module.base_layer):
                base = dequantized(module.base_layer)
                for key in [key for key in weights if key.startswith(f"{name}.base_layer.weight.")]:
                    del weights[key]
            update = (b @ a) * module.scaling["default"]
            # GPT-2's layers store [inputs, outputs].
            weights[f"{name}.weight"] = base + (update.T if module.fan_in_fan_out else update)
    return {name.replace("base_layer.", ""): tensor for name, tensor in weights.items()}


def use_text_dropout(backbone: Any, shared: TextKeys) -> None:
    """Replaces the adapters' dropout by one that is independent of chunks and ranks."""
    for layer in _lora_layers(backbone):
        layer.lora_dropout["default"] = TextDropout(float(layer.lora_dropout["default"].p), shared)
