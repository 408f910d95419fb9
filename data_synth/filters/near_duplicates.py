"""Near-duplicate queries: of those that nearly say the same, the first in input order stays.

MinHash finds the candidates, the true Jaccard similarity of their word shingles decides, so a result does not hang on
hashing luck. Order matters here, so this filter runs once, over the published order (see ``publish``).
"""

from dataclasses import dataclass

import numpy as np

from data_synth.filters.candidates import Candidate, Reason, Verdict, shorten
from data_synth.words import hash64, words

_PERMUTATIONS = 64
_QUERY_DECIDES = ("retrieval", "code")  # elsewhere one sentence may stand in several pairs


@dataclass
class NearDuplicateConfig:
    """Similarity of queries.

    Attributes:
        enabled: off keeps all.
        threshold: Jaccard similarity of shingles (character 4-grams of the normalised text) from which two are one.
    """

    enabled: bool = True
    threshold: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold}: is a similarity. Give a number in (0, 1].")


class Signature:
    """What a text is compared by: hashes of its shingles, and their MinHash."""

    def __init__(self, text: str) -> None:
        from datasketch import MinHash

        self.shingles = text_shingles(text)
        self.minhash = MinHash(num_perm=_PERMUTATIONS, hashfunc=_low_bits)
        self.minhash.update_batch([shingle.tobytes() for shingle in self.shingles])


class NearDuplicateIndex:
    """Texts seen so far, found again by similarity.

    About 1.5 kB a text: for hundreds of millions run it by shard.
    """

    def __init__(self, threshold: float) -> None:
        from datasketch import MinHashLSH

        self.threshold = threshold
        # A lower threshold for candidates: MinHash misses pairs near its own threshold, and the exact test follows.
        self._lsh = MinHashLSH(threshold=max(0.2, threshold - 0.3), num_perm=_PERMUTATIONS)
        self._shingles: list[np.ndarray] = []
        self._texts: list[str] = []

    def nearest(self, signature: Signature) -> tuple[float, str] | None:
        """Similarity and text of the most similar one at or above the threshold; None where there is none."""
        best: tuple[float, str] | None = None
        for number in self._lsh.query(signature.minhash) if signature.shingles.size else ():
            other = self._shingles[number]
            shared = np.intersect1d(signature.shingles, other, assume_unique=True).size
            similarity = shared / (signature.shingles.size + other.size - shared)
            if similarity >= self.threshold and (best is None or (similarity, self._texts[number]) > best):
                best = (similarity, self._texts[number])
        return best

    def add(self, signature: Signature, text: str) -> None:
        if signature.shingles.size:
            self._lsh.insert(len(self._texts), signature.minhash, check_duplication=False)
            self._shingles.append(signature.shingles)
            self._texts.append(shorten(text))


class NearDuplicateFilter:
    """Stateful: each kept query is remembered."""

    def __init__(self, config: NearDuplicateConfig) -> None:
        self._index = NearDuplicateIndex(config.threshold)

    def __call__(self, candidate: Candidate) -> Verdict:
        row = candidate.row
        text = row.query if candidate.item.task in _QUERY_DECIDES else f"{row.query}\n{row.positives[0]}"
        signature = Signature(text)
        found = self._index.nearest(signature)
        if found is not None:
            return Reason("near_duplicate", f"{found[0]:.2f} to {found[1]!r}: {shorten(row.query)}")
        self._index.add(signature, text)
        return True


def text_shingles(text: str) -> np.ndarray:
    """Sorted hashes of the normalised text's character 4-grams (of the whole, where it is shorter)."""
    normal = " ".join(words(text))
    if not normal:
        return np.empty(0, dtype=np.uint64)
    size = 4
    pieces = {normal[start : start + size] for start in range(max(1, len(normal) - size + 1))}
    return np.array(sorted(map(hash64, pieces)), dtype=np.uint64)


def _low_bits(shingle: bytes) -> int:
    return int.from_bytes(shingle[:4], "little")  # already a hash
