"""Weights watched: what moved is counted as moved, and an adapter's share is that of its real update."""

from pathlib import Path

import pytest
import torch

from qwen3emb_train.models.loading import ModelConfig, load_encoder, merged_state_dict
from qwen3emb_train.models.lora import LoraConfig
from qwen3emb_train.training.health.weights import WeightWatch, lora_metrics


def test_the_sample_is_small_seeded_and_takes_equally_from_every_tensor() -> None:
    weights = [("embed_tokens.weight", torch.randn(50, 40)), ("norm.weight", torch.randn(4))]
    watch = WeightWatch(weights, max_elements=20)
    same, other = WeightWatch(weights, max_elements=20), WeightWatch(weights, max_elements=20, seed=1)
    assert {name: len(start) for name, start in watch._start.items()} == {"embed_tokens.weight": 10, "norm.weight": 4}
    assert torch.equal(watch._chosen["embed_tokens.weight"], same._chosen["embed_tokens.weight"])
    assert not torch.equal(watch._chosen["embed_tokens.weight"], other._chosen["embed_tokens.weight"])


def test_moved_share_and_relative_change_are_measured_against_the_start() -> None:
    one, other = torch.full((8,), 2.0), torch.full((8,), 2.0)
    named = [("a", one), ("b", other), ("c", torch.empty(0))]
    watch = WeightWatch(named, step=10)
    one += 1  # in place, as an optimizer does
    metrics = watch.metrics(watch.movement([*named, ("unknown", torch.ones(1))]), step=13)
    assert metrics == pytest.approx(
        {"weights/steps_watched": 3, "weights/moved_share": 0.5, "weights/relative_change": (1 / 8) ** 0.5}
    )


def test_what_zero_3_keeps_beside_an_emptied_parameter_is_watched() -> None:
    weight = torch.empty(0)
    weight.ds_tensor = torch.ones(6)  # type: ignore[attr-defined]
    watch = WeightWatch([("norm.weight", weight)])
    weight.ds_tensor += 1  # type: ignore[attr-defined]
    assert watch.metrics(watch.movement([("norm.weight", weight)]), 1)["weights/moved_share"] == 1


def test_nothing_to_watch_gives_no_share() -> None:
    watch = WeightWatch([])
    assert watch.metrics(watch.movement([]), step=1) == {"weights/steps_watched": 1.0}


def test_a_lora_b_that_is_still_zero_shows() -> None:
    b = torch.zeros(4, 2)
    watch = WeightWatch([("layers.0.x.lora_B.default.weight", b)])
    named = [("layers.0.x.lora_B.default.weight", b)]
    assert watch.metrics(watch.movement(named), 1)["lora/b_set_share"] == 0
    b += 1
    assert watch.metrics(watch.movement(named), 1)["lora/b_set_share"] == 1


def test_an_adapters_share_is_the_norm_of_what_merging_adds(tiny_qwen3: Path) -> None:
    encoder = load_encoder(ModelConfig(path=str(tiny_qwen3), lora=LoraConfig(rank=4, alpha=6)))
    assert lora_metrics(encoder) == {"lora/scaling": 1.5, "lora/update_norm": 0.0, "lora/relative_update": 0.0}
    base = {name: weight.clone() for name, weight in merged_state_dict(encoder).items()}
    for name, weight in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    merged = merged_state_dict(encoder)
    adapted = [name for name in base if name.endswith("_proj.weight")]
    update = sum(float((merged[name] - base[name]).square().sum()) for name in adapted) ** 0.5
    whole = sum(float(base[name].square().sum()) for name in adapted) ** 0.5
    metrics = lora_metrics(encoder)
    assert metrics["lora/update_norm"] == pytest.approx(update, rel=1e-4)
    assert metrics["lora/relative_update"] == pytest.approx(update / whole, rel=1e-4)


def test_a_model_without_adapters_has_no_lora_metrics(tiny_qwen3: Path) -> None:
    assert lora_metrics(load_encoder(ModelConfig(path=str(tiny_qwen3)))) == {}
