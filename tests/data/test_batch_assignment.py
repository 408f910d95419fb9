"""Assigning a block: every row once, every batch full, no repetition that could be avoided."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3emb_train.data.batch_assignment import assign_batches


def assigned_rows(
    texts: list[list[int]], num_batches: int, *, stay_near: bool = False
) -> tuple[list[list[int]], np.ndarray]:
    """Rows of each batch."""
    row_idx = np.array([row for row, own in enumerate(texts) for _ in own], dtype=np.int64)
    flat = np.array([text for own in texts for text in own], dtype=np.int64)
    batch_size = len(texts) // num_batches
    batch_of_row, repeated = assign_batches(row_idx, flat, num_batches, batch_size, stay_near=stay_near)
    return [np.flatnonzero(batch_of_row == batch).tolist() for batch in range(num_batches)], repeated


def count_repeating_rows(batch: list[int], texts: list[list[int]]) -> int:
    """The fewest rows to take out of a batch so that each text is left in one row, where rows have one text each."""
    counts = Counter(text for row in batch for text in set(texts[row]))
    return sum(count - 1 for count in counts.values())


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 6), st.integers(1, 8), st.integers(1, 40), st.booleans(), st.randoms(use_true_random=False))
def test_with_one_text_a_row_only_texts_with_more_rows_than_batches_repeat(
    num_batches: int, batch_size: int, num_texts: int, stay_near: bool, random: object
) -> None:
    texts = [[random.randrange(num_texts)] for _ in range(num_batches * batch_size)]  # type: ignore[attr-defined]
    batches, repeated = assigned_rows(texts, num_batches, stay_near=stay_near)
    assert [len(batch) for batch in batches] == [batch_size] * num_batches
    assert sorted(row for batch in batches for row in batch) == list(range(len(texts)))
    assert [count_repeating_rows(batch, texts) for batch in batches] == repeated.tolist()
    counts = Counter(text for (text,) in texts)
    if not stay_near:
        assert repeated.sum() == sum(max(0, count - num_batches) for count in counts.values())


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 5), st.integers(2, 12), st.integers(0, 10**6))
def test_with_two_texts_a_row_no_counted_repetition_means_none(num_batches: int, batch_size: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    texts = generator.integers(0, 3 * batch_size, size=(num_batches * batch_size, 2)).tolist()
    batches, repeated = assigned_rows(texts, num_batches)
    assert sorted(row for batch in batches for row in batch) == list(range(len(texts)))
    for batch, num_repeated in zip(batches, repeated, strict=True):
        assert len(batch) == batch_size
        # Without the rows that are counted, no text stands in two rows: so at least so many rows repeat nothing.
        counts = Counter(text for row in batch for text in set(texts[row]))
        assert (max(counts.values()) > 1) == (num_repeated > 0)


def test_many_rows_with_two_rare_texts_each_are_all_placed() -> None:
    """A query with several positives, one line each, and positives that answer several queries."""
    generator = np.random.default_rng(0)
    texts = [
        [int(q), 10_000 + int(p)]
        for q, p in zip(generator.integers(0, 700, 2000), generator.integers(0, 700, 2000), strict=True)
    ]
    _, repeated = assigned_rows(texts, 20)
    assert repeated.sum() == 0


def test_a_row_without_a_place_pushes_another_one_out() -> None:
    """Every text three times, every row with two of them, every place taken: greedy filling alone gets stuck."""
    for seed in range(40):
        generator = np.random.default_rng(seed)
        queries, positives = (generator.permutation(np.repeat(np.arange(40), 3)) for _ in range(2))
        texts = [[int(q), 1000 + int(p)] for q, p in zip(queries, positives, strict=True)]
        _, repeated = assigned_rows(texts, 15)
        assert repeated.sum() == 0, seed


def test_the_most_frequent_text_is_dealt_first() -> None:
    """Here the rare ones first would leave a row of text 0 without a batch."""
    queries = [0, 2, 1, 0, 3, 7, 7, 2, 4, 1, 0, 1]
    positives = [106, 107, 103, 110, 104, 104, 100, 106, 107, 104, 107, 101]
    _, repeated = assigned_rows([[q, p] for q, p in zip(queries, positives, strict=True)], 3)
    assert repeated.sum() == 0


def test_a_row_whose_query_is_its_positive_repeats_nothing() -> None:
    batches, repeated = assigned_rows([[1, 1], [2, 2], [3, 3], [4, 4]], 1)
    assert repeated.tolist() == [0]
    assert batches == [[0, 1, 2, 3]]


def test_rows_without_a_rival_keep_their_places_and_the_others_move_no_further_than_needed() -> None:
    texts = [[2], [3], [4], [5], [6], [7], [1], [1], [8]]
    batches, _ = assigned_rows(texts, 3, stay_near=True)
    assert batches == [[0, 1, 2], [3, 4, 7], [5, 6, 8]]


def test_rows_without_texts_go_anywhere() -> None:
    batches, repeated = assigned_rows([[], [], [], []], 2)
    assert batches == [[0, 1], [2, 3]]
    assert repeated.tolist() == [0, 0]
