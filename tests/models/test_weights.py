"""Weights written in shards are read back to the bit, one tensor at a time; what cannot be read is named."""

import json
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwen3emb_train.lineage import file_digest
from qwen3emb_train.models import weights
from qwen3emb_train.models.loading import ModelConfig, load_encoder
from qwen3emb_train.models.weights import (
    INDEX_FILE,
    WEIGHTS_FILE,
    StoredWeights,
    TensorSpec,
    require_finite,
    write_weights,
)


def specs_of(tensors: dict[str, torch.Tensor]) -> dict[str, TensorSpec]:
    return {name: TensorSpec(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}


@pytest.mark.parametrize(("max_shard_bytes", "num_files"), [(10_000, 1), (100, 3), (1, 4)])
def test_what_is_written_is_read_back(tmp_path: Path, max_shard_bytes: int, num_files: int) -> None:
    """40 + 40 + 40 + 80 bytes: no shard exceeds its limit unless one tensor does."""
    tensors = {name: torch.randn(10) for name in "abc"} | {"d": torch.randn(8, 5).bfloat16().T}
    loaded: list[str] = []

    def load(name: str) -> torch.Tensor:
        loaded.append(name)
        return tensors[name]

    digests = write_weights(tmp_path, specs_of(tensors), load, max_shard_bytes)
    assert loaded == list(tensors)
    assert digests == {path.name: file_digest(path) for path in tmp_path.glob("*.safetensors")}
    assert len(digests) == num_files
    assert (tmp_path / INDEX_FILE).is_file() == (num_files > 1)
    stored = StoredWeights(tmp_path)
    assert stored.names == ["a", "b", "c", "d"]
    assert (stored.shape("d"), stored.dtype("d")) == ((5, 8), torch.bfloat16)
    assert all(torch.equal(stored.load(name), tensor) for name, tensor in tensors.items())


def test_the_index_counts_the_bytes(tmp_path: Path) -> None:
    write_weights(tmp_path, dict.fromkeys("ab", TensorSpec(torch.float32, (10,))), lambda name: torch.ones(10), 40)
    assert json.loads((tmp_path / INDEX_FILE).read_text())["metadata"]["total_size"] == 80


def test_quantised_weights_are_refused_by_name(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2, dtype=torch.int8)}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(ValueError, match="tensor 'a' is stored as I8"):
        StoredWeights(tmp_path)


def test_a_directory_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds neither model\.safetensors nor"):
        StoredWeights(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_single_bad_value_is_found_anywhere(dtype: torch.dtype, bad: float) -> None:
    """Also the pair whose sum is no number, and large values whose sum overflows although each is finite."""
    tensor = torch.full((3, 100_003), torch.finfo(dtype).max, dtype=dtype)
    require_finite(tensor, "a", Path("m"))
    tensor[2, 77_777] = bad
    with pytest.raises(ValueError, match="m: tensor 'a' holds NaN or infinity in 1 of 300009"):
        require_finite(tensor, "a", Path("m"))
    require_finite(torch.empty(0, 4, dtype=dtype), "a", Path("m"))


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    write_weights(tmp_path, {"a": TensorSpec(torch.float32, (100,))}, lambda name: torch.ones(100), 1000)
    file = tmp_path / WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"model\.safetensors: not a whole safetensors file"):
        StoredWeights(tmp_path)


def test_other_readers_read_what_is_written(tmp_path: Path) -> None:
    """The header is padded: safetensors' own reader must not mind. Scalars and empty tensors are tensors too."""
    tensors = {"scalar": torch.tensor(3.0), "empty": torch.empty(0, 3), "half": torch.randn(3).half()}
    write_weights(tmp_path, specs_of(tensors), tensors.__getitem__, 1000)
    read = load_file(tmp_path / WEIGHTS_FILE)
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in tensors.items())
    assert {name: StoredWeights(tmp_path).load(name).shape for name in tensors} == {
        n: t.shape for n, t in tensors.items()
    }


def test_a_tensor_that_was_announced_otherwise_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'a' is torch.float32 \(3,\), announced as"):
        write_weights(tmp_path, {"a": TensorSpec(torch.float32, (4,))}, lambda name: torch.ones(3), 1000)


def test_two_tensors_are_held_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory: a shard may be larger than the machine's. One is digested while the next is made."""
    monkeypatch.setattr(weights, "_MAX_WAITING_BYTES", 0)
    alive: list[weakref.ref[torch.Tensor]] = []

    def load(name: str) -> torch.Tensor:
        assert sum(reference() is not None for reference in alive) <= 1  # and the one to come
        tensor = torch.ones(1000)
        alive.append(weakref.ref(tensor))
        return tensor

    write_weights(tmp_path, dict.fromkeys("abcde", TensorSpec(torch.float32, (1000,))), load, 1_000_000)
    assert len(alive) == 5


def test_pickled_weights_are_refused_alike_by_every_reader(tiny_qwen3: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(tiny_qwen3, tmp_path / "model"))
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    StoredWeights(path)  # the safetensors are read
    (path / "model.safetensors").unlink()
    for read in (StoredWeights, lambda directory: load_encoder(ModelConfig(path=str(directory)))):
        with pytest.raises(ValueError, match=r"a pickle \(pytorch_model.bin\).* Convert them: python"):
            read(path)
