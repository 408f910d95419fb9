"""However texts are laid on grids, attention and its gradients are those of one text after the other, in float64."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.data.prefixes import share_prefixes
from qwen3emb_train.models import grids
from qwen3emb_train.models.grids import Grids

HEADS, KEY_HEADS, HEAD_DIM = 4, 2, 8
BEGINNING = list(range(100, 130))
PLAIN = [[7] * length for length in (1, 40, 3, 41, 1, 17, 40, 5)]
SHARING = [[*BEGINNING, *([7 + number] * length)] for number, length in enumerate((1, 40, 3, 2, 17, 3))]
TEXTS = {
    "of all lengths": PLAIN,
    "alike": [[1] * 5, [2] * 5],
    "one": [[1] * 9],
    "with a shared beginning": SHARING,
    "with and without": [*PLAIN, *SHARING, [BEGINNING[0]] * 12],
    # Own tokens are the greater part: on a square.
    "long ones behind a short beginning": [[*BEGINNING, *[9 + n] * 70] for n in range(4)],
}


@pytest.fixture(params=[0, 4096], ids=["parted", "together"])
def _min_saved(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grids, "_MIN_SAVED", request.param)


def reference(
    tokens: PackedTokens, query: Tensor, key: Tensor, value: Tensor, is_causal: bool, window: int | None
) -> Tensor:
    """Softmax over what each query may see, one text and head after the other."""
    found = []
    starts = tokens.cu_seqlens.tolist()
    for segment, (start, end) in enumerate(pairwise(starts)):
        seen = list(range(start, end))
        if tokens.prefix_of is not None and (prefix := int(tokens.prefix_of[segment])) >= 0:
            seen = [*range(starts[prefix], starts[prefix + 1]), *seen]
        first = len(seen) - (end - start)
        for place, row in enumerate(range(start, end), start=first):
            low = 0 if window is None else max(0, place - window + 1)
            high = place + 1 if is_causal else (len(seen) if window is None else min(len(seen), place + window))
            chosen = seen[low:high]
            heads = []
            for head in range(HEADS):
                group = head // (HEADS // KEY_HEADS)
                scores = key[chosen, group] @ query[row, head] / HEAD_DIM**0.5
                heads.append(scores.softmax(0) @ value[chosen, group])
            found.append(torch.stack(heads))
    return torch.stack(found)


@pytest.mark.usefixtures("_min_saved")
@pytest.mark.parametrize("how", [(True, None), (True, 6), (False, None), (False, 6)], ids=str)
@pytest.mark.parametrize("name", TEXTS)
def test_grids_equal_one_text_after_the_other(name: str, how: tuple[bool, int | None]) -> None:
    is_causal, window = how
    tokens = PackedTokens.from_lists(TEXTS[name])
    if is_causal:
        tokens = share_prefixes(tokens)
        assert (tokens.prefix_of is not None) == ("with" in name or "behind" in name)
    generator = torch.Generator().manual_seed(0)
    shapes = (HEADS, KEY_HEADS, KEY_HEADS)
    rows = [
        torch.randn(tokens.num_tokens, heads, HEAD_DIM, dtype=torch.float64, generator=generator) for heads in shapes
    ]
    weights = torch.randn(tokens.num_tokens, HEADS, HEAD_DIM, dtype=torch.float64, generator=generator)
    results = []
    for is_reference in (True, False):
        inputs = [part.clone().requires_grad_() for part in rows]
        if is_reference:
            found = reference(tokens, *inputs, is_causal, window)
        else:
            laid = Grids.of(tokens.cu_seqlens, tokens.prefix_of)
            found = laid.attend(*inputs, dtype=torch.float64, is_causal=is_causal, window=window)
        results.append([found, *torch.autograd.grad((found * weights).sum(), inputs)])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)


def test_a_grid_is_no_larger_than_its_texts_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten texts of 5 tokens are not spread to the 100 of the eleventh; and behind a beginning only own tokens ask."""
    monkeypatch.setattr(grids, "_MIN_SAVED", 64)
    lengths = torch.tensor([5] * 10 + [100])
    laid = Grids.of(torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]))
    assert [(grid.num_texts, grid.height, grid.width) for grid in laid.grids] == [(1, 100, 100), (10, 5, 5)]
    assert all(grid.is_full for grid in laid.grids)
    tokens = share_prefixes(PackedTokens.from_lists([[*BEGINNING, n, n] for n in range(4)]))
    laid = Grids.of(tokens.cu_seqlens, tokens.prefix_of)
    assert [(grid.num_texts, grid.height, grid.width) for grid in laid.grids] == [(1, 30, 30), (4, 2, 32)]


def test_where_little_would_be_saved_texts_stay_together_and_in_their_order() -> None:
    laid = Grids.of(torch.tensor([0, 20, 50, 75]))
    assert [(grid.num_texts, grid.height) for grid in laid.grids] == [(3, 30)]
    assert laid.order is None
    assert laid.grids[0].lengths.tolist() == [20, 30, 25]
