"""A trace of two layers says what real passes of the whole model do: bytes of the graph, peak memory, FLOP."""

import itertools
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.models.loading import Attention, ModelConfig, load_encoder
from qwen3emb_train.models.lora import LoraConfig
from qwen3emb_train.models.reranker import YesNoReranker
from qwen3emb_train.models.text_model import Encoder
from qwen3emb_train.planning.chunk_cost import ChunkCost, ModelTrace
from qwen3emb_train.planning.fused import FusedNorms
from qwen3emb_train.planning.gpus import GPUS
from qwen3emb_train.planning.kernels import Recorder
from qwen3emb_train.planning.load import TracedModel
from qwen3emb_train.planning.parameters import build_meta_model, load_model_shape
from qwen3emb_train.planning.tracing import How, layer_kinds
from tests.planning.models import write_model, write_shape

TEXTS, LENGTH = 6, 20
REAL = How(bf16=False, on_gpu=False, mean_tokens=LENGTH, cells_per_token=1.0)


def traced(config: ModelConfig, how: How = REAL, tokens: int = TEXTS * LENGTH) -> ChunkCost:
    return ModelTrace(build_meta_model(config, load_model_shape(config)), how).chunk(tokens, GPUS["cpu"])


def run(encoder: Encoder, bf16: bool) -> tuple[Tensor, list[Tensor]]:
    """A real pass over texts of one length; its vectors, and what it saved."""
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    tokens = PackedTokens.from_lists([[1] * LENGTH] * TEXTS)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        vectors = encoder(tokens)
    weights = {parameter.untyped_storage().data_ptr() for parameter in encoder.parameters()}
    return vectors, [tensor for key, tensor in saved.items() if key not in weights]


@pytest.mark.parametrize(
    ("family", "rank", "bf16"),
    [*itertools.product(["qwen3", "llama"], [0, 4], [False, True]), ("gemma3", 0, False)],
)
def test_a_graph_is_as_large_as_the_tensors_that_a_real_pass_saves(
    tmp_path: Path, family: str, rank: int, bf16: bool
) -> None:
    """Five layers from a trace of two (Gemma-3: of one for each kind), within 1 %: the ids and indices of a chunk."""
    path = write_model(tmp_path, family, num_hidden_layers=5)
    config = ModelConfig(path=str(path), lora=LoraConfig(rank=rank))
    _, saved = run(load_encoder(config), bf16)
    real = sum(tensor.untyped_storage().nbytes() for tensor in saved)
    how = How(bf16, on_gpu=False, mean_tokens=LENGTH, cells_per_token=1.0)
    assert traced(config, how).kept == pytest.approx(real, rel=0.01)


@pytest.mark.parametrize(("rank", "checkpointing"), [(0, False), (0, True), (4, False), (4, True)])
def test_peak_memory_is_that_of_a_real_pass_over_all_layers(tmp_path: Path, rank: int, checkpointing: bool) -> None:
    """The same recorder on real tensors and five layers, within 2 %."""
    path = write_model(tmp_path, num_hidden_layers=5)
    config = ModelConfig(path=str(path), lora=LoraConfig(rank=rank), activation_checkpointing=checkpointing)
    encoder = load_encoder(config)
    parameters = list(encoder.parameters())
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    recorder = Recorder([*parameters, *gradients, *encoder.buffers()], LENGTH / 2)
    tokens = PackedTokens.from_lists([[1] * LENGTH] * TEXTS)
    with recorder:
        recorder.begin()
        encoder(tokens).sum().backward()
    peak = max(kernel.in_use for kernel in recorder.stretches[0].kernels)
    assert traced(config).backward_peak == pytest.approx(peak, rel=0.02)


@pytest.mark.parametrize(("rank", "checkpointing"), [(0, False), (0, True), (4, False)])
def test_flop_are_those_that_torch_counts(tmp_path: Path, rank: int, checkpointing: bool) -> None:
    """Products of a forward and backward pass of a real model, to the last one; torch leaves attention out on a CPU."""
    path = write_model(tmp_path, num_hidden_layers=5)
    config = ModelConfig(path=str(path), lora=LoraConfig(rank=rank), activation_checkpointing=checkpointing)
    encoder = load_encoder(config)
    with FlopCounterMode(display=False) as counter:
        run(encoder, False)[0].sum().backward()
    counted = sum(
        flop for name, flop in counter.get_flop_counts()["Global"].items() if "scaled_dot_product" not in str(name)
    )
    trace = ModelTrace(build_meta_model(config, load_model_shape(config)), REAL)
    lines = [line for lines in trace._lines[1:] for line in lines]
    products = sum(
        float(flop)
        for line in lines
        for flop, kernel in zip(line._flop.at(TEXTS * LENGTH), line._kernels, strict=True)
        if kernel.unit.value == "product"
    )
    assert products == pytest.approx(counted, rel=1e-9)


def test_a_second_chunk_size_needs_no_second_trace(tmp_path: Path) -> None:
    config = ModelConfig(path=str(write_shape(tmp_path)))
    trace = ModelTrace(build_meta_model(config, load_model_shape(config)), REAL)
    small, large = trace.chunk(200, GPUS["cpu"]), trace.chunk(2000, GPUS["cpu"])
    assert large.forward_flop == pytest.approx(10 * small.forward_flop)
    assert large.kept - small.kept == pytest.approx(9 * (small.kept - small.copies), rel=1e-3)
    assert small.forward_peak < large.forward_peak < large.kept < large.backward_peak


