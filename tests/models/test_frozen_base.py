"""Under bf16 a frozen base is kept in bf16: the same products, half the memory; float32 where anything is added up."""

from pathlib import Path
from typing import Any

import pytest
import torch

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.models.loading import LoraConfig, ModelConfig, load_encoder, load_reranker, save_model
from qwen3emb_train.models.precision import Precision, round_frozen_products
from qwen3emb_train.models.weights import StoredWeights
from qwen3emb_train.training.engines.engine import Engine
from qwen3emb_train.training.engines.launch import build_engine, start
from qwen3emb_train.training.engines.probe import require_products
from qwen3emb_train.training.optimization import OptimizerConfig
from tests.ranks import run_on_ranks
from tests.tiny import make_tiny_causal_lm_directory, make_tiny_model_directory

TOKENS = PackedTokens.from_lists([[5, 6, 7, 0], [9, 10, 11, 12, 13, 0], [8, 0]])
LORA = LoraConfig(rank=4)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model published in bf16, as Qwen3 is."""
    base = tmp_path_factory.mktemp("frozen")
    whole = load_encoder(ModelConfig(path=str(make_tiny_model_directory(base / "float32"))))
    save_model(whole, base / "published", dtype=torch.bfloat16)
    return base / "published"


def adapted(path: Path) -> Any:
    torch.manual_seed(0)
    encoder = load_encoder(ModelConfig(path=str(path), lora=LORA))
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return encoder


def engine_of(encoder: Any, precision: Precision) -> Engine:
    return build_engine(start("cpu"), encoder, OptimizerConfig(lr=1e-2), precision, max_grad_norm=1.0)


def step(encoder: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    with torch.autocast("cpu", torch.bfloat16):
        vectors = encoder(TOKENS)
    vectors.square().sum().backward()
    return vectors.detach(), {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}


def test_the_engine_keeps_frozen_products_in_bf16_and_nothing_else(published: Path) -> None:
    engine = engine_of(adapted(published), Precision.bf16)
    require_products(engine)
    for name, parameter in engine.model.named_parameters():
        is_frozen_product = "base_layer" in name
        assert parameter.dtype == (torch.bfloat16 if is_frozen_product else torch.float32), name
    assert {p.dtype for p in engine_of(adapted(published), Precision.fp32).model.parameters()} == {torch.float32}
    whole = engine_of(load_encoder(ModelConfig(path=str(published))), Precision.bf16)
    assert {p.dtype for p in whole.model.parameters()} == {torch.float32}


def test_vectors_and_gradients_are_the_same_bits_as_with_a_float32_base(published: Path) -> None:
    plain, halved = adapted(published), adapted(published)
    round_frozen_products(halved)
    (vectors, gradients), (found_vectors, found) = step(plain), step(halved)
    assert torch.equal(found_vectors, vectors)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert torch.equal(found[name], gradient), name


def test_merging_adds_in_float32_and_rounds_once(published: Path, tmp_path: Path) -> None:
    """The saved model is the plain path's, bit for bit, in float32 and in bf16."""
    plain, halved = adapted(published), adapted(published)
    round_frozen_products(halved)
    for dtype in (torch.float32, torch.bfloat16):
        saved = []
        for name, encoder in (("plain", plain), ("halved", halved)):
            directory = tmp_path / f"{name}_{dtype}"
            save_model(encoder, directory, dtype=dtype)
            saved.append(StoredWeights(directory))
        assert saved[0].names == saved[1].names
        for name in saved[0].names:
            assert torch.equal(saved[0].load(name), saved[1].load(name)), name
            assert saved[1].dtype(name) == dtype


def test_a_base_published_in_float32_is_rounded_once_and_saved_as_it_was_trained(tmp_path: Path) -> None:
    encoder = adapted(make_tiny_model_directory(tmp_path / "base"))
    name = "layers.0.self_attn.q_proj"
    layer = encoder.backbone.get_base_model().get_submodule(name)
    stored = layer.base_layer.weight.detach().clone()
    round_frozen_products(encoder)
    save_model(encoder, tmp_path / "saved")
    expected = stored.bfloat16().float() + layer.get_delta_weight("default").detach()
    torch.testing.assert_close(StoredWeights(tmp_path / "saved").load(f"{name}.weight"), expected, rtol=0, atol=1e-7)
    assert not torch.equal(stored, stored.bfloat16().float()), "else this test would be vacuous"


def test_a_rerankers_head_stays_float32(tmp_path: Path) -> None:
    make_tiny_causal_lm_directory(tmp_path / "lm", tied=False)
    reranker = load_reranker(ModelConfig(path=str(tmp_path / "lm"), lora=LORA), (5, 6))
    engine = engine_of(reranker, Precision.bf16)
    assert reranker.lm_head.weight.dtype == torch.float32
    assert reranker.backbone.get_base_model().layers[0].mlp.up_proj.base_layer.weight.dtype == torch.bfloat16
    assert engine.forward(TOKENS).dtype == torch.float32


def sharded(path: str) -> tuple[torch.Tensor, set[torch.dtype], dict[str, torch.Tensor]]:
    import os

    os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    engine = engine_of(adapted(Path(path)), Precision.bf16)
    vectors = engine.forward(TOKENS, last=True)
    engine.backward(vectors.square().sum(), last=True)
    assert engine.finish_backward(1.0)
    engine.update(1e-2)
    frozen = {p.dtype for name, p in engine.model.named_parameters() if "base_layer" in name}
    return vectors.detach(), frozen, engine.gather_parameters()


@pytest.mark.slow
def test_shards_of_a_frozen_base_are_bf16_too(published: Path) -> None:
    encoder = adapted(published)
    expected, _ = step(encoder)
    frozen = {n: p.detach() for n, p in encoder.named_parameters() if "base_layer" in n}
    results = run_on_ranks(sharded, 2, str(published))
    for vectors, dtypes, _ in results:
        assert dtypes == {torch.bfloat16}
        torch.testing.assert_close(vectors, expected, rtol=0.02, atol=0.02)
    gathered = results[0][2]
    for name, weight in frozen.items():
        assert torch.equal(gathered[name].float(), weight)
