"""Computed permutations: bijective for every size, a function of the key, and fair."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3emb_train.data.sampling import keys_of, mixed, permute, random_bits, uniform


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**40), st.sampled_from(["order", "subset"]))
def test_every_row_has_exactly_one_place(size: int, seed: int, purpose: str) -> None:
    np.testing.assert_array_equal(np.sort(permute(np.arange(size), size, seed, purpose)), np.arange(size))


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 2**45), st.data())
def test_a_part_of_the_order_needs_not_the_rest(size: int, data: st.DataObject) -> None:
    positions = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20, unique=True)))
    whole = permute(positions, size, 7, "order")
    assert len(set(whole.tolist())) == len(positions)
    assert whole.min() >= 0
    assert whole.max() < size
    for position, row in zip(positions, whole, strict=True):
        assert permute(np.array([position]), size, 7, "order")[0] == row


def test_a_position_outside_is_refused_instead_of_walking_for_ever() -> None:
    with pytest.raises(ValueError, match="position 5 is outside a permutation of 5 rows"):
        permute(np.array([5]), 5, 0)


def test_no_positions_give_no_rows() -> None:
    assert len(permute(np.arange(0), 0, 0)) == 0


def test_seed_purpose_name_and_epoch_each_give_another_order() -> None:
    keys = [
        (0, "order", "a", 0),
        (1, "order", "a", 0),
        (0, "subset", "a", 0),
        (0, "order", "b", 0),
        (0, "order", "a", 1),
    ]
    orders = [permute(np.arange(1000), 1000, *key) for key in keys]
    for one, other in itertools.combinations(orders, 2):
        assert np.mean(one == other) < 0.02  # 1 in 1000 agree by chance


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_all_orders_of_a_few_rows_are_about_equally_likely(size: int) -> None:
    draws = 1500
    seen: dict[tuple[int, ...], int] = {}
    for seed in range(draws):
        order = tuple(permute(np.arange(size), size, seed).tolist())
        seen[order] = seen.get(order, 0) + 1
    all_orders = list(itertools.permutations(range(size)))
    expected = draws / len(all_orders)
    chi_squared = sum((seen.get(order, 0) - expected) ** 2 / expected for order in all_orders)
    degrees = len(all_orders) - 1
    assert chi_squared < degrees + 5 * (2 * degrees) ** 0.5


def test_neighbours_do_not_stay_neighbours() -> None:
    size = 100_003
    order = permute(np.arange(size), size, 0, "order")
    steps = np.abs(np.diff(order))
    assert steps.mean() == pytest.approx(size / 3, rel=0.02)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(np.arange(size), order)[0, 1]) < 0.02
    assert np.bincount(order[:20_000] * 10 // size).min() > 1800  # the first fifth is from everywhere


def test_uniform_numbers_are_uniform_and_each_its_own_function_of_the_position() -> None:
    numbers = uniform(np.arange(40_000), 3, "stream")
    assert np.histogram(numbers, bins=10, range=(0, 1))[0].min() > 3700
    assert numbers.min() >= 0
    assert numbers.max() < 1
    np.testing.assert_array_equal(uniform(np.array([77]), 3, "stream"), numbers[77:78])


def test_the_numbers_are_splitmix64s() -> None:
    """The order must not change with a library or a machine: known outputs of SplitMix64 with seed 1234567."""
    gamma = np.uint64(0x9E3779B97F4A7C15)
    states = np.uint64(1234567) + (np.arange(3, dtype=np.uint64) + np.uint64(1)) * gamma
    assert mixed(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert keys_of(0, "order").tolist() == keys_of(0, "order").tolist() != keys_of(0, "orders").tolist()
    expected = mixed(keys_of(5, "x")[0] + np.array([3], dtype=np.uint64) * gamma)
    np.testing.assert_array_equal(random_bits(np.array([2]), 5, "x"), expected)


def test_a_known_order_stays_as_it_is() -> None:
    """If this fails, resumed runs would see other rows: raise training_data.PLAN_VERSION."""
    assert permute(np.arange(10), 10, 0, "order", "a", 0).tolist() == KNOWN_ORDER


KNOWN_ORDER = [8, 3, 0, 1, 2, 9, 7, 6, 5, 4]