def test_checkpointing_keeps_one_layer_and_every_layers_input() -> None:
    how = How(bf16=True, mean_tokens=100)
    whole, less = (
        traced(ModelConfig(path="Qwen/Qwen3-0.6B", activation_checkpointing=checkpoints), how, 8000)
        for checkpoints in (False, True)
    )
    assert less.kept < whole.kept / 9
    assert less.kept > 27 * 8000 * 2 * 1024
    assert whole.backward_peak / 28 < less.backward_peak < whole.backward_peak / 5
    assert less.backward_flop == pytest.approx(whole.backward_flop + whole.forward_flop, rel=0.1)
    assert less.backward_s > 1.2 * whole.backward_s


def test_autocast_copies_weights_casting_engines_do_not() -> None:
    config = ModelConfig(path="Qwen/Qwen3-0.6B")
    autocast, casts = (traced(config, How(True, casts=casts, mean_tokens=100), 8000) for casts in (False, True))
    products = 28 * (1024 * 128 * (2 * 16 + 2 * 8) + 3 * 1024 * 3072)
    assert autocast.copies == pytest.approx(2 * products, rel=0.01)
    assert casts.copies < 0.01 * products
    assert casts.forward_s < autocast.forward_s


def test_a_gpus_kernel_and_a_grid_are_both_traced() -> None:
    config = ModelConfig(path="Qwen/Qwen3-0.6B")
    kernel, grid = (traced(config, How(True, on_gpu=has, mean_tokens=100), 8000) for has in (True, False))
    assert kernel.forward_flop == pytest.approx(grid.forward_flop, rel=0.05)
    assert kernel.kept != grid.kept


def test_layers_of_several_kinds_are_told_apart(tmp_path: Path) -> None:
    config = ModelConfig(path=str(write_shape(tmp_path, "gemma3", num_hidden_layers=12)))
    kinds = layer_kinds(build_meta_model(config, load_model_shape(config)))
    assert kinds == [0] * 5 + [1] + [0] * 5 + [1]


def test_a_rerankers_head_is_part_of_its_pass(tmp_path: Path) -> None:
    config = ModelConfig(path=str(write_shape(tmp_path, vocab_size=4096)))
    encoder = build_meta_model(config, load_model_shape(config))
    with torch.device("meta"):
        head = torch.nn.Linear(48, 4096, bias=False)
    flop = {
        over: ModelTrace(YesNoReranker(encoder.backbone, head, (0, 1), over_vocabulary=over), REAL)
        .chunk(TEXTS * LENGTH, GPUS["cpu"])
        .forward_flop
        for over in (False, True)
    }
    plain = ModelTrace(encoder, REAL).chunk(TEXTS * LENGTH, GPUS["cpu"]).forward_flop
    assert (flop[False] - plain, flop[True] - plain) == (2 * TEXTS * 48 * 2, 2 * TEXTS * 48 * 4096)


@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma3"])
def test_padded_models_are_traced(tmp_path: Path, family: str) -> None:
    packed = ModelConfig(path=str(write_shape(tmp_path, family)))
    padded = ModelConfig(path=packed.path, attention=Attention.padded)
    assert traced(padded).forward_flop == pytest.approx(traced(packed).forward_flop, rel=0.1)


@pytest.mark.slow
def test_a_state_space_model_is_traced(tmp_path: Path) -> None:
    """It has no attention, no list of layer types to set, no longest position."""
    from transformers import MambaConfig

    MambaConfig(vocab_size=96, hidden_size=32, num_hidden_layers=2, state_size=4).save_pretrained(tmp_path)
    # Its code on a CPU takes the tokens one by one.
    short = How(bf16=False, on_gpu=False, mean_tokens=6, cells_per_token=1.0)
    found = TracedModel(ModelConfig(path=str(tmp_path)), short)
    assert found.parameters.max_positions is None
    assert found.trace(False).chunk(120, GPUS["cpu"]).kept > 0


def test_torchs_norm_is_one_kernel_on_a_gpu() -> None:
    """On the CPU tensors that are traced torch would take it apart."""
    names = {}
    for is_fused in (True, False):
        with FakeTensorMode(), FusedNorms() if is_fused else nullcontext():
            norm, rows = torch.nn.RMSNorm(8), torch.empty(4, 8, requires_grad=True)
            recorder = Recorder([*norm.parameters(), rows], 1.0)
            with recorder:
                recorder.begin()
                norm(rows).backward(torch.empty(4, 8))
        names[is_fused] = [kernel.name for kernel in recorder.stretches[0].kernels]
    assert names[True] == ["rms_norm", "rms_norm_backward"]
    assert len(names[False]) > 6


def test_dropout_keyed_by_text_is_seen(tmp_path: Path) -> None:
    path = str(write_shape(tmp_path))
    with_dropout, without = (
        traced(ModelConfig(path=path, lora=LoraConfig(rank=4, dropout=dropout))) for dropout in (0.1, 0.0)
    )
    assert with_dropout.forward_s > 1.2 * without.forward_s


def test_most_of_a_small_models_step_is_no_product() -> None:
    """Why peak FLOP say little: 0.6B in bf16 spends most of its time moving numbers, 8B does not."""
    how = How(bf16=True, mean_tokens=256)
    shares = {}
    for size in ("0.6B", "8B"):
        config = ModelConfig(path=f"Qwen/Qwen3-{size}")
        shares[size] = ModelTrace(build_meta_model(config, load_model_shape(config)), how).chunk(16_384, GPUS["h100"])
    assert shares["0.6B"].elementwise_share > shares["8B"].elementwise_share
    faster = ModelTrace(
        build_meta_model(config := ModelConfig(path="Qwen/Qwen3-0.6B"), load_model_shape(config)), how
    ).chunk(16_384, GPUS["h200"])
    assert faster.forward_s < shares["0.6B"].forward_s, "an H200 differs from an H100 by its memory alone"
