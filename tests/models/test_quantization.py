"""QLoRA: the base is 4-bit and frozen, adapters learn, and what is saved gives the vectors that were trained."""

from pathlib import Path

import pytest
import torch

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.models.loading import ModelConfig, load_encoder, merged_state_dict, save_model
from qwen3emb_train.models.lora import LoraConfig
from qwen3emb_train.models.quantization import Quantization
from tests.tiny import make_tiny_model_directory

pytest.importorskip("bitsandbytes", reason="the extra qlora is not installed")
TOKENS = PackedTokens.from_lists([[5, 6, 7, 0], [9, 10, 11, 12, 13, 0], [8, 0]])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # bitsandbytes quantises in blocks of 64.
    return make_tiny_model_directory(tmp_path_factory.mktemp("qlora") / "model", hidden_size=64)


def test_adapters_learn_on_a_four_bit_base_and_the_saved_model_is_the_trained_one(model: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = load_encoder(ModelConfig(path=str(model), lora=LoraConfig(rank=4), quantization=Quantization.nf4))
    trained = {name: p for name, p in encoder.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    base = encoder.backbone.get_base_model().layers[0].self_attn.q_proj.base_layer.weight
    assert base.dtype is torch.uint8, "the base is not quantised: the test would be vacuous"
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    target = torch.randn(3, encoder.dim)
    distances = []
    for _ in range(20):
        loss = (encoder(TOKENS) - target).square().mean()
        distances.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert distances[-1] < 0.9 * distances[0]

    save_model(encoder, tmp_path / "merged")
    saved = load_encoder(ModelConfig(path=str(tmp_path / "merged"))).eval()
    with torch.no_grad():
        vectors, merged, before = (
            encoder.eval()(TOKENS),
            saved(TOKENS),
            load_encoder(ModelConfig(path=str(model)))(TOKENS),
        )
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(vectors, merged).min() > 0.999  # the 4-bit layers multiply in bf16
    assert cosine(vectors, before).min() < 0.99
    names = merged_state_dict(encoder).keys()
    assert not any("quant" in name or "absmax" in name or "lora" in name for name in names)


def test_quantisation_without_adapters_is_refused() -> None:
    with pytest.raises(ValueError, match=r"set model.lora.rank"):
        ModelConfig(path="x", quantization=Quantization.nf4)
