"""A LoRA adapter read as a full model: each update is added to its base tensor in float32, on loading."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor

from qwen3emb_train import lineage
from qwen3emb_train.models.weights import StoredWeights, require_finite

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_KEY = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")
# Settings that change the formula of the update; adapters with another value are refused.
_UNSUPPORTED = {"use_dora": False, "fan_in_fan_out": False, "bias": "none", "modules_to_save": None}


class AdaptedWeights:
    """Base plus adapter, with the interface of ``StoredWeights``: W + alpha / rank * B A.

    Every tensor is float32, unchanged ones of the base included: in bfloat16 a small update would be rounded away.

    Attributes:
        directory: the adapter's directory.
        base: the base's weights.
        names: the base's tensor names.
    """

    def __init__(self, directory: Path, base_directory: Path) -> None:
        """Reads the adapter and opens the base.

        Args:
            directory: of the adapter.
            base_directory: of the model it was trained on.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: the adapter is not plain LoRA, or the base is quantised, already has this adapter merged, or
                lacks tensors of the names and shapes that the adapter was trained on.
        """
        self.directory = directory
        settings = _read_json(directory / ADAPTER_CONFIG)
        _require_plain_lora(directory, settings)
        _require_usable_base(directory, base_directory)
        self.base = StoredWeights(base_directory)
        self.names = self.base.names
        self._updates = self._match(_read_pairs(directory))
        self._scales = {name: _scale(module, a, settings) for name, (module, a, _) in self._updates.items()}

    def shape(self, name: str) -> tuple[int, ...]:
        return self.base.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return torch.float32

    def load(self, name: str) -> Float[Tensor, "..."]:
        """One tensor in float32, with its update added.

        Raises:
            ValueError: it holds NaN or infinity.
        """
        tensor = self.base.load(name).float()
        if name in self._updates:
            _, a, b = self._updates[name]
            tensor.addmm_(b.float(), a.float(), alpha=self._scales[name])
            require_finite(tensor, name, self.directory)
        return tensor

    def _match(self, pairs: Mapping[str, dict[str, Tensor]]) -> dict[str, tuple[str, Tensor, Tensor]]:
        """The base tensor of each pair; adapters of a causal LM name ``model.layers``, a bare backbone ``layers``."""
        updates = {}
        for module, sides in pairs.items():
            plain = f"{module}.weight".removeprefix("model.")
            name = next((name for name in (f"{module}.weight", plain, f"model.{plain}") if name in self.names), None)
            if name is None or set(sides) != {"A", "B"}:
                raise ValueError(
                    f"{self.directory}: adapts {module!r}, which {self.base.directory} does not have (or one of "
                    "lora_A and lora_B is missing). The base is another model: set base to the adapter's own."
                )
            a, b = sides["A"], sides["B"]
            if a.ndim != 2 or (b.shape[0], a.shape[1]) != self.base.shape(name) or b.shape[1] != a.shape[0]:
                raise ValueError(
                    f"{self.directory}: lora_B {tuple(b.shape)} x lora_A {tuple(a.shape)} of {module!r} does not give "
                    f"the shape {self.base.shape(name)} that {self.base.directory} has. Set base to the adapter's own."
                )
            updates[name] = (module, a, b)
        return updates


def base_of(directory: Path, given: str | None) -> Path:
    """Directory of the base: ``given``, else the one that the adapter names.

    Raises:
        FileNotFoundError: it is not a local directory (a hub name is not downloaded).
    """
    named = given or _read_json(directory / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not named or not Path(named).is_dir():
        raise FileNotFoundError(
            f"{directory}: the adapter's base model is {named!r}, which is no directory here. Set base to the model "
            "directory that the adapter was trained on."
        )
    return Path(named)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. Give an adapter directory as peft's save_pretrained writes it.")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _require_plain_lora(directory: Path, settings: Mapping[str, Any]) -> None:
    if settings.get("peft_type", "LORA") != "LORA":
        raise ValueError(f"{directory}: is a {settings['peft_type']} adapter; only LoRA is merged. Merge it with peft.")
    for key, plain in _UNSUPPORTED.items():
        if (settings.get(key) or plain) != plain:
            raise ValueError(
                f"{directory}: {key} is {settings[key]!r}; only plain LoRA is merged here. Merge it with peft "
                "(merge_and_unload), save the model, and merge that."
            )


def _require_usable_base(adapter: Path, base: Path) -> None:
    config = _read_json(base / "config.json")
    if config.get("quantization_config"):
        raise ValueError(
            f"{base}: is quantised ({config['quantization_config'].get('quant_method')}), and an update merged into "
            "rounded weights is not the one that was trained. Set base to the unquantised model."
        )
    record = lineage.read_record(base)
    if record is not None and lineage.digest(adapter) in _all_inputs(record.inputs, record.parents):
        raise ValueError(
            f"{base}: has the adapter {adapter} merged into it already (its run.json says so); a second time would "
            "double the update. Set base to the model that the adapter was trained on."
        )


def _all_inputs(inputs: Mapping[str, str], parents: Mapping[str, Any]) -> set[str]:
    found = set(inputs.values())
    for parent in parents.values():
        found |= _all_inputs(parent["inputs"], parent["parents"])
    return found


def _read_pairs(directory: Path) -> dict[str, dict[str, Tensor]]:
    """module -> {"A": [rank, in], "B": [out, rank]}."""
    path = directory / ADAPTER_WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. Only safetensors adapters are read.")
    pairs: dict[str, dict[str, Tensor]] = {}
    with safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 - a safetensors file, not a dict
            match = _KEY.fullmatch(key)
            if match is None:
                raise ValueError(
                    f"{path}: tensor {key!r} is neither a lora_A nor a lora_B of a linear layer. Merge the adapter "
                    "with peft (merge_and_unload), save the model, and merge that."
                )
            pairs.setdefault(match["module"], {})[match["side"]] = file.get_tensor(key)
    return pairs


def _scale(module: str, a: Float[Tensor, "rank inputs"], settings: Mapping[str, Any]) -> float:
    """alpha / rank, or alpha / sqrt(rank) with rank stabilisation; the rank is that of the tensors."""
    patterns = settings.get("alpha_pattern") or {}
    fitting = (value for key, value in patterns.items() if re.fullmatch(rf"(.*\.)?({key})", module))
    alpha, rank = float(next(fitting, settings["lora_alpha"])), a.shape[0]
    return alpha / (rank**0.5 if settings.get("use_rslora") else rank)
