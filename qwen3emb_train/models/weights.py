"""Safetensors weights of a model directory, one tensor at a time, for merging and export.

Nothing here depends on an architecture. Reading holds one tensor and writing two, however large the files are.
"""

import hashlib
import json
import math
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from torch import Tensor

from qwen3emb_train.model_directory import shard_names

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MAX_WAITING_BYTES = 2**26


class StoredWeights:
    """The tensors of ``model.safetensors``, or of the shards that ``model.safetensors.index.json`` names.

    Attributes:
        directory: the model directory.
        names: names of the tensors, sorted.
    """

    def __init__(self, directory: Path) -> None:
        """Opens the files' headers.

        Raises:
            FileNotFoundError: no weights, or the index names a missing shard.
            ValueError: the directory holds an adapter, a file is damaged, or a tensor's dtype is not float32, bfloat16
                or float16.
        """
        self.directory = directory
        if (directory / "adapter_config.json").is_file():
            raise ValueError(
                f"{directory}: holds a LoRA adapter (adapter_config.json), not a model. Merge the adapter into its "
                "base model first (training does so when it saves a checkpoint's model/ directory)."
            )
        self._stored: dict[str, tuple[Path, str, list[int], int]] = {}  # file, dtype, shape, first byte
        for path in _weight_files(directory):
            self._stored.update(_read_header(path))
        self.names = sorted(self._stored)
        for name, (_, dtype, _, _) in sorted(self._stored.items()):
            if dtype not in _DTYPES:
                raise ValueError(
                    f"{directory}: tensor {name!r} is stored as {dtype}. Only float32, bfloat16 and float16 weights "
                    "are read; save the model unquantised first."
                )

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._stored[name][2])

    def dtype(self, name: str) -> torch.dtype:
        return _DTYPES[self._stored[name][1]]

    def load(self, name: str) -> Shaped[Tensor, "..."]:
        """One tensor, in its stored dtype.

        Read, not mapped: a mapped file is read 4 KiB at a time, and its pages count as this process's memory.

        Raises:
            ValueError: it holds NaN or infinity.
        """
        return self.part(name, 0, math.prod(self.shape(name))).view(self.shape(name))

    def part(self, name: str, first: int, count: int) -> Shaped[Tensor, " count"]:
        """Elements ``first .. first + count`` of a flattened tensor; nothing else of it is read.

        Args:
            name: of the tensor.
            first, count: in elements.

        Raises:
            ValueError: they hold NaN or infinity.
        """
        path, _, _, first_byte = self._stored[name]
        part = torch.empty(count, dtype=self.dtype(name))
        with path.open("rb", buffering=0) as file:
            file.seek(first_byte + first * part.element_size())
            _read_all(file, _bytes_of(part).numpy().data, path)
        require_finite(part, name, self.directory)
        return part


def require_finite(tensor: Shaped[Tensor, "..."], name: str, origin: Path) -> None:
    """Checks that a tensor is finite.

    Args:
        tensor: the values.
        name: its name, for the error message.
        origin: the file or directory it comes from, for the error message.

    Raises:
        ValueError: it holds NaN or infinity.
    """
    if math.isfinite(float(tensor.sum())):
        return  # a sum is finite only if every term is: one pass, where isfinite takes several and a mask
    if not torch.isfinite(tensor).all():
        count = int((~torch.isfinite(tensor)).sum())
        raise ValueError(
            f"{origin}: tensor {name!r} holds NaN or infinity in {count} of {tensor.numel()} values. The run that "
            "wrote it diverged, or the values exceed the requested dtype: take an earlier checkpoint, or float32."
        )


