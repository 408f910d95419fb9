"""Which item gets which type, length, language: by a hash of its passage, not by its place in the input.

A plan is part of what is asked, so a plan that depended on the place would make each reply behind a new document be
bought again. Each draw is a point in [0, 1) that a digest of the passage gives, and a mix maps points to names in
proportion to their weights: of n items a share p gets n * p names, give or take sqrt(n * p * (1 - p)).
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from itertools import accumulate

from data_synth.languages import primary_language


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


def pick(seed: int, *parts: object) -> int:
    """A 64-bit hash of the arguments, the same in every process."""
    text = "/".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def point(seed: int, *parts: object) -> float:
    """A number in [0, 1) by a hash of the arguments."""
    return (pick(seed, *parts) >> 11) / (1 << 53)


class Mix:
    """Names in proportion to their weights.

    Args:
        weights: name -> weight; those of weight 0 never occur.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.names = [name for name, weight in weights.items() if weight > 0]
        bounds = list(accumulate(weights[name] for name in self.names))
        self._bounds = [bound / bounds[-1] for bound in bounds[:-1]]  # the upper ends, except the last one's, 1

    def at(self, place: float) -> str:
        """The name at a place in [0, 1)."""
        return self.names[bisect_right(self._bounds, place)]

    def share(self, name: str) -> float:
        """The part of [0, 1) that belongs to a name; 0 if it has none."""
        if name not in self.names:
            return 0.0
        number, ends = self.names.index(name), [0.0, *self._bounds, 1.0]
        return ends[number + 1] - ends[number]


class OtherLanguages:
    """Target languages for cross-lingual items, by their weights.

    A passage never gets its own language; the weights of the others are renormalised.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = dict(weights)
        self._mixes: dict[str, Mix] = {}

    def at(self, language: str, place: float) -> str:
        """The target language for a passage.

        Args:
            language: of the passage.
            place: in [0, 1).
        """
        own = primary_language(language)
        if own not in self._mixes:
            others = {name: weight for name, weight in self._weights.items() if primary_language(name) != own}
            # The mix may consist of the passage's language only: then the item is monolingual.
            self._mixes[own] = Mix(others if any(others.values()) else self._weights)
        return self._mixes[own].at(place)
