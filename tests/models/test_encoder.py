"""Packed equals padded (left, right) equals one at a time: values and gradients, causal and bidirectional."""

from pathlib import Path

import pytest
import torch

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.models.loading import Attention, ModelConfig, load_encoder
from qwen3emb_train.models.text_model import Encoder, pad
from tests.tiny import make_tiny_model_directory

TEXTS = [[5, 6, 7, 0], [9, 0], [*range(10, 50), 0], [3, 4, 0], [0], [9, 0]]  # one of one token, two equal ones


def gradients(encoder: Encoder) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}


def load(path: Path, attention: Attention, bidirectional: bool = False) -> Encoder:
    encoder = load_encoder(ModelConfig(path=str(path), attention=attention, bidirectional=bidirectional))
    return encoder.double()


@pytest.mark.parametrize("family", ["qwen3", "llama", "mistral", "gemma3"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_packed_equals_padded_equals_single_in_value_and_gradient(
    family: str, bidirectional: bool, tmp_path: Path
) -> None:
    path = make_tiny_model_directory(tmp_path / family, family=family)
    if family == "gemma3" and bidirectional:
        with pytest.raises(ValueError, match="sliding-window"):
            load(path, Attention.packed, True)
        return
    packed, padded = load(path, Attention.packed, bidirectional), load(path, Attention.padded, bidirectional)
    tokens = PackedTokens.from_lists(TEXTS)
    direction = torch.randn(len(TEXTS), packed.dim, dtype=torch.float64)
    results = []
    for encoder in (packed, padded):
        vectors = encoder(tokens)
        (vectors * direction).sum().backward()
        results.append((vectors.detach(), gradients(encoder)))
    single = torch.cat([padded(PackedTokens.from_lists([ids])) for ids in TEXTS])
    tolerance = 1e-6 if family == "gemma3" else 1e-10  # Gemma's norms compute in float32 whatever they are given
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=tolerance)
    torch.testing.assert_close(results[0][0], single.detach(), rtol=0, atol=tolerance)
    assert results[0][1].keys() == results[1][1].keys()
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(gradient, results[1][1][name], rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize("family", ["qwen3", "gemma3"])  # gemma3's window is far shorter than the text
def test_a_text_of_8192_tokens_beside_short_ones_is_what_it_is_alone(family: str, tmp_path: Path) -> None:
    encoder = load(make_tiny_model_directory(tmp_path / family, family=family), Attention.packed).float()
    generator = torch.Generator().manual_seed(0)
    long = torch.randint(1, 200, (8191,), generator=generator).tolist()
    texts = [[0], [*long, 0], [7, 8, 0]]
    direction = torch.randn(len(texts), encoder.dim, generator=generator)
    results = []
    for groups in ([texts], [[text] for text in texts]):
        vectors = torch.cat([encoder(PackedTokens.from_lists(group)) for group in groups])
        (vectors * direction).sum().backward()
        results.append((vectors.detach(), gradients(encoder)))
        encoder.zero_grad()
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=1e-5)
    for name, gradient in results[0][1].items():
        scale = float(results[1][1][name].abs().max())
        torch.testing.assert_close(gradient, results[1][1][name], rtol=0, atol=1e-5 * max(1.0, scale), msg=name)


def test_left_padding_gives_the_same_vectors(tiny_qwen3: Path) -> None:
    encoder = load(tiny_qwen3, Attention.padded)
    tokens = PackedTokens.from_lists(TEXTS)
    right_ids, right_mask = pad(tokens)
    left_ids, left_mask = torch.zeros_like(right_ids), torch.zeros_like(right_mask)
    for row, length in enumerate(tokens.lengths.tolist()):
        left_ids[row, -length:] = right_ids[row, :length]
        left_mask[row, -length:] = 1
    # Rotary phases are float32: other positions, equal only in their differences, round differently.
    torch.testing.assert_close(encoder.last_states_padded(left_ids, left_mask), encoder(tokens), rtol=0, atol=5e-6)


def test_no_text_sees_another(tiny_qwen3: Path) -> None:
    """The leak that transformers' own packed detection has with a cache (docs/sources.md) would show here."""
    encoder = load(tiny_qwen3, Attention.packed)
    before = encoder(PackedTokens.from_lists([[5, 6, 7, 0], [9, 8, 0]]))
    after = encoder(PackedTokens.from_lists([[11, 12, 13, 14, 0], [9, 8, 0]]))
    torch.testing.assert_close(before[1], after[1], rtol=0, atol=1e-12)
    assert (before[0] - after[0]).abs().max() > 1e-3


def test_causal_and_bidirectional_differ_and_the_switch_is_saved(tiny_qwen3: Path) -> None:
    texts = PackedTokens.from_lists([[5, 6, 7, 0], [9, 8, 7, 0]])  # equal lengths: no padding mask anywhere
    causal = load(tiny_qwen3, Attention.packed)
    both_ways = load(tiny_qwen3, Attention.packed, bidirectional=True)
    assert (causal(texts) - both_ways(texts)).abs().max() > 1e-3
    assert both_ways.config.is_causal is False
    padded = load(tiny_qwen3, Attention.padded, bidirectional=True)
    torch.testing.assert_close(padded(texts), both_ways(texts), rtol=0, atol=1e-12)
