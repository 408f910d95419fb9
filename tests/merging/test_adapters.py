"""A LoRA adapter is merged as the model it makes (peft's own merge, in float32); what cannot be right is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

from qwen3emb_train.merging.adapters import AdaptedWeights
from qwen3emb_train.merging.config import MergeConfig
from qwen3emb_train.merging.merge import merge_models
from qwen3emb_train.merging.methods.slerp import slerp
from tests.tiny import make_tiny_model_directory

Adapter = Callable[..., Path]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model_directory(tmp_path_factory.mktemp("models") / "base", num_layers=2)


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Adapter:
    """Makes an adapter with random weights by peft, and beside it, in NAME-merged, the model that peft makes of it."""

    def make(name: str, seed: int = 0, causal: bool = False, **settings: Any) -> Path:
        config = peft.LoraConfig(**{"r": 4, "lora_alpha": 16, "target_modules": "all-linear"} | settings)
        loader = AutoModelForCausalLM if causal else AutoModel
        model = peft.get_peft_model(loader.from_pretrained(base, dtype=torch.float32), config)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for key, parameter in model.named_parameters():
                if "lora_" in key:
                    parameter.data = 0.1 * torch.randn_like(parameter)
        model.save_pretrained(tmp_path / name)
        merged = model.merge_and_unload()
        (merged.model if causal else merged).save_pretrained(tmp_path / f"{name}-merged")
        return tmp_path / name

    return make


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"causal": True},
        {"use_rslora": True},
        {"target_modules": ["q_proj", "down_proj"], "r": 2},
        {"rank_pattern": {"layers.0.self_attn.q_proj": 8}, "alpha_pattern": {"q_proj": 3, "layers.1.mlp.up_proj": 5}},
    ],
    ids=str,
)
def test_an_adapter_is_the_model_that_peft_makes_of_it(base: Path, adapter: Adapter, settings: dict[str, Any]) -> None:
    made = adapter("a", **settings)
    weights = AdaptedWeights(made, base)
    expected = load_file(made.with_name("a-merged") / "model.safetensors")
    assert set(weights.names) == set(expected)
    for name in weights.names:
        torch.testing.assert_close(weights.load(name), expected[name], atol=1e-6, rtol=1e-6)
    original = load_file(base / "model.safetensors")
    changed = {name for name in weights.names if not torch.equal(weights.load(name), original[name])}
    assert changed
    assert all(name.endswith("proj.weight") for name in changed)


def test_adapters_merge_as_their_models_do(base: Path, adapter: Adapter, tmp_path: Path) -> None:
    """Two adapters, and an adapter with a model; base given and base as peft recorded it."""
    first, second = adapter("a", seed=1), adapter("b", seed=2)
    whole = [load_file(tmp_path / f"{name}-merged" / "model.safetensors") for name in ("a", "b")]
    both = merge_models(MergeConfig(models=[str(first), str(second)], t=0.3, output_dir=str(tmp_path / "both")))
    mixed = merge_models(
        MergeConfig(models=[str(base), str(second)], base=str(base), t=0.3, output_dir=str(tmp_path / "mixed"))
    )
    start = load_file(base / "model.safetensors")
    for name, tensor in load_file(both / "model.safetensors").items():
        torch.testing.assert_close(tensor, slerp(whole[0][name], whole[1][name], 0.3), atol=1e-6, rtol=1e-6)
    for name, tensor in load_file(mixed / "model.safetensors").items():
        torch.testing.assert_close(tensor, slerp(start[name], whole[1][name], 0.3), atol=1e-6, rtol=1e-6)
    assert (both / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert set(json.loads((both / "run.json").read_text())["inputs"]) >= {"model_0", "base of model_0", "model_1"}


def test_an_update_is_not_lost_in_a_bfloat16_base(base: Path, adapter: Adapter, tmp_path: Path) -> None:
    """Float32 throughout: a small update would round away in the base's own dtype."""
    made = adapter("a")
    rounded = Path(shutil.copytree(base, tmp_path / "bf16"))
    start = {name: tensor.bfloat16() for name, tensor in load_file(base / "model.safetensors").items()}
    save_file(start, rounded / "model.safetensors", metadata={"format": "pt"})
    pairs = load_file(made / "adapter_model.safetensors")
    save_file({name: 1e-3 * tensor for name, tensor in pairs.items()}, made / "adapter_model.safetensors")
    weights = AdaptedWeights(made, rounded)
    name = "layers.0.mlp.up_proj.weight"
    assert weights.dtype(name) is torch.float32
    update = weights.load(name) - start[name].float()
    assert 0.0 < update.abs().max() < 1e-4
    assert torch.equal((start[name].float() + update).bfloat16(), start[name])


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_quantised_base_is_refused(base: Path, adapter: Adapter, tmp_path: Path) -> None:
    made, quantised = adapter("a"), Path(shutil.copytree(base, tmp_path / "quantised"))
    _edit(quantised / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    with pytest.raises(ValueError, match=r"is quantised \(bitsandbytes\)"):
        AdaptedWeights(made, quantised)


def test_a_base_of_other_shapes_or_names_is_refused(adapter: Adapter, tmp_path: Path) -> None:
    made = adapter("a")
    wide = make_tiny_model_directory(tmp_path / "wide", num_layers=2, hidden_size=64)
    with pytest.raises(ValueError, match=r"does not give the shape .* that"):
        AdaptedWeights(made, wide)
    shallow = make_tiny_model_directory(tmp_path / "shallow", num_layers=1)
    with pytest.raises(ValueError, match=r"adapts 'layers\.1\..*another model"):
        AdaptedWeights(made, shallow)


def test_a_second_merge_of_one_adapter_is_refused(base: Path, adapter: Adapter, tmp_path: Path) -> None:
    """The merge's run.json names the adapter; a merge of that merge carries it in its parents."""
    first, second = adapter("a", seed=1), adapter("b", seed=2)
    merged = merge_models(MergeConfig(models=[str(first), str(second)], output_dir=str(tmp_path / "merged")))
    again = merge_models(MergeConfig(models=[str(merged), str(base)], output_dir=str(tmp_path / "again")))
    for wrong_base in (merged, again):
        with pytest.raises(ValueError, match="merged into it already"):
            AdaptedWeights(first, wrong_base)
    other = adapter("c", seed=3)
    AdaptedWeights(other, merged)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "use_dora is True"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"modules_to_save": ["norm"]}, "modules_to_save is"),
        ({"peft_type": "IA3"}, "is a IA3 adapter"),
    ],
)
def test_another_formula_is_refused(base: Path, adapter: Adapter, changes: dict[str, Any], message: str) -> None:
    made = adapter("a")
    _edit(made / "adapter_config.json", **changes)
    with pytest.raises(ValueError, match=message):
        AdaptedWeights(made, base)


def test_a_tensor_that_is_no_pair_is_refused(base: Path, adapter: Adapter) -> None:
    made = adapter("a")
    pairs = load_file(made / "adapter_model.safetensors")
    save_file(pairs | {"base_model.model.norm.weight": torch.ones(32)}, made / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"'base_model\.model\.norm\.weight' is neither"):
        AdaptedWeights(made, base)


def test_a_base_that_is_not_here_is_named(base: Path, adapter: Adapter, tmp_path: Path) -> None:
    made = adapter("a")
    _edit(made / "adapter_config.json", base_model_name_or_path="Qwen/Qwen3-0.6B")
    config = {"models": [str(made), str(base)], "output_dir": str(tmp_path / "out")}
    with pytest.raises(FileNotFoundError, match=r"'Qwen/Qwen3-0\.6B', which is no directory here. Set base"):
        merge_models(MergeConfig(**config))  # type: ignore[arg-type]
    merge_models(MergeConfig(**config, base=str(base)))  # type: ignore[arg-type]
