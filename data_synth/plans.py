"""Which item gets which type, length, language: stratified, so that a run has exactly the configured mix.

After any number of draws, ``Quota`` has given each name its share, rounded up or down. It is the quota method of
Balinski and Young ("The quota method of apportionment", American Mathematical Monthly 82, 1975): the next seat goes to
the party with the largest weight / (seats + 1) among those that it would not lift above their share rounded up.
``StratifiedSampler`` takes a block of names at a time and shuffles within the block, so that two mixes of one plan are
not correlated.
"""

import random
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from itertools import islice
from typing import TypeVar

from data_synth.languages import primary_language

BLOCK = 16
"""Passages planned at once. The counts are exact at the end of each block, and at the end of the run, as the last block
has its true length; a longer input changes the plan of the last block only."""

T = TypeVar("T")


def check_weights(weights: Mapping[str, float], key: str, known: Iterable[str] | None = None) -> None:
    """Checks the weights of a mix.

    Args:
        weights: name -> weight.
        key: of the configuration, for the message.
        known: the allowed names; None allows any.

    Raises:
        ValueError: no weight is above 0, one is negative or not finite, or a name is unknown.
    """
    if not weights or not any(weight > 0 for weight in weights.values()):
        raise ValueError(f"{key}: give at least one name with a weight above 0.")
    for name, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise ValueError(f"{key}.{name}={weight}: a weight is a number of at least 0.")
        if known is not None and name not in known:
            raise ValueError(f"{key}: unknown name {name!r}. Known are {', '.join(known)}.")


class Quota:
    """Draws names so that after n draws each count is n times its share, rounded up or down."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        # The decimal as written: 0.1 is exactly 1/10, not the nearest binary fraction, ten of which exceed 1.
        shares = {name: Fraction(str(weight)) for name, weight in weights.items() if weight > 0}
        total = sum(shares.values())
        denominator = _common_denominator(share / total for share in shares.values())
        self._weights = {name: int(share / total * denominator) for name, share in shares.items()}
        self._denominator = denominator
        self._drawn = dict.fromkeys(shares, 0)
        self._num_drawn = 0

    def next(self) -> str:
        """The next name."""
        self._num_drawn += 1
        chosen, best = "", (0, 1)
        for name, weight in self._weights.items():
            drawn = self._drawn[name]
            is_below_quota = drawn * self._denominator < self._num_drawn * weight
            if is_below_quota and weight * best[1] > best[0] * (drawn + 1):
                chosen, best = name, (weight, drawn + 1)
        self._drawn[chosen] += 1
        return chosen


class StratifiedSampler:
    """Blocks of names whose counts follow the weights exactly, each shuffled.

    Args:
        weights: name -> weight.
        seed, name: with the number of the block, they determine the order within it.
    """

    def __init__(self, weights: Mapping[str, float], seed: int, name: str) -> None:
        self._quota = Quota(weights)
        self._label = f"{seed}/{name}"
        self._block = 0

    def next_block(self, num: int) -> list[str]:
        """The next ``num`` names."""
        names = [self._quota.next() for _ in range(num)]
        random.Random(f"{self._label}/{self._block}").shuffle(names)
        self._block += 1
        return names


class PlanSampler:
    """Samples several mixes independently: one mapping mix -> name for each item."""

    def __init__(self, mixes: Mapping[str, Mapping[str, float]], seed: int) -> None:
        self._samplers = {mix: StratifiedSampler(weights, seed, mix) for mix, weights in mixes.items()}

    def next_block(self, num: int) -> list[dict[str, str]]:
        """The plans of the next ``num`` items."""
        columns = {mix: sampler.next_block(num) for mix, sampler in self._samplers.items()}
        return [{mix: names[index] for mix, names in columns.items()} for index in range(num)]


def shares(name: str, share: float, otherwise: str) -> dict[str, float]:
    """Weights of a mix of two names.

    Args:
        name: gets ``share``.
        share: in [0, 1].
        otherwise: gets the rest.
    """
    return {name: share, otherwise: float(1 - Fraction(str(share)))}


class OtherLanguages:
    """Target languages for cross-lingual items, by their weights.

    A passage never gets its own language; the weights of the others are renormalised.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = dict(weights)
        self._quotas: dict[str, Quota] = {}

    def next(self, language: str) -> str:
        """The next target language for a passage in ``language``."""
        own = primary_language(language)
        if own not in self._quotas:
            others = {name: weight for name, weight in self._weights.items() if primary_language(name) != own}
            # The mix may consist of the passage's language only: then the item is monolingual.
            self._quotas[own] = Quota(others or self._weights)
        return self._quotas[own].next()


def in_blocks(values: Iterable[T]) -> Iterator[list[T]]:
    """The values, ``BLOCK`` at a time; the last block has the remainder."""
    iterator = iter(values)
    while block := list(islice(iterator, BLOCK)):
        yield block


def _common_denominator(fractions: Iterable[Fraction]) -> int:
    result = 1
    for fraction in fractions:
        result = (Fraction(result) / fraction.denominator).denominator * result
    return result
