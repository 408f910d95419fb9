"""Safetensors weights of a model directory, one tensor at a time: what merging and export read and write.

Nothing here knows an architecture. Reading maps the files and copies single tensors; writing holds one shard.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from jaxtyping import Shaped
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


class StoredWeights:
    """The tensors of ``model.safetensors``, or of the shards that ``model.safetensors.index.json`` names.

    Attributes:
        directory: the model directory.
        names: names of the tensors, sorted.
    """

    def __init__(self, directory: Path) -> None:
        """Opens the files' headers.

        Raises:
            FileNotFoundError: no weights, or the index names a shard that is not there.
            ValueError: the directory holds an adapter, or a tensor's dtype is not float32, bfloat16 or float16.
        """
        self.directory = directory
        if (directory / "adapter_config.json").is_file():
            raise ValueError(
                f"{directory}: holds a LoRA adapter (adapter_config.json), not a model. Merge the adapter into its "
                "base model first (training does so when it saves a checkpoint's model/ directory)."
            )
        self._files = {}
        for path in _weight_files(directory):
            file = safe_open(path, framework="pt")
            self._files.update(dict.fromkeys(file.keys(), file))
        self.names = sorted(self._files)
        for name in self.names:
            stored = self._files[name].get_slice(name).get_dtype()
            if stored not in _DTYPES:
                raise ValueError(
                    f"{directory}: tensor {name!r} is stored as {stored}. Only float32, bfloat16 and float16 weights "
                    "are read; save the model unquantised first."
                )

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._files[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        return _DTYPES[self._files[name].get_slice(name).get_dtype()]

    def load(self, name: str) -> Shaped[Tensor, "..."]:
        """One tensor, in its stored dtype.

        Raises:
            ValueError: it holds NaN or infinity.
        """
        tensor: Tensor = self._files[name].get_tensor(name)
        require_finite(tensor, name, self.directory)
        return tensor


def require_finite(tensor: Shaped[Tensor, "..."], name: str, origin: Path) -> None:
    """Raises a ValueError naming the tensor and where it is from if it holds NaN or infinity."""
    if not torch.isfinite(tensor).all():
        count = int((~torch.isfinite(tensor)).sum())
        raise ValueError(
            f"{origin}: tensor {name!r} holds NaN or infinity in {count} of {tensor.numel()} values. The run that "
            "wrote it diverged, or the values do not fit the dtype asked for: take an earlier checkpoint, or float32."
        )


def write_weights(
    directory: Path, sizes: Mapping[str, int], load: Callable[[str], Tensor], max_shard_bytes: int
) -> None:
    """Writes tensors in the order of ``sizes`` as one safetensors file, or as shards with an index.

    Args:
        directory: an existing directory.
        sizes: bytes of every tensor by name: the shards are planned before the first tensor is loaded.
        load: gives a tensor by name; called once for each, when its shard is written.
        max_shard_bytes: limit of a shard; one tensor larger than that has a shard of its own.
    """
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    weight_map = {}
    for number, names in enumerate(shards, start=1):
        file_name = WEIGHTS_FILE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: load(name).contiguous() for name in names}
        save_file(tensors, directory / file_name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(names, file_name))
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (directory / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _weight_files(directory: Path) -> list[Path]:
    index = directory / INDEX_FILE
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        files = [directory / name for name in names]
        for file in files:
            if not file.is_file():
                raise FileNotFoundError(
                    f"{index}: names the shard {file.name}, which is missing. Copy the model again."
                )
        return files
    if not (directory / WEIGHTS_FILE).is_file():
        raise FileNotFoundError(
            f"{directory}: holds neither {WEIGHTS_FILE} nor {INDEX_FILE}. Give a model directory, for example "
            "outputs/RECIPE/STAGE/checkpoints/step_000100/model."
        )
    return [directory / WEIGHTS_FILE]
