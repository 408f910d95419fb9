"""The derived bytes of a graph are the bytes that torch saves."""

import itertools
from pathlib import Path

import pytest
import torch

from qwen3emb_train.models.loading import ModelConfig
from qwen3emb_train.models.lora import LoraConfig
from qwen3emb_train.planning.activations import (
    Arithmetic,
    ChunkShape,
    backward_workspace,
    forward_workspace,
    saved_activations,
    weight_copies,
)
from qwen3emb_train.planning.parameters import build_meta_backbone, count_parameters, load_model_shape
from qwen3emb_train.planning.shapes import traced_activations
from tests.planning.models import write_model, write_shape

ARITHMETICS = {
    "fp32": Arithmetic(bf16=False),
    "autocast": Arithmetic(bf16=True),
    "cast weights": Arithmetic(bf16=True, autocast=False),
}
CHUNKS = {"spread": ChunkShape(100, 120), "equal lengths": ChunkShape(100, 100, is_spread=False)}


@pytest.mark.parametrize(
    ("family", "rank", "chunk", "arithmetic"),
    [*itertools.product(["qwen3"], [0, 4], CHUNKS, ARITHMETICS), *itertools.product(["llama"], [0], CHUNKS, ["fp32"])],
)
def test_the_formula_counts_the_saved_tensors_to_the_byte(
    tmp_path: Path, family: str, rank: int, chunk: str, arithmetic: str
) -> None:
    """Invariant: derivation == trace, in every arithmetic, with and without adapters and spreading."""
    config = ModelConfig(path=str(write_shape(tmp_path, family)), lora=LoraConfig(rank=rank))
    backbone = build_meta_backbone(config, load_model_shape(config))
    model, how = count_parameters(backbone), ARITHMETICS[arithmetic]
    traced = traced_activations(backbone, CHUNKS[chunk], num_texts=4, arithmetic=how)
    assert saved_activations(model, CHUNKS[chunk], how) + weight_copies(model, how) == traced
    assert all(parameter.is_meta for parameter in backbone.parameters())


@pytest.mark.parametrize("name", ["Qwen/Qwen3-0.6B", "Qwen/Qwen3-8B"])
def test_the_formula_holds_at_true_shapes(name: str) -> None:
    """Without a byte of memory for the 8B model's 19 GB."""
    config = ModelConfig(path=name)
    backbone = build_meta_backbone(config, load_model_shape(config))
    model, how, chunk = count_parameters(backbone), Arithmetic(bf16=True), ChunkShape(512, 640)
    traced = traced_activations(backbone, chunk, num_texts=4, arithmetic=how)
    assert saved_activations(model, chunk, how) + weight_copies(model, how) == traced


def test_fake_tensors_save_what_real_ones_save(tmp_path: Path) -> None:
    """The trace itself against a real forward pass of the encoder that training uses."""
    from qwen3emb_train.data.batches import PackedTokens
    from qwen3emb_train.models.loading import load_encoder

    path = str(write_model(tmp_path))
    encoder = load_encoder(ModelConfig(path=path))
    tokens = PackedTokens.from_lists([[1] * length for length in (30, 25, 25, 20)])
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        encoder(tokens)
    weights = {parameter.untyped_storage().data_ptr() for parameter in encoder.parameters()}
    real = sum(t.untyped_storage().nbytes() for key, t in saved.items() if key not in weights)
    config = ModelConfig(path=path)
    model = count_parameters(build_meta_backbone(config, load_model_shape(config)))
    chunk = ChunkShape(100, 4 * 30)
    said = saved_activations(model, chunk, Arithmetic(bf16=False))
    assert said <= real <= said * 1.001  # and the index of the EOS tokens


def test_activation_checkpointing_keeps_one_layer_and_every_layers_input() -> None:
    config = ModelConfig(path="Qwen/Qwen3-0.6B")
    model = count_parameters(build_meta_backbone(config, load_model_shape(config)))
    chunk = ChunkShape(1000, 1000)
    whole = saved_activations(model, chunk, Arithmetic(bf16=True))
    less = saved_activations(model, chunk, Arithmetic(bf16=True, activation_checkpointing=True))
    assert whole / model.layers < less < whole / 10
    assert less > model.layers * 1000 * 4 * model.hidden


def test_passing_tensors_are_less_than_a_graph() -> None:
    config = ModelConfig(path="Qwen/Qwen3-0.6B")
    model = count_parameters(build_meta_backbone(config, load_model_shape(config)))
    chunk, how = ChunkShape(8192, 9000), Arithmetic(bf16=False)
    remembered = forward_workspace(model, chunk, ARITHMETICS["autocast"])
    assert remembered > 2 * model.products, "autocast remembers the weights it cast until the pass is over"
    assert forward_workspace(model, chunk, ARITHMETICS["cast weights"]) == remembered - 2 * model.products
    for workspace in (forward_workspace(model, chunk, how), backward_workspace(model, chunk, how)):
        assert 0 < workspace < saved_activations(model, chunk, how) / 8
