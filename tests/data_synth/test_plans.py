"""A run has exactly the configured mix, at any length."""

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_synth.plans import (
    BLOCK,
    OtherLanguages,
    PlanSampler,
    Quota,
    StratifiedSampler,
    check_weights,
    in_blocks,
    shares,
)

weights = st.dictionaries(
    st.sampled_from("abcdefghij"), st.integers(0, 1000).map(lambda part: part / 100), min_size=1
).filter(lambda mix: any(mix.values()))


def is_exact(counts: Counter[str], mix: dict[str, float], num: int) -> bool:
    total = sum(Fraction(str(weight)) for weight in mix.values())
    return all(abs(counts[name] - num * Fraction(str(weight)) / total) < 1 for name, weight in mix.items())


@settings(max_examples=80, deadline=None)
@given(weights, st.integers(1, 300))
def test_every_prefix_of_a_quota_gives_each_name_its_share_rounded_up_or_down(mix: dict[str, float], num: int) -> None:
    quota, counts = Quota(mix), Counter[str]()
    for drawn in range(1, num + 1):
        counts[quota.next()] += 1
        assert is_exact(counts, mix, drawn)


def test_shares_that_divide_the_run_come_out_exactly() -> None:
    quota = Quota({"a": 0.1, "b": 0.2, "c": 0.7})
    assert Counter(quota.next() for _ in range(1000)) == {"a": 100, "b": 200, "c": 700}
    thirds = Quota({"x": 1.0, "y": 1.0, "z": 1.0})
    assert Counter(thirds.next() for _ in range(3000)) == {"x": 1000, "y": 1000, "z": 1000}


@settings(max_examples=40, deadline=None)
@given(weights, st.lists(st.integers(1, 40), min_size=1, max_size=10), st.integers(0, 5))
def test_a_sampler_is_exact_after_each_block_whatever_their_lengths(
    mix: dict[str, float], lengths: list[int], seed: int
) -> None:
    sampler, again = StratifiedSampler(mix, seed, "mix"), StratifiedSampler(mix, seed, "mix")
    counts, num = Counter[str](), 0
    for length in lengths:
        block = sampler.next_block(length)
        assert block == again.next_block(length)
        counts.update(block)
        num += length
        assert is_exact(counts, mix, num)


def test_two_mixes_of_a_plan_are_not_correlated() -> None:
    """Two halves each: all four pairs occur, each in about a quarter of 4,000 items (five standard deviations)."""
    sampler = PlanSampler({"one": {"a": 0.5, "b": 0.5}, "other": {"c": 0.5, "d": 0.5}}, seed=3)
    pairs = Counter(tuple(entry.values()) for _ in range(250) for entry in sampler.next_block(BLOCK))
    assert len(pairs) == 4
    assert all(abs(count - 1000) < 140 for count in pairs.values())


def test_the_seed_changes_the_order_and_not_the_counts() -> None:
    one, other = (StratifiedSampler({"a": 0.5, "b": 0.5}, seed, "mix").next_block(64) for seed in (0, 1))
    assert one != other
    assert Counter(one) == Counter(other) == {"a": 32, "b": 32}


def test_a_longer_input_changes_no_plan_but_that_of_the_last_block() -> None:
    def plan(num: int) -> list[str]:
        sampler = StratifiedSampler({"a": 0.3, "b": 0.7}, 0, "mix")
        return [name for block in in_blocks(range(num)) for name in sampler.next_block(len(block))]

    assert plan(100)[: 100 // BLOCK * BLOCK] == plan(1000)[: 100 // BLOCK * BLOCK]


def test_blocks_are_streamed() -> None:
    """A plan must not read the whole input before its first item."""
    taken: list[int] = []
    blocks = in_blocks(number for number in range(10**9) if taken.append(number) is None)
    assert next(blocks) == list(range(BLOCK))
    assert len(taken) == BLOCK


def test_other_languages_leave_out_the_passages_own() -> None:
    others = OtherLanguages({"en": 0.5, "de": 0.25, "zh-hant": 0.25})
    assert Counter(others.next("en") for _ in range(100)) == {"de": 50, "zh-hant": 50}
    assert Counter(others.next("zh") for _ in range(99)) == {"en": 66, "de": 33}
    assert Counter(others.next("") for _ in range(100)) == {"en": 50, "de": 25, "zh-hant": 25}


def test_the_rest_of_a_share_is_what_it_says_in_decimals() -> None:
    assert shares("cross", 0.9, "same") == {"cross": 0.9, "same": 0.1}


@pytest.mark.parametrize("mix", [{}, {"a": 0.0}, {"a": -1.0}, {"a": float("nan")}, {"a": float("inf")}, {"x": 1.0}])
def test_an_invalid_mix_is_refused(mix: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="lengths"):
        check_weights(mix, "lengths", ("a", "b"))
