"""Models whose weights stay in their files: built without memory for them, so that each rank reads its part alone.

Whatever here cannot be known for certain (a hub name's files, names that transformers converts, quantised values) is a
``NotInPartsError``: the caller then loads as ever.
"""

import copy
import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qwen3emb_train.models.exactness import settle_attention
from qwen3emb_train.models.packing import PACKED
from qwen3emb_train.models.weights import StoredWeights

_PROBE_ROWS, _PROBE_WIDTH = 256, 128  # of the probe's embedding; of its MLPs, which no text shares with another
_NO_TRAIT = {"layer_idx", "training", "layer_number"}  # differ between layers that compute alike


class NotInPartsError(Exception):
    """The weights cannot be read in parts; says why."""


@dataclass(frozen=True)
class UnreadWeights:
    """Where the weights of a model's meta parameters are.

    Attributes:
        stored: the files.
        names: stored names by parameter name.
    """

    stored: StoredWeights
    names: Mapping[str, str]

    @staticmethod
    def of(model: nn.Module, stored: StoredWeights, places: Mapping[nn.Parameter, str]) -> "UnreadWeights":
        """Under the names in ``model``, which holds the parameters of ``places`` and perhaps adapters.

        Args:
            model: its parameters are named.
            stored: the files.
            places: of ``stored_names``.
        """
        names = {name: places[parameter] for name, parameter in model.named_parameters() if parameter in places}
        return UnreadWeights(stored, names)

    def part(self, parameter: str, first: int, count: int) -> Tensor:
        """Elements ``first .. first + count`` of the flattened weight, in its stored dtype.

        Args:
            parameter: its name in the model.
            first, count: in elements.

        Raises:
            ValueError: the file ended, or they hold NaN or infinity.
        """
        return self.stored.part(self.names[parameter], first, count)


def build_unread(auto_class: Any, hf_config: Any, path: str, trust_remote_code: bool) -> tuple[Any, StoredWeights]:
    """A transformers model with meta parameters and real buffers, and the files that hold its weights.

    Args:
        auto_class: of transformers.
        hf_config: the configuration, as changed by the caller.
        path: a model directory.
        trust_remote_code: as in ``ModelConfig``.

    Raises:
        NotInPartsError: they cannot be read in parts, or are damaged: loading them whole says how.
    """
    if not Path(path).is_dir():
        raise NotInPartsError("it is a hub name, not a directory")
    if getattr(hf_config, "quantization_config", None) is not None:
        raise NotInPartsError("its weights are quantised")
    try:
        stored = StoredWeights(Path(path))
    except (OSError, ValueError) as error:
        raise NotInPartsError(str(error).splitlines()[0]) from error
    from accelerate import init_empty_weights

    with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
        model = auto_class.from_config(hf_config, dtype=torch.float32, trust_remote_code=trust_remote_code)
    model.tie_weights()
    model.eval()
    _require_plain_names(model)
    return model, stored


def stored_names(model: Any, stored: StoredWeights) -> dict[nn.Parameter, str]:
    """Which stored tensor each parameter of a transformers model is; with or without the base model's prefix.

    Args:
        model: of ``build_unread``.
        stored: of ``build_unread``.

    Raises:
        NotInPartsError: one is missing or of another shape.
    """
    prefix = f"{model.base_model_prefix}."
    available = set(stored.names)
    found = {}
    for name, parameter in model.named_parameters():
        candidates = (name, prefix + name, name.removeprefix(prefix))
        match = next((candidate for candidate in candidates if candidate in available), None)
        if match is None or stored.shape(match) != tuple(parameter.shape):
            raise NotInPartsError(f"{name} is not stored under its own name and shape")
        found[parameter] = match
    return found


def settle_attention_unread(backbone: Any, path: str, *, want_packed: bool, trust_remote_code: bool = False) -> None:
    """``settle_attention`` for a model without weights, tried on its first layers with random ones.

    Exactness is a property of the architecture. The layers tried are the first ones that include each kind.

    Args:
        backbone: of ``build_unread``.
        path: of the model, for messages.
        want_packed: see ``settle_attention``.
        trust_remote_code: as in ``ModelConfig``.

    Raises:
        NotInPartsError: no such small model can be built, or it cannot be run.
    """
    try:
        probe = _first_layers(backbone, trust_remote_code)
    except Exception as error:  # a foreign architecture: whatever it raises, it is tried whole then
        raise NotInPartsError(f"its first layers cannot be built alone ({type(error).__name__})") from error
    try:
        settle_attention(probe, path, want_packed=want_packed)
    except ValueError as error:  # the whole model decides
        raise NotInPartsError("its first layers cannot be tried alone") from error
    if probe.config._attn_implementation == PACKED:
        backbone.set_attn_implementation(PACKED)
    del probe
    gc.collect()  # transformers' modules hold one another: the probe would stay beside the weights


@contextmanager
def standing_in(model: nn.Module) -> Iterator[None]:
    """Gives meta parameters a stand-in of one element's memory on the CPU meanwhile.

    peft puts adapters where the weights they adapt are; on meta their first values would be lost.
    """
    pairs: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_meta:
                if parameter not in pairs:
                    zeros = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
                    pairs[parameter] = nn.Parameter(zeros, requires_grad=parameter.requires_grad)
                module._parameters[name] = pairs[parameter]
    try:
        yield
    finally:
        back = {stand_in: parameter for parameter, stand_in in pairs.items()}
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter in back:
                    back[parameter].requires_grad_(parameter.requires_grad)
                    module._parameters[name] = back[parameter]


def _require_plain_names(model: Any) -> None:
    """transformers merges, splits or renames some families' weights as it loads them."""
    from transformers.conversion_mapping import get_model_conversion_mapping

    if get_model_conversion_mapping(model, add_legacy=False):
        raise NotInPartsError(f"transformers converts the weights of {model.config.model_type} as it loads them")


def _first_layers(backbone: Any, trust_remote_code: bool) -> Any:
    """A random model of the first layers that include each kind, with few rows in its embedding."""
    from transformers import AutoModel

    layers = next(module for name, module in backbone.named_modules() if name.rsplit(".", 1)[-1] == "layers")
    kinds = [_traits(layer) for layer in layers]
    config = copy.deepcopy(backbone.config)
    config.num_hidden_layers = 1 + max(kinds.index(kind) for kind in kinds)
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = config.layer_types[: config.num_hidden_layers]
    config.vocab_size = min(config.vocab_size, _PROBE_ROWS)
    if isinstance(getattr(config, "intermediate_size", None), int):
        config.intermediate_size = min(config.intermediate_size, _PROBE_WIDTH)
    config.pad_token_id = None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        probe = AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=trust_remote_code)
        for parameter in probe.parameters():
            if parameter.ndim == 2:  # the usual 0.02 makes all texts look alike
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    for name, module in probe.named_modules():  # as the caller set it up (bidirectional)
        if hasattr(module, "is_causal"):
            module.is_causal = backbone.get_submodule(name).is_causal
    return probe.eval()


def _traits(layer: nn.Module) -> str:
    """What decides how a layer computes: its modules, their plain settings and their weights' shapes."""
    parts = []
    for name, module in layer.named_modules():
        settings = {
            key: value
            for key, value in sorted(vars(module).items())
            if key not in _NO_TRAIT and isinstance(value, bool | int | float | str | None)
        }
        shapes = [(key, tuple(parameter.shape)) for key, parameter in module.named_parameters(recurse=False)]
        parts.append(f"{name} {type(module).__name__} {settings} {shapes}")
    return "\n".join(parts)
