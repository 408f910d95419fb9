"""Cached equals plain: vectors, loss and gradients; whatever the chunks, with dropout on, and the dropout is real."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel

from qwen3emb_train.data.batches import EmbeddingBatch, PackedTokens
from qwen3emb_train.losses.embedding_loss import matryoshka
from qwen3emb_train.losses.infonce import InfoNCE
from qwen3emb_train.models.loading import ModelConfig, load_encoder
from qwen3emb_train.models.lora import LoraConfig
from qwen3emb_train.models.packing import PACKED, register_packed_attention
from qwen3emb_train.models.precision import Precision
from qwen3emb_train.models.text_model import Encoder
from qwen3emb_train.training import gradient_cache
from qwen3emb_train.training.engines.engine import SingleEngine
from qwen3emb_train.training.gradient_cache import GradientCache
from qwen3emb_train.training.objectives import EmbeddingObjective, embeddings_by_role

TEXTS = [[5, 6, 7, 0], [9, 0], [*range(10, 40), 0], [3, 4, 0], [8, 0], [12, 13, 14, 15, 0], [16, 0], [17, 18, 0]]


def batch() -> EmbeddingBatch:
    index = torch.tensor
    return EmbeddingBatch(
        texts=PackedTokens.from_lists(TEXTS),
        query_idx=index([0, 1, 4]),
        positive_idx=index([2, 3, 5, 6]),
        positive_query_idx=index([0, 1, 1, 2]),
        negative_idx=index([7, 2, 3]),  # two of them are other queries' positives: encoded once, used twice
        negative_query_idx=index([0, 1, 2]),
        text_hash=torch.arange(len(TEXTS)),
    )


def engine_of(encoder: Encoder, precision: Precision = Precision.fp32) -> SingleEngine:
    return SingleEngine(encoder, torch.optim.SGD(encoder.parameters()), precision, torch.device("cpu"))


def gradients(encoder: Encoder) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in encoder.named_parameters()}


def plain(encoder: Encoder, dims: list[int]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """One graph over one forward pass: the reference."""
    encoder.zero_grad()
    rows = batch()
    result = matryoshka(InfoNCE(), embeddings_by_role(rows, encoder(rows.texts)), None, dims)
    result.loss.backward()
    return result.loss.detach(), gradients(encoder)


@pytest.mark.parametrize("dims", [[], [32, 8]])
@pytest.mark.parametrize(
    ("tokens_per_chunk", "retained_graph_tokens"), [(1000, 0), (1, 0), (12, 0), (12, 15), (12, 10**6)]
)
def test_chunked_equals_plain_in_loss_and_gradient(
    tiny_qwen3: Path, dims: list[int], tokens_per_chunk: int, retained_graph_tokens: int
) -> None:
    encoder = load_encoder(ModelConfig(path=str(tiny_qwen3))).double()
    expected_loss, expected = plain(encoder, dims)
    encoder.zero_grad()
    objective = EmbeddingObjective(
        engine_of(encoder),
        InfoNCE(),
        dims,
        tokens_per_chunk=tokens_per_chunk,
        retained_graph_tokens=retained_graph_tokens,
    )
    metrics = objective.forward_backward(batch())
    torch.testing.assert_close(metrics["loss"], expected_loss, rtol=1e-9, atol=0)
    for name, gradient in gradients(encoder).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-7, atol=1e-9)


def encoder_with_dropout(tiny: Path) -> Encoder:
    register_packed_attention()
    config = AutoConfig.from_pretrained(tiny)
    config.attention_dropout = 0.3
    backbone = AutoModel.from_pretrained(tiny, config=config, dtype=torch.float32, attn_implementation=PACKED)
    return Encoder(backbone.double()).train()


def test_a_replay_draws_the_same_dropout_and_the_dropout_is_real(tiny_qwen3: Path) -> None:
    """Kept graphs are the truth: the replayed chunks must give the gradient of the very vectors the loss saw."""
    encoder = encoder_with_dropout(tiny_qwen3)
    tokens = PackedTokens.from_lists(TEXTS)
    assert (encoder(tokens) - encoder(tokens)).abs().max() > 1e-3, "without dropout this test would be vacuous"
    results = []
    for retained_graph_tokens in (10**6, 0):
        torch.manual_seed(7)
        encoder.zero_grad()
        cache = GradientCache(engine_of(encoder), tokens_per_chunk=12, retained_graph_tokens=retained_graph_tokens)
        vectors = cache.encode(tokens)
        direction = torch.linspace(-1, 1, vectors.numel(), dtype=torch.float64).view_as(vectors)
        cache.backward(direction)
        results.append((vectors.detach(), gradients(encoder)))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=0)
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(gradient, results[1][1][name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("retained_graph_tokens", [0, 25, 10**6])
def test_a_recomputed_layer_draws_its_own_chunks_dropout(tiny_qwen3: Path, retained_graph_tokens: int) -> None:
    """Activation checkpointing recomputes the layers of one kept chunk after all others were encoded."""
    found = []
    for checkpointing, kept in ((False, 0), (True, retained_graph_tokens)):
        torch.manual_seed(0)
        lora = LoraConfig(rank=4, dropout=0.3)
        config = ModelConfig(path=str(tiny_qwen3), lora=lora, activation_checkpointing=checkpointing)
        encoder = load_encoder(config).double()
        for name, parameter in encoder.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        engine = engine_of(encoder)
        engine.seed_dropout(7)
        cache = GradientCache(engine, tokens_per_chunk=12, retained_graph_tokens=kept)
        vectors = cache.encode(PackedTokens.from_lists(TEXTS))
        cache.backward(torch.linspace(-1, 1, vectors.numel(), dtype=torch.float64).view_as(vectors))
        found.append({name: p.grad for name, p in encoder.named_parameters() if p.requires_grad})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-9, atol=1e-12)


def test_replaying_leaves_the_random_state_as_it_found_it(tiny_qwen3: Path) -> None:
    encoder = encoder_with_dropout(tiny_qwen3)
    cache = GradientCache(engine_of(encoder), tokens_per_chunk=12)
    vectors = cache.encode(PackedTokens.from_lists(TEXTS))
    state = torch.get_rng_state()
    cache.backward(torch.ones_like(vectors))
    assert torch.equal(torch.get_rng_state(), state)


def test_bf16_autocast_keeps_gradients_of_every_chunk(tiny_qwen3: Path) -> None:
    """Autocast remembers cast weights; one remembered without graph would silently cut later gradients."""
    encoder = load_encoder(ModelConfig(path=str(tiny_qwen3)))
    found = []
    for tokens_per_chunk in (1000, 12):
        encoder.zero_grad()
        engine = engine_of(encoder, Precision.bf16)
        EmbeddingObjective(engine, InfoNCE(), tokens_per_chunk=tokens_per_chunk).forward_backward(batch())
        found.append(torch.cat([g.flatten() for g in gradients(encoder).values()]))
    assert torch.nn.functional.cosine_similarity(found[0], found[1], dim=0) > 0.99
    assert found[1].norm() == pytest.approx(float(found[0].norm()), rel=0.1)


class Uncut(EmbeddingObjective):
    """Leaves all to the step."""

    def prepare(self, batch: EmbeddingBatch) -> EmbeddingBatch:
        return batch


@pytest.mark.parametrize("lockstep", [False, True])
@pytest.mark.parametrize("others_chunks", [1, 9])
def test_what_is_cut_ahead_is_what_the_step_would_cut(
    tiny_qwen3: Path, lockstep: bool, others_chunks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where other ranks have more chunks; the texts are not selected again in the step."""
    monkeypatch.setattr(gradient_cache, "gather_counts", lambda count, device: [count, others_chunks])
    found, selected = [], []
    for kind in (Uncut, EmbeddingObjective):
        engine = engine_of(load_encoder(ModelConfig(path=str(tiny_qwen3))).double())
        engine.lockstep = lockstep
        passes: list[PackedTokens] = []
        forward = engine.forward
        engine.forward = lambda tokens, f=forward, p=passes, **k: (p.append(tokens), f(tokens, **k))[1]  # type: ignore[method-assign]
        objective = kind(engine, InfoNCE(), tokens_per_chunk=30)
        prepared = objective.prepare(batch())
        selected.clear()
        select = PackedTokens.select
        monkeypatch.setattr(
            PackedTokens, "select", lambda s, texts, f=select: (selected.append(len(texts)), f(s, texts))[1]
        )
        loss = objective.forward_backward(prepared)["loss"]
        monkeypatch.setattr(PackedTokens, "select", select)
        found.append((loss, [tokens.input_ids.tolist() for tokens in passes], gradients(engine.model)))
    assert (selected == []) == (not lockstep)
    assert found[0][0] == found[1][0]
    assert found[0][1] == found[1][1]
    for name, gradient in found[0][2].items():
        assert torch.equal(found[1][2][name], gradient)
