"""A family's own norm or rotation and what replaces it are the same function; under bf16 a norm is rounded once."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.models import precision
from qwen3emb_train.models.fused import fuse
from qwen3emb_train.models.loading import ModelConfig, load_encoder, load_reranker
from qwen3emb_train.models.precision import RMSNorm, rotate
from tests.tiny import make_tiny_causal_lm_directory, make_tiny_model_directory

TEXTS = [[5, 6, 7, 8, 0], [9, 10, 0], [*range(20, 60), 0]]


class Wrapped(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.embedding = norm, nn.Embedding(3, 8)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embedding


def family_norm(path: str, *arguments: Any) -> nn.Module:
    module, name = path.rsplit(".", 1)
    norm = getattr(__import__(f"transformers.models.{module}", fromlist=[name]), name)(*arguments)
    torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))
    return norm


@pytest.mark.parametrize(
    ("path", "offset"),
    [
        ("qwen3.modeling_qwen3.Qwen3RMSNorm", 0.0),
        ("llama.modeling_llama.LlamaRMSNorm", 0.0),
        ("gpt_oss.modeling_gpt_oss.GptOssRMSNorm", 0.0),
        ("gemma3.modeling_gemma3.Gemma3RMSNorm", 1.0),
        ("gemma2.modeling_gemma2.Gemma2RMSNorm", 1.0),
    ],
)
def test_a_familys_norm_is_replaced_with_its_own_weight_and_gives_the_same(path: str, offset: float) -> None:
    model = Wrapped(family_norm(path, 64))
    states = torch.randn(5, 64, generator=torch.Generator().manual_seed(2)) * 3
    found = []
    for _ in range(2):
        given = states.clone().requires_grad_()
        output = model.norm(given)
        output.square().sum().backward()
        found.append((output, given.grad, model.norm.weight.grad))
        model.norm.weight.grad = None
        weight = model.norm.weight
        fuse(model)
    assert isinstance(model.norm, RMSNorm)
    assert model.norm.weight is weight
    assert model.norm.offset == offset
    for before, after in zip(*found, strict=True):
        assert after is not None
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


class CentredRMSNorm(nn.Module):
    """Another function under a name that would fit."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(8)), 1e-6

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return nn.functional.rms_norm(states - states.mean(-1, keepdim=True), (8,), self.weight, self.eps)


class GatedRMSNorm(nn.Module):
    """Called with a gate that a single call does not show."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(8)), 1e-6

    def forward(self, states: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
        normed = nn.functional.rms_norm(states, (8,), self.weight, self.eps)
        return normed if gate is None else normed * gate


@pytest.mark.parametrize("norm", [CentredRMSNorm, GatedRMSNorm, lambda: nn.LayerNorm(8)])
def test_a_norm_of_another_kind_stays(norm: Any) -> None:
    model = Wrapped(norm())
    assert fuse(model) == 0
    assert not isinstance(model.norm, RMSNorm)


def test_norms_without_storage_are_replaced_too() -> None:
    config = transformers.Qwen3Config(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    with torch.device("meta"):
        backbone = transformers.AutoModel.from_config(config)
    names = {name for name, _ in backbone.named_parameters()}
    assert fuse(backbone) == 2 * 4 + 1
    assert {name for name, _ in backbone.named_parameters()} == names


@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_under_bf16_no_float32_flows_between_layers_and_vectors_stay_near(family: str, tmp_path: Path) -> None:
    """Whoever reads the residual stream or a norm's output gets bf16; a vector moves by what bf16 rounds."""
    encoder = load_encoder(ModelConfig(path=str(make_tiny_model_directory(tmp_path / "model", family=family))))
    tokens = PackedTokens.from_lists(TEXTS)
    plain = encoder(tokens).detach()
    seen: dict[str, set[torch.dtype]] = {"layer": set(), "norm": set(), "rotation": set()}
    for layer in encoder.backbone.layers:
        layer.register_forward_pre_hook(lambda _, args: seen["layer"].add(args[0].dtype))
        layer.self_attn.register_forward_pre_hook(
            lambda _, args, kwargs: seen["rotation"].add(kwargs["position_embeddings"][0].dtype), with_kwargs=True
        )
    for module in encoder.modules():
        if isinstance(module, RMSNorm):
            module.register_forward_hook(lambda _, args, output: seen["norm"].add(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = encoder(tokens).detach()
    assert seen == {name: {torch.bfloat16} for name in seen}
    assert rounded.dtype == torch.float32
    distance = (rounded - plain).norm(dim=1) / plain.norm(dim=1)
    assert 0 < float(distance.max()) < 0.03


def test_a_norm_rounds_once() -> None:
    """Nearest to the exact value in every component: transformers rounds before the weight, and again after it."""
    generator = torch.Generator().manual_seed(0)
    norm = RMSNorm(nn.Parameter(torch.rand(256, generator=generator) + 0.5), 1e-6)
    states = torch.randn(64, 256, generator=generator).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = norm(states)
    exact = nn.functional.rms_norm(states.double(), (256,), norm.weight.bfloat16().double(), 1e-6)
    assert found.dtype == torch.bfloat16
    assert (found != exact.bfloat16()).double().mean() < 1e-3  # float32's own last bit decides a few


@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma3"])
def test_our_rotation_is_the_familys_in_value_and_gradient(family: str) -> None:
    """Also where the two halves have other angles; the family's own function is left alone."""
    module = __import__(f"transformers.models.{family}.modeling_{family}", fromlist=["x"])
    generator = torch.Generator().manual_seed(0)
    cos, sin = (torch.randn(1, 5, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    states = torch.randn(1, 4, 5, 8, generator=generator, dtype=torch.float64)
    direction = torch.randn(states.shape, generator=generator, dtype=torch.float64)
    found = []
    for turn in (
        lambda x: module.apply_rotary_pos_emb(x, x, cos, sin)[0],
        lambda x: rotate(x, cos[:, None], sin[:, None]),
    ):
        given = states.clone().requires_grad_()
        output = turn(given)
        (output * direction).sum().backward()
        found.append((output.detach(), given.grad))
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)


def test_a_loaded_model_turns_by_ours_and_others_do_not(tiny_qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(precision, "rotate", lambda states, cos, sin: (calls.append(1), rotate(states, cos, sin))[1])
    encoder = load_encoder(ModelConfig(path=str(tiny_qwen3)))
    calls.clear()
    encoder(PackedTokens.from_lists(TEXTS))
    assert len(calls) == 2 * len(encoder.backbone.layers)
    transformers.AutoModel.from_pretrained(tiny_qwen3)(input_ids=torch.tensor([[1, 2]]))
    assert len(calls) == 2 * len(encoder.backbone.layers)


def test_the_heads_products_are_full_float32_in_both_directions(tmp_path: Path) -> None:
    make_tiny_causal_lm_directory(tmp_path / "lm", tied=True)
    reranker = load_reranker(ModelConfig(path=str(tmp_path / "lm")), (5, 6), over_vocabulary=True)
    before = torch.backends.cuda.matmul.fp32_precision
    seen: list[str] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            output = func(*args, **(kwargs or {}))
            rows = reranker.lm_head.weight.shape[0]
            if "mm" in str(func) and any(rows in a.shape for a in args if isinstance(a, torch.Tensor)):
                seen.append(torch.backends.cuda.matmul.fp32_precision)
            return output

    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        with torch.autograd.set_multithreading_enabled(False), Watch():
            reranker(PackedTokens.from_lists(TEXTS)).sum().backward()
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    assert seen == ["ieee"] * 3
