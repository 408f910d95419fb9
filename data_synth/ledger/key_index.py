"""A map from 128-bit keys to 64-bit numbers in 24 bytes an entry, for millions of finished items."""

import numpy as np

_RECENT = 8_192  # entries kept in a dict before they are sorted into an array


class KeyIndex:
    """Sorted arrays of geometrically growing size (a log-structured merge) under a small dict; the last value counts.

    Looking up costs a binary search per array, adding an amortised share of merging. Reading in one thread while
    another adds is safe: what is merged is found in the old place until it is in the new one.
    """

    def __init__(self) -> None:
        self._recent: dict[bytes, int] = {}
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []

    def set(self, key: bytes, value: int) -> None:
        """Adds or replaces. ``key`` has 16 bytes, ``value`` is not negative."""
        self._recent[key] = value
        if len(self._recent) >= _RECENT:
            self._settle()

    def get(self, key: bytes) -> int | None:
        value = self._recent.get(key)
        if value is not None:
            return value
        for keys, values in reversed(self._runs):
            place = int(np.searchsorted(keys, np.bytes_(key)))
            if place < len(keys) and keys[place] == key.rstrip(b"\0"):  # numpy drops closing zero bytes
                return int(values[place])
        return None

    @property
    def num_bytes(self) -> int:
        """Memory of the settled entries."""
        return sum(keys.nbytes + values.nbytes for keys, values in self._runs)

    def _settle(self) -> None:
        keys = np.array(list(self._recent), dtype="S16")
        values = np.fromiter(self._recent.values(), dtype=np.uint64, count=len(self._recent))
        order = np.argsort(keys)
        runs = [*self._runs, (keys[order], values[order])]
        while len(runs) > 1 and len(runs[-2][0]) <= 2 * len(runs[-1][0]):
            newer, older = runs.pop(), runs.pop()
            runs.append(_merge(older, newer))
        self._runs = runs
        self._recent = {}


def _merge(older: tuple[np.ndarray, np.ndarray], newer: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    keys, values = np.concatenate([older[0], newer[0]]), np.concatenate([older[1], newer[1]])
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], values[order]
    is_last = np.append(keys[1:] != keys[:-1], True)  # of equal keys the newer one stands last
    return keys[is_last], values[is_last]
