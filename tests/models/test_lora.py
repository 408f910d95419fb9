"""Adapters go where they were asked for; a name that is nowhere is refused; what is saved is what was trained."""

from pathlib import Path
from typing import Any

import pytest
import torch

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.models.loading import ModelConfig, load_encoder, save_model
from qwen3emb_train.models.lora import LoraConfig
from tests.tiny import make_tiny_tokenizer

TOKENS = PackedTokens.from_lists([[5, 6, 7, 0], [9, 0]])


def adapted(path: Path, target_modules: Any) -> set[str]:
    """The ends of the adapted layers' names."""
    encoder = load_encoder(ModelConfig(path=str(path), lora=LoraConfig(rank=2, target_modules=target_modules)))
    return {name.split(".lora_A")[0].rpartition(".")[2] for name, _ in encoder.named_parameters() if ".lora_A" in name}


@pytest.mark.parametrize(
    "given", ["q_proj,v_proj", "q_proj, v_proj", ["q_proj", "v_proj"], ".*(q|v)_proj", r".*\.[qv]_proj"]
)
def test_names_lists_and_patterns_choose_the_layers(tiny_qwen3: Path, given: Any) -> None:
    assert adapted(tiny_qwen3, given) == {"q_proj", "v_proj"}


def test_a_single_name_and_all_of_them(tiny_qwen3: Path) -> None:
    assert adapted(tiny_qwen3, "q_proj") == {"q_proj"}
    assert len(adapted(tiny_qwen3, "all-linear")) == len(adapted(tiny_qwen3, ["all-linear"])) == 7


@pytest.mark.parametrize("given", ["query", ["q_proj", "query"], "embed_tokens", ".*query"])
def test_a_name_that_is_no_linear_layer_is_refused_with_those_that_are(tiny_qwen3: Path, given: Any) -> None:
    with pytest.raises(ValueError, match=r"(?s)model.lora.target_modules.*down_proj, .*q_proj"):
        adapted(tiny_qwen3, given)


@pytest.mark.parametrize("given", [[], [3], 3, ".*(q_proj", None])
def test_other_values_are_refused_at_the_door(given: Any) -> None:
    with pytest.raises(ValueError, match=r"model.lora.target_modules is "):
        LoraConfig(rank=2, target_modules=given)


def test_adapters_on_layers_that_store_their_weight_transposed_are_merged(tmp_path: Path) -> None:
    """GPT-2's; its projections are not square."""
    from transformers import AutoModel, GPT2Config

    (tmp_path / "gpt2").mkdir()
    vocab_size = make_tiny_tokenizer(tmp_path / "gpt2")
    AutoModel.from_config(
        GPT2Config(vocab_size=vocab_size, n_positions=64, n_embd=32, n_layer=1, n_head=2)
    ).save_pretrained(tmp_path / "gpt2")
    encoder = load_encoder(ModelConfig(path=str(tmp_path / "gpt2"), lora=LoraConfig(rank=2))).eval()
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    save_model(encoder, tmp_path / "merged")
    merged = load_encoder(ModelConfig(path=str(tmp_path / "merged"))).eval()
    torch.testing.assert_close(merged(TOKENS), encoder(TOKENS), rtol=0, atol=1e-4)
