"""The program ``merge``: merges model directories tensor by tensor, without a whole model in memory.

Checkpoints of the fine-tuning run are merged by slerp in the third stage of arXiv 2506.05176, section 3.2.
"""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train import lineage
from qwen3emb_train.merging.checkpoints import select_checkpoints
from qwen3emb_train.merging.config import MergeConfig, MergeDtype, MergeMethod, MergeSourceConfig
from qwen3emb_train.merging.inputs import (
    ModelInput,
    aligned,
    carried_prompts,
    fitting_names,
    load_config,
    open_model,
    report_other_prompts,
)
from qwen3emb_train.merging.methods.karcher import karcher_mean
from qwen3emb_train.merging.methods.linear import weighted_mean
from qwen3emb_train.merging.methods.slerp import slerp, slerp_in_turn
from qwen3emb_train.merging.methods.task_vectors import dare, ties
from qwen3emb_train.merging.tokenizers import carried_tokenizer
from qwen3emb_train.model_directory import TOKENIZER_FILES
from qwen3emb_train.models.weights import TensorSpec, require_finite, write_weights

PROGRAM = "merge"
WeightsByName = Callable[[str], list[float]]
"""Tensor name -> the models' weights, with the sum 1."""

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


def merge_models(config: MergeConfig) -> Path:
    """Merges models and returns the output directory; does nothing where it is up to date.

    Raises:
        FileNotFoundError: a file of an input is missing.
        ValueError: the models differ in architecture, vocabulary, pooling, tensor names or shapes; an input holds a
            non-finite value; two tensors are opposite; a group_t matches no tensor.
    """
    output = Path(config.output_dir)
    models = model_directories(config)
    inputs = input_directories(config, models)

    def write(made: lineage.Output) -> dict[str, Any]:
        merge = Merge(config, models)
        weights = merge.weights_by_name(config)
        # The digests of the inputs take about as long as the merge, and another core.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: made.record)
            made.digests.update(merge.write(made.directory, weights))
        metrics: dict[str, Any] = {"models": [str(model) for model in models]}
        if not (config.layer_t or config.group_t):
            metrics["weights"] = {f"model_{i}": weight for i, weight in enumerate(_given_weights(config, len(models)))}
        return metrics

    lineage.produce(PROGRAM, output, lineage.settings_of(config), inputs, write)
    return output


def model_directories(config: MergeSourceConfig) -> list[Path]:
    """The named models, or the selected checkpoints of the run."""
    if config.run is None:
        return [Path(model) for model in config.models]
    return select_checkpoints(Path(config.run), config.count, config.select, config.metric)


def input_directories(config: MergeSourceConfig, models: Sequence[Path]) -> dict[str, Path]:
    """Inputs by name for run.json: models, bases of adapters, and the base of task vectors."""
    inputs = {}
    for position, directory in enumerate(models):
        opened = open_model(directory, config.base)
        inputs[f"model_{position}"] = directory
        if opened.settings != directory:
            inputs[f"base of model_{position}"] = opened.settings
    if config.method.needs_base:
        inputs["base"] = Path(str(config.base))
    return inputs


