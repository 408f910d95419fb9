"""A plan hangs on its passage only, and a run has the configured mix."""

from collections import Counter

import pytest

from data_synth.plans import Mix, OtherLanguages, check_weights, point

PLACES = [point(0, "mix", number) for number in range(4000)]


def test_names_come_in_proportion_to_their_weights() -> None:
    """Within five standard deviations."""
    counts = Counter(Mix({"a": 0.1, "b": 2.0, "none": 0.0, "c": 7.9}).at(place) for place in PLACES)
    assert counts.keys() == {"a", "b", "c"}
    for name, share in {"a": 0.01, "b": 0.2, "c": 0.79}.items():
        assert abs(counts[name] - 4000 * share) < 5 * (4000 * share * (1 - share)) ** 0.5


@pytest.mark.parametrize("weights", [{"a": 1.0}, {"a": 0.1, "b": 0.2, "c": 0.7}, {"a": 1e-9, "b": 1e9}])
def test_every_place_has_a_name_and_the_parts_fill_the_whole(weights: dict[str, float]) -> None:
    mix = Mix(weights)
    assert mix.at(0.0) == mix.names[0]
    assert mix.at(1 - 2**-53) == mix.names[-1]
    assert sum(mix.share(name) for name in mix.names) == pytest.approx(1)
    assert mix.share("unknown") == 0


def test_two_mixes_of_a_plan_are_not_correlated() -> None:
    """Two halves each: all four pairs occur, each in about a quarter of 4,000 items (five standard deviations)."""
    half = Mix({"a": 0.5, "b": 0.5})
    pairs = Counter((half.at(point(3, "one", number)), half.at(point(3, "other", number))) for number in range(4000))
    assert len(pairs) == 4
    assert all(abs(count - 1000) < 140 for count in pairs.values())


def test_the_seed_changes_the_places() -> None:
    assert point(0, "mix", "passage", 0) != point(1, "mix", "passage", 0)
    assert point(0, "mix", "passage", 0) != point(0, "mix", "passage", 1)
    assert all(0 <= place < 1 for place in PLACES)


def test_other_languages_leave_out_the_passages_own() -> None:
    others = OtherLanguages({"en": 0.5, "de": 0.25, "zh-hant": 0.25})
    for own, expected in (("en", {"de": 0.5, "zh-hant": 0.5}), ("zh", {"en": 2 / 3, "de": 1 / 3})):
        counts = Counter(others.at(own, place) for place in PLACES)
        assert counts.keys() == expected.keys()
        assert all(abs(counts[name] - 4000 * share) < 160 for name, share in expected.items())
    assert {others.at("", place) for place in PLACES} == {"en", "de", "zh-hant"}
    assert OtherLanguages({"en": 1.0}).at("en", 0.5) == "en", "a mix of one language stays as it is"


@pytest.mark.parametrize("mix", [{}, {"a": 0.0}, {"a": -1.0}, {"a": float("nan")}, {"a": float("inf")}, {"x": 1.0}])
def test_an_invalid_mix_is_refused(mix: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="lengths"):
        check_weights(mix, "lengths", ("a", "b"))
