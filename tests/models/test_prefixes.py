"""A shared beginning encoded once equals encoding it in every text: values and gradients, every family."""

from pathlib import Path

import pytest
import torch

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.data.prefixes import share_prefixes
from qwen3emb_train.models.loading import ModelConfig, load_encoder
from qwen3emb_train.models.lora import LoraConfig
from tests.tiny import make_tiny_model_directory

INSTRUCTION = [*range(20, 44)]  # longer than Gemma's sliding window of 16
OTHER = [*range(60, 95)]
TEXTS = [
    [*INSTRUCTION, 5, 6, 7, 0],
    [9, 0],
    [*INSTRUCTION, 0],  # nothing of its own but the EOS token
    [*OTHER, 3, 0],
    [*INSTRUCTION, *range(100, 140), 0],
    [*INSTRUCTION, 5, 6, 7, 0],  # equal to the first
    [*OTHER, 4, 4, 4, 0],
    [*OTHER, *range(30), 0],
    [*INSTRUCTION[:5], 8, 0],
]


def test_beginnings_are_stored_once_and_nothing_is_lost() -> None:
    tokens = PackedTokens.from_lists(TEXTS)
    shared = share_prefixes(tokens)
    assert shared.num_prefixes == 2
    assert shared.num_texts == len(TEXTS)
    assert shared.num_tokens == tokens.num_tokens - 3 * len(INSTRUCTION) - 2 * len(OTHER)
    segments = shared.input_ids.split(shared.lengths.tolist())
    assert shared.prefix_of is not None
    for number, text in enumerate(TEXTS, start=shared.num_prefixes):
        prefix = int(shared.prefix_of[number])
        whole = [*(segments[prefix].tolist() if prefix >= 0 else []), *segments[number].tolist()]
        assert whole == text
    positions = shared.position_ids.split(shared.lengths.tolist())
    assert positions[shared.num_prefixes + 4][0] == len(INSTRUCTION)


@pytest.mark.parametrize("texts", [[[3, 0]], [[3, 0], [3, 0]], [[*range(9), 0], [*range(9), 0]]])
def test_where_little_would_be_saved_the_tokens_stay_as_they_are(texts: list[list[int]]) -> None:
    tokens = PackedTokens.from_lists(texts)
    assert share_prefixes(tokens) is tokens


def test_groups_share_as_long_as_they_agree() -> None:
    """A reranker's documents of one query: two queries begin alike, but each group's own beginning is longer."""
    texts = [[*INSTRUCTION, 1, 1, 1, *range(k, k + 9), 0] for k in range(4)]
    texts += [[*INSTRUCTION, 2, 2, *range(k, k + 9), 0] for k in range(4)]
    shared = share_prefixes(PackedTokens.from_lists(texts), torch.tensor([0] * 4 + [1] * 4))
    assert shared.lengths[: shared.num_prefixes].tolist() == [len(INSTRUCTION) + 3, len(INSTRUCTION) + 2]


@pytest.mark.parametrize("family", ["qwen3", "llama", "mistral", "gemma3"])
def test_shared_equals_repeated_in_value_and_gradient(family: str, tmp_path: Path) -> None:
    encoder = load_encoder(ModelConfig(path=str(make_tiny_model_directory(tmp_path / family, family=family)))).double()
    assert encoder.shares_prefixes
    tokens = PackedTokens.from_lists(TEXTS)
    shared = share_prefixes(tokens)
    assert shared.num_tokens < 0.7 * tokens.num_tokens
    direction = torch.randn(len(TEXTS), encoder.dim, dtype=torch.float64)
    results = []
    for given in (tokens, shared):
        encoder.zero_grad()
        vectors = encoder(given)
        (vectors * direction).sum().backward()
        results.append((vectors.detach(), {name: p.grad.clone() for name, p in encoder.named_parameters()}))
    tolerance = 1e-6  # the norms compute in float32
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=tolerance)
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(gradient, results[1][1][name], rtol=10 * tolerance, atol=10 * tolerance)


def test_where_it_would_not_be_exact_nothing_is_shared(tiny_qwen3: Path) -> None:
    path = str(tiny_qwen3)
    assert not load_encoder(ModelConfig(path=path, bidirectional=True)).shares_prefixes
    assert not load_encoder(ModelConfig(path=path, lora=LoraConfig(rank=2, dropout=0.1))).shares_prefixes
    bidirectional = load_encoder(ModelConfig(path=path, bidirectional=True))
    with pytest.raises(ValueError, match="causal attention only"):
        bidirectional(share_prefixes(PackedTokens.from_lists(TEXTS)))
