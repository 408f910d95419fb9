"""Weights written in shards are read back to the bit, one tensor at a time; what cannot be read is named."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qwen3emb_train.models.weights import INDEX_FILE, WEIGHTS_FILE, StoredWeights, write_weights


@pytest.mark.parametrize(("max_shard_bytes", "num_files"), [(10_000, 1), (100, 3), (1, 4)])
def test_what_is_written_is_read_back(tmp_path: Path, max_shard_bytes: int, num_files: int) -> None:
    """40 + 40 + 40 + 80 bytes: no shard exceeds its limit unless one tensor does."""
    tensors = {name: torch.randn(10) for name in "abc"} | {"d": torch.randn(8, 5).bfloat16().T}
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}
    loaded: list[str] = []

    def load(name: str) -> torch.Tensor:
        loaded.append(name)
        return tensors[name]

    write_weights(tmp_path, sizes, load, max_shard_bytes)
    assert loaded == list(tensors)
    assert len(list(tmp_path.glob("*.safetensors"))) == num_files
    assert (tmp_path / INDEX_FILE).is_file() == (num_files > 1)
    stored = StoredWeights(tmp_path)
    assert stored.names == ["a", "b", "c", "d"]
    assert (stored.shape("d"), stored.dtype("d")) == ((5, 8), torch.bfloat16)
    assert all(torch.equal(stored.load(name), tensor) for name, tensor in tensors.items())


def test_the_index_counts_the_bytes(tmp_path: Path) -> None:
    write_weights(tmp_path, {"a": 40, "b": 40}, lambda name: torch.ones(10), 40)
    assert json.loads((tmp_path / INDEX_FILE).read_text())["metadata"]["total_size"] == 80


def test_quantised_weights_are_refused_by_name(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2, dtype=torch.int8)}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(ValueError, match="tensor 'a' is stored as I8"):
        StoredWeights(tmp_path)


def test_a_directory_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds neither model\.safetensors nor"):
        StoredWeights(tmp_path)
