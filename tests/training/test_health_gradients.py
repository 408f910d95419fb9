"""Gradient norms by group: every weight of a real model counts once among the kinds, whatever wraps its name."""

from pathlib import Path

import pytest
import torch

from qwen3emb_train.models.loading import ModelConfig, load_encoder
from qwen3emb_train.models.lora import LoraConfig
from qwen3emb_train.training.health.gradients import (
    gradient_norms_by_group,
    group_of,
    non_finite_groups,
    scaled_to,
)

KINDS = ("lora_a", "lora_b", "norms", "embeddings", "attention", "mlp", "other")
THIRDS = ("first_layers", "middle_layers", "last_layers")


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("embed_tokens.weight", "embeddings"),
        ("module.backbone.layers.3.self_attn.q_proj.weight", "attention"),
        ("layers.3.self_attn.q_norm.weight", "norms"),
        ("layers.0.input_layernorm.weight", "norms"),
        ("layers.0.mlp.down_proj.weight", "mlp"),
        ("norm.weight", "norms"),
        ("base_model.model.layers.1.mlp.up_proj.lora_A.default.weight", "lora_a"),
        ("base_model.model.layers.1.self_attn.o_proj.lora_B.default.weight", "lora_b"),
        ("score.weight", "other"),
    ],
)
def test_a_weight_belongs_to_the_group_a_person_would_say(name: str, group: str) -> None:
    assert group_of(name) == group


@pytest.mark.parametrize("lora", [0, 4])
def test_the_kinds_of_a_real_model_add_up_to_its_gradient_and_the_thirds_to_its_layers(
    tiny_qwen3: Path, lora: int
) -> None:
    encoder = load_encoder(ModelConfig(path=str(tiny_qwen3), lora=LoraConfig(rank=lora)))
    generator = torch.Generator().manual_seed(0)
    named = [
        (name, torch.randn(weight.shape, generator=generator))
        for name, weight in encoder.named_parameters()
        if weight.requires_grad
    ]
    norms = gradient_norms_by_group(named, num_layers=2)
    found = {name.removeprefix("gradient_norm/") for name in norms}
    expected = {"lora_a", "lora_b"} if lora else {"norms", "embeddings", "attention", "mlp"}
    assert found == expected | {"first_layers", "middle_layers"}

    def squared(groups: tuple[str, ...]) -> float:
        return sum(norms.get(f"gradient_norm/{group}", 0.0) ** 2 for group in groups)

    assert squared(KINDS) == pytest.approx(sum(float(g.square().sum()) for _, g in named), rel=1e-5)
    in_layers = sum(float(g.square().sum()) for name, g in named if ".layers." in name)
    assert squared(THIRDS) == pytest.approx(in_layers, rel=1e-5)


def test_depth_is_cut_into_thirds() -> None:
    named = [(f"layers.{layer}.mlp.weight", torch.tensor([2.0**layer])) for layer in range(6)]
    norms = gradient_norms_by_group(named, num_layers=6)
    assert [norms[f"gradient_norm/{third}"] ** 2 for third in THIRDS] == pytest.approx([5, 80, 1280])


def test_a_gradient_of_zero_is_reported_and_an_absent_one_is_not() -> None:
    assert gradient_norms_by_group([("norm.weight", torch.zeros(3))], 2) == {"gradient_norm/norms": 0.0}
    assert gradient_norms_by_group([], 2) == {}


def test_scaling_undoes_the_clipping() -> None:
    whole = [("norm.weight", torch.tensor([3.0])), ("layers.1.mlp.weight", torch.tensor([4.0]))]
    clipped = [(name, gradient / 5) for name, gradient in whole]
    expected = gradient_norms_by_group(whole, 2)
    assert scaled_to(gradient_norms_by_group(clipped, 2), 5.0) == pytest.approx(expected)
    assert scaled_to({"gradient_norm/mlp": 0.0}, 0.0) == {"gradient_norm/mlp": 0.0}


def test_non_finite_groups_are_named_once() -> None:
    named = [
        ("norm.weight", torch.ones(2)),
        ("layers.0.mlp.up_proj.weight", torch.tensor([1.0, float("nan")])),
        ("layers.1.mlp.up_proj.weight", torch.tensor([float("inf"), 0.0])),
        ("embed_tokens.weight", torch.tensor([float("-inf")])),
    ]
    assert non_finite_groups(named) == ["embeddings", "mlp"]