class TensorSpec(NamedTuple):
    """What is known of a tensor before it is made."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def write_weights(
    directory: Path, specs: Mapping[str, TensorSpec], load: Callable[[str], Tensor], max_shard_bytes: int
) -> dict[str, str]:
    """Writes tensors in the order of ``specs`` as one safetensors file, or as shards with an index.

    Where dtypes differ, order the wider ones first: readers need every tensor at a multiple of its item size. Another
    core digests a tensor while the next is made: two are held, or a few small ones.

    Args:
        directory: an existing directory.
        specs: of every tensor by name: shards are planned and headers written before the first tensor is loaded.
        load: returns a tensor by name; called once for each, in this order.
        max_shard_bytes: limit of a shard; one tensor larger than that has a shard of its own.

    Returns:
        SHA-256 of each weight file by name.
    """
    shards: list[dict[str, TensorSpec]] = [{}]
    filled = 0
    for name, spec in specs.items():
        if shards[-1] and filled + spec.num_bytes > max_shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = spec
        filled += spec.num_bytes
    weight_map, digests = {}, {}
    for number, shard in enumerate(shards, start=1):
        file_name = WEIGHTS_FILE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        digests[file_name] = _write_file(directory / file_name, shard, load)
        weight_map.update(dict.fromkeys(shard, file_name))
    if len(shards) > 1:
        total_size = sum(spec.num_bytes for spec in specs.values())
        index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
        (directory / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return digests


def _write_file(path: Path, specs: Mapping[str, TensorSpec], load: Callable[[str], Tensor]) -> str:
    """One safetensors file, tensor by tensor; returns its SHA-256."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, spec in specs.items():
        end = position + spec.num_bytes
        header[name] = {
            "dtype": _DTYPE_NAMES[spec.dtype], "shape": list(spec.shape), "data_offsets": [position, end],
        }  # fmt: skip
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # as the format allows: the tensors begin at a multiple of 8 bytes
    with path.open("wb", buffering=0) as file, _Hasher() as hasher:

        def write(buffer: memoryview) -> None:
            hasher.add(buffer)
            _write_all(file, buffer)

        write(memoryview(len(text).to_bytes(8, "little") + text))
        for name, spec in specs.items():
            tensor = load(name).contiguous()
            if (tensor.dtype, tensor.shape) != spec:
                raise ValueError(f"tensor {name!r} is {tensor.dtype} {tuple(tensor.shape)}, announced as {spec}.")
            write(_bytes_of(tensor).numpy().data)
    return hasher.digest.hexdigest()


class _Hasher:
    """SHA-256 on another core. Behind the buffer that is being read few bytes wait: buffers are kept meanwhile."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self._pool = ThreadPoolExecutor(1)
        self._pending: deque[tuple[Future[None], int]] = deque()

    def add(self, buffer: memoryview) -> None:
        while self._pending and sum(size for _, size in list(self._pending)[1:]) + len(buffer) > _MAX_WAITING_BYTES:
            self._pending.popleft()[0].result()
        self._pending.append((self._pool.submit(self.digest.update, buffer), len(buffer)))  # without the global lock

    def __enter__(self) -> "_Hasher":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()


def _read_header(path: Path) -> dict[str, tuple[Path, str, list[int], int]]:
    try:
        with safe_open(path, framework="pt"):  # checks lengths, offsets and overlaps
            pass
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}). Copy the model again.") from None
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    for buffer in [name for name in header if name.endswith("position_ids")]:
        del header[buffer]  # 0, 1, 2, ...: stored in old BERT files beside the weights
    return {
        name: (path, entry["dtype"], entry["shape"], 8 + length + entry["data_offsets"][0])
        for name, entry in header.items()
    }


def _bytes_of(tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, " bytes"]:
    return tensor.reshape(-1).view(torch.uint8)


def _read_all(file: Any, buffer: memoryview, path: Path) -> None:
    """A single read gives at most 2 GiB on Linux."""
    while buffer:
        count = file.readinto(buffer)
        if not count:
            raise ValueError(f"{path}: ended while it was read. Copy the model again.")
        buffer = buffer[count:]


def _write_all(file: Any, buffer: memoryview) -> None:
    while buffer:
        buffer = buffer[file.write(buffer) :]


def refuse_pickled_weights(directory: Path) -> None:
    """Refuses ``pytorch_model.bin`` without safetensors beside it: a pickle, which no program here reads.

    Raises:
        ValueError: the directory holds such weights; says how to convert them.
    """
    if (directory / WEIGHTS_FILE).is_file() or (directory / INDEX_FILE).is_file():
        return
    if pickled := sorted(directory.glob("pytorch_model*.bin")):
        raise ValueError(
            f"{directory}: its weights are a pickle ({pickled[0].name}); only safetensors are read. Convert them: "
            f"python -c \"from transformers import AutoModelForCausalLM as M; M.from_pretrained('{directory}')"
            f".save_pretrained('{directory}-safetensors')\" (AutoModel for an encoder), and copy the tokenizer files."
        )


def _weight_files(directory: Path) -> list[Path]:
    index = directory / INDEX_FILE
    if index.is_file():
        files = [directory / name for name in shard_names(index)]
        for file in files:
            if not file.is_file():
                raise FileNotFoundError(
                    f"{index}: names the shard {file.name}, which is missing. Copy the model again."
                )
        return files
    if not (directory / WEIGHTS_FILE).is_file():
        refuse_pickled_weights(directory)
        raise FileNotFoundError(
            f"{directory}: holds neither {WEIGHTS_FILE} nor {INDEX_FILE}. Give a model directory, for example "
            "outputs/RECIPE/STAGE/checkpoints/step_000100/model."
        )
    return [directory / WEIGHTS_FILE]
