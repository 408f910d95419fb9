"""Chunks: every text once, no chunk over budget unless it is one text."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qwen3emb_train.data.batches import PackedTokens, chunk_by_tokens


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 120))
def test_every_text_is_in_one_chunk_and_budgets_hold(lengths: list[int], budget: int) -> None:
    chunks = chunk_by_tokens(torch.tensor(lengths), budget)
    assert sorted(torch.cat(chunks).tolist()) == list(range(len(lengths)))
    for chunk in chunks:
        total = sum(lengths[i] for i in chunk.tolist())
        assert total <= budget or len(chunk) == 1
    order = [lengths[i] for chunk in chunks for i in chunk.tolist()]
    assert order == sorted(lengths, reverse=True)


def test_a_budget_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="tokens_per_chunk is 0"):
        chunk_by_tokens(torch.tensor([3]), 0)


def test_selecting_repacks_the_chosen_texts() -> None:
    texts = [[1, 2, 3], [4], [5, 6]]
    packed = PackedTokens.from_lists(texts)
    chosen = packed.select(torch.tensor([2, 0]))
    assert chosen.input_ids.tolist() == [5, 6, 1, 2, 3]
    assert chosen.cu_seqlens.tolist() == [0, 2, 5]
    assert chosen.position_ids.tolist() == [0, 1, 0, 1, 2]