class Merge:
    """Opened, compatible models; writes their merge for any weights, as often as a search needs it.

    Attributes:
        models: the opened models.
        names: of the shared tensors, wider dtypes first.
    """

    def __init__(self, config: MergeSourceConfig, models: Sequence[Path]) -> None:
        self._config = config
        opened = [open_model(directory, config.base) for directory in models]
        if config.method.needs_base:
            opened.append(open_model(Path(str(config.base))))
        opened = aligned(opened)
        names = fitting_names(opened)
        self.models = opened[: len(models)]
        self._base = opened[-1] if config.method.needs_base else None
        self._dtypes = {name: self._output_dtype(name) for name in names}
        report_other_prompts(self.models)
        self.names = sorted(names, key=lambda name: -self._dtypes[name].itemsize)

    def weights_by_name(self, config: MergeConfig) -> WeightsByName:
        """The weights of each tensor under the settings of a merge.

        Raises:
            ValueError: a group_t matches no tensor.
        """
        for part in config.group_t:
            if not any(part in name for name in self.names):
                raise ValueError(f"group_t.{part}: no tensor has it in its name. Names are such as {self.names[:3]}.")
        everywhere = _given_weights(config, len(self.models))
        num_layers = int(load_config(self.models[0].settings).get("num_hidden_layers") or 1)

        def weights(name: str) -> list[float]:
            t = next((t for part, t in config.group_t.items() if part in name), None)
            if t is None and config.layer_t:
                t = _at_depth(config.layer_t, name, num_layers)
            return everywhere if t is None else [1.0 - t, t]

        return weights

    def write(self, directory: Path, weights: WeightsByName) -> dict[str, str]:
        """Writes weights, config.json, tokenizer and prompts into an existing directory.

        Args:
            directory: to write to.
            weights: of the models, by tensor name.

        Returns:
            SHA-256 of each weight file by name.

        Raises:
            ValueError: a tensor is not finite, or two are opposite; the message names it.
        """
        specs = {name: TensorSpec(self._dtypes[name], self.models[0].weights.shape(name)) for name in self.names}

        def merged(name: str) -> Float[Tensor, "..."]:
            try:
                result = self._merged(name, weights(name))
            except ValueError as error:
                raise ValueError(f"tensor {name!r}: {error}") from None
            require_finite(result, name, Path("the merge"))
            return result

        digests = write_weights(directory, specs, merged, self._config.max_shard_bytes)
        self._copy_settings(directory)
        return digests

    def _merged(self, name: str, all_weights: Sequence[float]) -> Float[Tensor, "..."]:
        config, dtype = self._config, self._dtypes[name]
        present = [position for position, weight in enumerate(all_weights) if weight > 0.0]
        weights = [all_weights[position] for position in present]
        tensors = (self.models[position].weights.load(name) for position in present)
        if len(present) == 1 and (self._base is None or (config.density == 1.0 and config.scale == 1.0)):
            return next(tensors).to(dtype)
        match config.method:
            case MergeMethod.slerp if len(present) == 2:
                return slerp(next(tensors), next(tensors), weights[1], dtype)
            case MergeMethod.slerp:
                return slerp_in_turn(tensors, weights).to(dtype)
            case MergeMethod.linear:
                return weighted_mean(tensors, weights).to(dtype)
            case MergeMethod.karcher:
                return karcher_mean(list(tensors), weights).to(dtype)
        assert self._base is not None
        base, thinned = self._base.weights.load(name), {"density": config.density, "scale": config.scale}
        if config.method is MergeMethod.ties:
            return ties(base, list(tensors), weights, **thinned).to(dtype)
        seeds = [f"{config.seed}/{position}/{name}" for position in present]
        elect_signs = config.method is MergeMethod.dare_ties
        return dare(base, list(tensors), weights, seeds=seeds, elect_signs=elect_signs, **thinned).to(dtype)

    def _output_dtype(self, name: str) -> torch.dtype:
        if self._config.dtype is not MergeDtype.same:
            return {MergeDtype.float32: torch.float32, MergeDtype.bfloat16: torch.bfloat16}[self._config.dtype]
        dtype = self.models[0].weights.dtype(name)
        for model in self.models[1:]:
            dtype = torch.promote_types(dtype, model.weights.dtype(name))
        return dtype

    def _copy_settings(self, target: Path) -> None:
        """config.json with the new dtype; the tokenizer files and prompts unchanged."""
        first: ModelInput = self.models[0]
        hf_config = json.loads((first.settings / "config.json").read_text(encoding="utf-8"))
        dtypes = set(self._dtypes.values())
        if len(dtypes) == 1:
            stored = str(dtypes.pop()).removeprefix("torch.")
            hf_config.update({key: stored for key in ("dtype", "torch_dtype") if key in hf_config})
        (target / "config.json").write_text(json.dumps(hf_config, indent=2) + "\n", encoding="utf-8")
        tokenizer = carried_tokenizer([model.tokenizer for model in self.models])
        for name in TOKENIZER_FILES:
            if (tokenizer / name).is_file():
                shutil.copyfile(tokenizer / name, target / name)
        if (prompts := carried_prompts(self.models)) is not None:
            prompts.write(target)


def _given_weights(config: MergeConfig, num_models: int) -> list[float]:
    if config.t is not None:
        return [1.0 - config.t, config.t]
    weights = config.weights or [1.0] * num_models
    return [weight / sum(weights) for weight in weights]


def _at_depth(values: Sequence[float], name: str, num_layers: int) -> float:
    """The value at a tensor's depth, linear between the evenly spaced ``values``."""
    layer = _LAYER.search(name)
    if layer is None:
        return values[0] if "embed" in name else values[-1]
    position = int(layer[1]) / max(1, num_layers - 1) * (len(values) - 1)
    below = min(int(position), len(values) - 1)
    above = min(below + 1, len(values) - 1)
    return values[below] + (position - below) * (values[above] - values[below])
