"""Masks are functions of the text, and otherwise as random as torch's."""

import pytest
import torch

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.models.dropout import TextDropout, TextKeys
from qwen3emb_train.models.loading import LoraConfig

TOKENS, DIM, MODULES = 40, 256, 3


def masks(texts: list[list[int]], probability: float = 0.1, seed: int = 3, dim: int = DIM) -> torch.Tensor:
    """What is kept: [modules, tokens, dim]."""
    keys = TextKeys()
    modules = [TextDropout(probability, keys) for _ in range(MODULES)]
    keys.seed = seed
    keys.set_tokens(PackedTokens.from_lists(texts))
    ones = torch.ones(1, sum(map(len, texts)), dim)
    return torch.stack([module(ones)[0] for module in modules]) > 0


def texts(count: int, length: int = TOKENS) -> list[list[int]]:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 30_000, (count, length), generator=generator).tolist()


def test_a_texts_mask_is_its_own_whatever_stands_beside_it() -> None:
    first, second, third = texts(3)
    together = masks([first, second, third])
    assert torch.equal(masks([second])[:, :], together[:, TOKENS : 2 * TOKENS])
    assert torch.equal(masks([third, first])[:, TOKENS:], together[:, :TOKENS])


def test_a_mask_differs_by_seed_module_text_and_position() -> None:
    (text,) = texts(1)
    one = masks([text])
    others = [masks([text], seed=4), one.roll(1, 0), one.roll(1, 1), masks([[text[0] + 1, *text[1:]]])]
    for other in others:  # two independent masks of rate 0.9 agree in 0.82 of the components
        assert abs(float((one == other).float().mean()) - 0.82) < 0.02


@pytest.mark.parametrize("probability", [0.05, 0.1, 0.5, 0.9])
def test_components_are_kept_at_the_asked_rate(probability: float) -> None:
    found = masks(texts(50), probability)
    spread = (probability * (1 - probability) / found.numel()) ** 0.5
    assert abs(float(found.float().mean()) - (1 - probability)) < 5 * spread
    keys = TextKeys()
    scaled = TextDropout(probability, keys)
    keys.set_tokens(PackedTokens.from_lists(texts(50)))
    assert abs(float(scaled(torch.ones(1, 50 * TOKENS, DIM)).mean()) - 1) < 0.05


def test_counts_scatter_as_those_of_independent_draws() -> None:
    """By token, channel and module: a lattice, or draws that repeat, would scatter less or more."""
    centred = masks(texts(100)).double() - 0.9
    for dims in ((2,), (1,), (0, 2), (0, 1)):
        sums = centred.sum(dims)
        variance = 0.09 * centred.numel() / sums.numel()
        allowed = 6 * (2 / sums.numel()) ** 0.5  # six standard errors of a variance
        assert abs(float(sums.square().mean()) / variance - 1) < max(allowed, 0.05), dims


def test_no_two_channels_tokens_or_modules_go_together() -> None:
    centred = masks(texts(100)).double() - 0.9
    modules, _, channels = centred.shape
    views = {
        "channels": centred.reshape(-1, channels).T,
        "tokens": centred[:, :600].transpose(0, 1).reshape(600, -1),
        "modules": centred.reshape(modules, -1),
    }
    for name, rows in views.items():
        correlation = rows @ rows.T / (0.09 * rows.shape[1])
        correlation.fill_diagonal_(0)
        assert float(correlation.abs().max()) < 6 / rows.shape[1] ** 0.5, name


def test_nor_do_three_channels() -> None:
    """A line's multiples satisfy a + c = 2 b where channel numbers do: random ones do not."""
    centred = masks(texts(100)).double().reshape(-1, DIM)[:, :64] - 0.9
    neighbours = centred[:, :-2] * centred[:, 1:-1] * centred[:, 2:]
    found = neighbours.mean(0) / 0.09**1.5
    assert float(found.abs().max()) < 6 * 2.7 / len(centred) ** 0.5  # a third moment of rate 0.9 is heavy-tailed


def test_a_probability_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.lora\.dropout is 1\.0"):
        LoraConfig(rank=4, dropout=1.0)
