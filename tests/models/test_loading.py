"""Loading says what is wrong; saving and loading again changes no bit; merged LoRA is the adapter's model."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.data.tokenization import load_tokenizer
from qwen3emb_train.index.inference import TextEncoder
from qwen3emb_train.models.loading import ModelConfig, load_encoder, merged_state_dict, save_model
from qwen3emb_train.models.lora import LoraConfig
from qwen3emb_train.models.precision import Precision
from tests.tiny import make_tiny_model_directory

TOKENS = PackedTokens.from_lists([[5, 6, 7, 0], [9, 0]])


def test_weights_are_float32_whatever_is_stored(tiny_qwen3: Path, tmp_path: Path) -> None:
    encoder = load_encoder(ModelConfig(path=str(tiny_qwen3)))
    save_model(encoder, tmp_path / "bf16", torch.bfloat16)
    assert load_file(tmp_path / "bf16" / "model.safetensors")["norm.weight"].dtype == torch.bfloat16
    again = load_encoder(ModelConfig(path=str(tmp_path / "bf16")))
    assert {p.dtype for p in again.parameters()} == {torch.float32}


def test_saved_and_loaded_is_bit_equal(tiny_llama: Path, tmp_path: Path) -> None:
    encoder = load_encoder(ModelConfig(path=str(tiny_llama)))
    save_model(encoder, tmp_path / "again")
    again = load_encoder(ModelConfig(path=str(tmp_path / "again")))
    assert torch.equal(encoder(TOKENS), again(TOKENS))


def test_num_layers_keeps_the_first_layers(tiny_qwen3: Path, tmp_path: Path) -> None:
    whole, cut = (load_encoder(ModelConfig(path=str(tiny_qwen3), num_layers=n)) for n in (None, 1))
    assert sorted(cut.state_dict()) == sorted(n for n in whole.state_dict() if "layers.1." not in n)
    save_model(cut, tmp_path / "cut")
    assert load_encoder(ModelConfig(path=str(tmp_path / "cut"))).config.num_hidden_layers == 1
    with pytest.raises(ValueError, match=r"num_layers is 3, but .* has only 2 layers"):
        load_encoder(ModelConfig(path=str(tiny_qwen3), num_layers=3))


def test_the_eos_token_s_row_is_trained_although_it_is_the_padding_token(tiny_qwen3: Path) -> None:
    encoder = load_encoder(ModelConfig(path=str(tiny_qwen3)))
    assert encoder.config.pad_token_id == 0
    encoder(TOKENS).sum().backward()
    gradient = encoder.backbone.get_input_embeddings().weight.grad
    assert gradient is not None
    assert gradient[0].abs().max() > 0


def test_lora_merged_equals_the_adapter_and_differs_from_the_base(tiny_qwen3: Path, tmp_path: Path) -> None:
    """After LoRA and merging, outputs identical to the base were reported twice (peers.md 3, no. 26)."""
    encoder = load_encoder(ModelConfig(path=str(tiny_qwen3), lora=LoraConfig(rank=4, alpha=8))).eval()
    trained = [name for name, p in encoder.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    save_model(encoder, tmp_path / "merged")
    merged = load_encoder(ModelConfig(path=str(tmp_path / "merged"))).eval()
    base = load_encoder(ModelConfig(path=str(tiny_qwen3))).eval()
    torch.testing.assert_close(merged(TOKENS), encoder(TOKENS), rtol=0, atol=1e-5)
    assert (merged(TOKENS) - base(TOKENS)).abs().max() > 1e-2


class OnDevice(torch.Tensor):
    """Stands for a weight on an accelerator: whatever computes with it, or copies it there, fails."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is torch.Tensor.cpu:
            return args[0].as_subclass(torch.Tensor)
        assert func in (torch.Tensor.detach, torch.Tensor.as_subclass), f"{func} on the device"
        return super().__torch_function__(func, types, args, kwargs or {})


def test_adapters_are_merged_on_the_cpu_wherever_the_weights_are(tiny_qwen3: Path) -> None:
    """All layers at once on the device took the whole model's memory there once more, at every checkpoint."""
    encoder = load_encoder(ModelConfig(path=str(tiny_qwen3), lora=LoraConfig(rank=4)))
    parameters = {}
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
        parameters[name] = parameter.detach().as_subclass(OnDevice)
    merged, expected = merged_state_dict(encoder, parameters), merged_state_dict(encoder)
    assert merged.keys() == expected.keys()
    changed = [name for name, tensor in merged.items() if not isinstance(tensor, OnDevice)]
    assert len(changed) == 14
    for name in changed:
        assert torch.equal(merged[name], expected[name])


def test_a_missing_directory_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="outputs/none/model: no such directory"):
        load_encoder(ModelConfig(path="outputs/none/model"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda w: w["norm.weight"].fill_(float("nan")), "weight norm.weight holds NaN"),
        (lambda w: w.pop("layers.0.mlp.up_proj.weight"), r"missing or of another shape.*up_proj"),
    ],
)
def test_damaged_weights_are_refused_by_name(damage, message: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = make_tiny_model_directory(tmp_path / "damaged")
    weights = load_file(path / "model.safetensors")
    damage(weights)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=message):
        load_encoder(ModelConfig(path=str(path)))


def test_remote_code_needs_a_pinned_revision() -> None:
    with pytest.raises(ValueError, match="pinned to a 40-character commit"):
        ModelConfig(path="x", trust_remote_code=True, revision="main")


def test_text_encoder_keeps_order_normalises_and_truncates_before_the_norm(tiny_qwen3: Path) -> None:
    model = TextEncoder.load(str(tiny_qwen3), precision="fp32")
    texts = ["a longer text about lists", "b", "def f(x): return x", ""]
    together = model.encode(texts, tokens_per_batch=16)
    one_by_one = torch.cat([model.encode([text]) for text in texts])
    torch.testing.assert_close(together, one_by_one, rtol=0, atol=1e-6)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(4))
    short = model.encode(texts, dim=8)
    torch.testing.assert_close(short, torch.nn.functional.normalize(together[:, :8], dim=1))
    with pytest.raises(ValueError, match="dim 33 is not within"):
        model.encode(texts, dim=33)
    assert load_tokenizer(str(tiny_qwen3)).eos_token_id == model.tokenizer.eos_token_id
    assert model.precision is Precision.fp32
