"""Random order without a random state: everything is computed from a key and a position.

A seeded shuffle of n rows needs n numbers in memory. Here the row at any position is computed on its own, so 150
million rows cost as much as a hundred, and resuming at step s is arithmetic. The numbers do not depend on a library's
generator, which may change between versions.

The permutation is a Feistel network over Z_a x Z_b ("generalised Feistel", J. Black and P. Rogaway, *Ciphers with
Arbitrary Finite Domains*, CT-RSA 2002, sections 3 and 4): x = left + a * right, and each round adds a keyed hash of one
half to the other. A round is invertible, so the network is a bijection of [0, a * b) for any hash. With
a = ceil(sqrt(n)) at most a - 1 values lie outside [0, n); they are encrypted again until they fall inside ("cycle
walking", ibid.), which keeps it a bijection. The hash is the output function of SplitMix64 (G. Steele, D. Lea,
C. Flood, *Fast Splittable Pseudorandom Number Generators*, OOPSLA 2014). It is random, not cryptographically secure.
"""

import hashlib
import json
import math

import numpy as np
from jaxtyping import Float, Int

_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def keys_of(*words: int | str) -> np.ndarray:
    """Eight 64-bit keys derived from their purpose, e.g. ``keys_of(seed, "order", name, epoch)``."""
    return np.frombuffer(hashlib.blake2b(json.dumps(words).encode()).digest(), dtype="<u8")


def mixed(values: np.ndarray) -> np.ndarray:
    """SplitMix64's output function on each uint64: every bit of the input changes half of the output's."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def random_bits(positions: np.ndarray, *words: int | str) -> np.ndarray:
    """A uint64 for each position: SplitMix64's number ``position`` when seeded by ``words``."""
    return mixed(keys_of(*words)[0] + (np.asarray(positions, dtype=np.uint64) + np.uint64(1)) * _GOLDEN_GAMMA)


def uniform(positions: np.ndarray, *words: int | str) -> Float[np.ndarray, " positions"]:
    """A number in [0, 1) for each position."""
    return (random_bits(positions, *words) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(positions: np.ndarray, size: int, *words: int | str) -> Int[np.ndarray, " positions"]:
    """The image of each position under a random permutation of ``range(size)``, chosen by ``words``.

    Raises:
        ValueError: a position is outside ``range(size)``.
    """
    values = np.asarray(positions, dtype=np.uint64)
    if len(values) and int(values.max()) >= size:
        raise ValueError(f"position {int(values.max())} is outside a permutation of {size} rows.")
    width = math.isqrt(size - 1) + 1 if size else 1
    height = -(-size // width)
    keys = keys_of(*words)
    values = _network(values, keys, width, height)
    outside = np.flatnonzero(values >= size)
    while len(outside):
        values[outside] = _network(values[outside], keys, width, height)
        outside = outside[values[outside] >= size]
    return values.astype(np.int64)


def _network(values: np.ndarray, keys: np.ndarray, width: int, height: int) -> np.ndarray:
    a, b = np.uint64(width), np.uint64(height)
    left: np.ndarray = values % a
    right: np.ndarray = values // a
    for number, key in enumerate(keys):
        if number % 2 == 0:
            left = (left + mixed(right ^ key) % a) % a
        else:
            right = (right + mixed(left ^ key) % b) % b
    return left + a * right
