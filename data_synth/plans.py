"""Which item gets which type, length, language: counted out, not drawn, so that a run has exactly the mix asked for.

After any number of names dealt, ``Quota`` has given each its share rounded up or down, never further off. It is the
quota method of Balinski and Young ("The quota method of apportionment", American Mathematical Monthly 82, 1975): the
next seat goes to the party with the largest weight / (seats + 1) among those that it would not lift above their share
rounded up. A ``Deck`` deals a block of names at a time and shuffles within the block, so that two mixes of one plan do
not march in step.
"""

import random
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from itertools import islice
from typing import TypeVar

from data_synth.languages import primary_language

BLOCK = 16
"""Passages planned at once. A run is exact at the end of each block and, as the last block is dealt at its true length,
at its own end; lengthening the input changes the plan of the last block only."""

T = TypeVar("T")


def check_weights(weights: Mapping[str, float], key: str, known: Iterable[str] | None = None) -> None:
    """Refuses a mix that cannot be dealt.

    Raises:
        ValueError: names the key and what is wrong.
    """
    if not weights or not any(weight > 0 for weight in weights.values()):
        raise ValueError(f"{key}: give at least one name with a weight above 0.")
    for name, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise ValueError(f"{key}.{name}={weight}: a weight is a number of at least 0.")
        if known is not None and name not in known:
            raise ValueError(f"{key}: unknown name {name!r}. Known are {', '.join(known)}.")


class Quota:
    """Deals names so that after n of them each count is n times its share, rounded up or down."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        # As written: 0.1 is a tenth here, not the nearest binary fraction, whose ten-fold is a little more than one.
        shares = {name: Fraction(str(weight)) for name, weight in weights.items() if weight > 0}
        total = sum(shares.values())
        denominator = _common_denominator(share / total for share in shares.values())
        self._weights = {name: int(share / total * denominator) for name, share in shares.items()}
        self._denominator = denominator
        self._dealt = dict.fromkeys(shares, 0)
        self._num_dealt = 0

    def next(self) -> str:
        self._num_dealt += 1
        chosen, best = "", (0, 1)
        for name, weight in self._weights.items():
            dealt = self._dealt[name]
            is_below_quota = dealt * self._denominator < self._num_dealt * weight
            if is_below_quota and weight * best[1] > best[0] * (dealt + 1):
                chosen, best = name, (weight, dealt + 1)
        self._dealt[chosen] += 1
        return chosen


class Deck:
    """Deals blocks of names whose counts follow the weights exactly, in an order that seed, name and block decide."""

    def __init__(self, weights: Mapping[str, float], seed: int, name: str) -> None:
        self._quota = Quota(weights)
        self._label = f"{seed}/{name}"
        self._block = 0

    def deal(self, num: int) -> list[str]:
        names = [self._quota.next() for _ in range(num)]
        random.Random(f"{self._label}/{self._block}").shuffle(names)
        self._block += 1
        return names


class Dealer:
    """Several decks dealt side by side: one mapping mix -> name for each item."""

    def __init__(self, mixes: Mapping[str, Mapping[str, float]], seed: int) -> None:
        self._decks = {mix: Deck(weights, seed, mix) for mix, weights in mixes.items()}

    def deal(self, num: int) -> list[dict[str, str]]:
        columns = {mix: deck.deal(num) for mix, deck in self._decks.items()}
        return [{mix: names[index] for mix, names in columns.items()} for index in range(num)]


def shares(name: str, share: float, otherwise: str) -> dict[str, float]:
    """A mix of two: ``share`` of ``name``, the rest ``otherwise``."""
    return {name: share, otherwise: float(1 - Fraction(str(share)))}


class OtherLanguages:
    """For passages of each language: the other languages, by their weights.

    A language is never dealt to passages of its own, which would make a cross-lingual item one of a single language;
    the rest share what it leaves.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = dict(weights)
        self._quotas: dict[str, Quota] = {}

    def next(self, language: str) -> str:
        own = primary_language(language)
        if own not in self._quotas:
            others = {name: weight for name, weight in self._weights.items() if primary_language(name) != own}
            # All passages may be in the only language of the mix: then no item of theirs crosses.
            self._quotas[own] = Quota(others or self._weights)
        return self._quotas[own].next()


def in_blocks(things: Iterable[T]) -> Iterator[list[T]]:
    """The things, ``BLOCK`` at a time; the last block holds what is left."""
    iterator = iter(things)
    while block := list(islice(iterator, BLOCK)):
        yield block


def _common_denominator(fractions: Iterable[Fraction]) -> int:
    result = 1
    for fraction in fractions:
        result = (Fraction(result) / fraction.denominator).denominator * result
    return result
