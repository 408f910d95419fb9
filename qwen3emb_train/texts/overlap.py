"""Whether two texts are the same, share a long run of words, or are nearly the same.

For decontamination and deduplication of existing (``curation.cleaning``) and synthetic data (``data_synth``). MinHash
finds candidates, and the Jaccard similarity of the character 4-grams decides, so a match does not depend on the
hashes. datasketch is imported when the first MinHash is computed.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from enum import Enum
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt64

from qwen3emb_train.texts.words import hash64, ngrams, words

_SHINGLE = 4  # characters
SKETCH = 1024  # smallest shingles that a long text is compared by
_PERMUTATIONS = 64
_MIN_WORDS = 3  # a label such as "sports" may be a test query too
_INSTALL = "Near-duplicates are found with datasketch: pip install 'qwen3emb-train[mine]'."


def normal_form(text: str) -> str:
    """Equal for texts that differ only in case and white space."""
    return " ".join(text.split()).casefold()


class ComparedText:
    """A text, and the features it is compared by; each is computed on first use."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def words(self) -> list[str]:
        return words(self.text)

    @cached_property
    def shingles(self) -> UInt64[np.ndarray, " shingles"]:
        return _shingles(" ".join(self.words))

    @cached_property
    def minhash(self) -> Any:
        return _minhash(self.shingles)


def text_shingles(text: str) -> UInt64[np.ndarray, " shingles"]:
    """Sorted hashes of the character 4-grams of the text's words (of the whole, where it is shorter)."""
    return ComparedText(text).shingles


def _shingles(normal: str) -> UInt64[np.ndarray, " shingles"]:
    points = np.frombuffer(normal.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    if not points.size:
        return points
    points = np.pad(points, (0, max(0, _SHINGLE - points.size)))
    windows = np.lib.stride_tricks.sliding_window_view(points, _SHINGLE)
    hashes = np.zeros(len(windows), dtype=np.uint64)
    for column in range(_SHINGLE):  # splitmix64's finalizer after each character
        hashes += windows[:, column] + np.uint64(0x9E3779B97F4A7C15)
        hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        hashes ^= hashes >> np.uint64(31)
    return np.unique(hashes)


def similarity(a: UInt64[np.ndarray, " a"], b: UInt64[np.ndarray, " b"]) -> float:
    """Jaccard similarity of two texts by their shingles.

    Exact up to 1024 shingles in both together (about a page); beyond, of the smallest 1024 hashes of their union, which
    are a random sample of it: the standard error is below 0.016.

    Args:
        a, b: sorted; of each at least the smallest 1024.
    """
    if not a.size or not b.size:
        return 0.0
    is_shared = a[np.minimum(np.searchsorted(a, b), a.size - 1)] == b  # several times faster than numpy's set routines
    if a.size + b.size <= SKETCH:
        shared = int(is_shared.sum())
        return shared / (a.size + b.size - shared)
    union = np.union1d(a, b)[:SKETCH]
    return int(np.searchsorted(b[is_shared], union[-1], side="right")) / union.size


def _minhash(shingles: UInt64[np.ndarray, " shingles"]) -> Any:
    minhash = _empty_minhash().copy()  # drawing the permutations again would take most of the time
    minhash.update_batch((shingles & np.uint64(0xFFFFFFFF)).tolist())
    return minhash


@cache
def _empty_minhash() -> Any:
    try:
        from datasketch import MinHash
    except ImportError:
        raise ImportError(_INSTALL) from None
    return MinHash(num_perm=_PERMUTATIONS, hashfunc=int)  # they are hashes already


@cache
def band_shape(threshold: float) -> tuple[int, int]:
    """Number of bands, and MinHash values in a band, by which candidates for a threshold are found.

    Raises:
        ImportError: datasketch is not installed.
    """
    index = NearDuplicateIndex(threshold)
    return index.shape


class NearDuplicateIndex:
    """Texts by number (0, 1, ...), retrieved by similarity. At most about 10 kB per text;
    ``near_duplicates.py`` finds the same matches on disk.

    Args:
        threshold: Jaccard similarity of character 4-grams.

    Raises:
        ImportError: datasketch is not installed.
    """

    def __init__(self, threshold: float) -> None:
        try:
            from datasketch import MinHashLSH
        except ImportError:
            raise ImportError(_INSTALL) from None
        self.threshold = threshold
        # A lower threshold for candidates: MinHash misses pairs near its own threshold, and the exact test follows.
        self._lsh = MinHashLSH(threshold=max(0.2, threshold - 0.3), num_perm=_PERMUTATIONS)
        self._shingles: list[UInt64[np.ndarray, " shingles"]] = []

    @property
    def shape(self) -> tuple[int, int]:
        """Number of bands, and values in a band."""
        return self._lsh.b, self._lsh.r

    def __len__(self) -> int:
        return len(self._shingles)

    def add(self, text: ComparedText) -> int:
        """Adds a text, and returns its number. One without words matches nothing."""
        if text.shingles.size:
            self._lsh.insert(len(self._shingles), text.minhash, check_duplication=False)
        self._shingles.append(text.shingles[:SKETCH].copy())
        return len(self._shingles) - 1

    def near(self, text: ComparedText) -> list[tuple[int, float]]:
        """Number and similarity of the texts at or above the threshold: the most similar first, then the earliest."""
        if not text.shingles.size:
            return []
        candidates = ((number, similarity(text.shingles, self._shingles[number])) for number in self._candidates(text))
        return sorted((pair for pair in candidates if pair[1] >= self.threshold), key=lambda pair: (-pair[1], pair[0]))

    def _candidates(self, text: ComparedText) -> list[int]:
        numbers: list[int] = self._lsh.query(text.minhash)
        return numbers


class OverlapRule(str, Enum):
    """How texts match.

    ``equal``: up to case and white space. ``same_words``: also up to punctuation and width. ``ngram``: a run of 13
    words (GPT-3's rule, arXiv 2005.14165, appendix C; runs that many held-out texts share are boilerplate and do not
    count). ``near_duplicate``: of a short held-out text; long ones share runs.
    """

    equal = "equal"
    same_words = "same_words"
    ngram = "ngram"
    near_duplicate = "near_duplicate"


class Match(NamedTuple):
    """What a text shares with a held-out one.

    Attributes:
        rule: that matched.
        shared: the run of words, or the similar held-out text; "" where the texts are the same.
        similarity: 1 except for near-duplicates.
    """

    rule: OverlapRule
    shared: str = ""
    similarity: float = 1.0


class HeldOutTexts:
    """Texts that must not occur, such as an evaluation set's; takes 8 bytes per run, and the short texts.

    Args:
        texts: the held-out texts.
        ngram: length of a run, in words.
        max_texts_with_run: a run in more texts than this is boilerplate.
        min_run_share: share of a text's runs that must be held-out ones; 0: one is enough.
        threshold: Jaccard similarity of character 4-grams from which a text is a near-duplicate.
        rules: those to apply, in the order of ``OverlapRule``.
    """

    def __init__(
        self,
        texts: Iterable[str],
        *,
        ngram: int = 13,
        max_texts_with_run: int = 10,
        min_run_share: float = 0.0,
        threshold: float = 0.7,
        rules: Collection[OverlapRule] = tuple(OverlapRule),
    ) -> None:
        self._ngram, self._min_run_share, self._rules = ngram, min_run_share, frozenset(rules)
        self._near = NearDuplicateIndex(threshold) if OverlapRule.near_duplicate in self._rules else None
        self._short_texts: list[str] = []
        equal: set[int] = set()
        same_words: set[int] = set()
        runs: Counter[int] = Counter()
        for text in texts:
            equal.add(hash64(normal_form(text)))
            compared = ComparedText(text)
            whole = hash64(" ".join(compared.words))
            if not compared.words or whole in same_words:
                continue
            same_words.add(whole)
            if len(compared.words) < 2 * ngram and self._near is not None:
                self._near.add(compared)
                self._short_texts.append(text)
            runs.update({hash64(run) for run in ngrams(compared.words, ngram)})
        self.num_texts = len(equal)
        self._equal, self._same_words = _sorted(equal), _sorted(same_words)
        self._runs = _sorted({run for run, count in runs.items() if count <= max_texts_with_run})

    def find(self, text: ComparedText, *, is_query: bool = False) -> Match | None:
        """The match of the first rule that applies; None where there is none.

        Args:
            text: to look for.
            is_query: other texts of less than 3 words are not checked: a label may be a test query by chance.
        """
        if len(text.words) < _MIN_WORDS and not is_query:
            return None
        if OverlapRule.equal in self._rules and _places([normal_form(text.text)], self._equal):
            return Match(OverlapRule.equal)
        if not text.words:
            return None
        if OverlapRule.same_words in self._rules and _places([" ".join(text.words)], self._same_words):
            return Match(OverlapRule.same_words)
        if OverlapRule.ngram in self._rules:
            runs = list(ngrams(text.words, self._ngram))
            found = _places(runs, self._runs)
            if found and len(found) >= self._min_run_share * len(runs):
                return Match(OverlapRule.ngram, runs[found[0]])
        if self._near is not None and len(text.words) < 4 * self._ngram and (near := self._near.near(text)):
            number, how_near = near[0]
            return Match(OverlapRule.near_duplicate, self._short_texts[number], how_near)
        return None


def _sorted(hashes: set[int]) -> UInt64[np.ndarray, " hashes"]:
    return np.sort(np.fromiter(hashes, dtype=np.uint64, count=len(hashes)))


def _places(texts: list[str], known: UInt64[np.ndarray, " hashes"]) -> list[int]:
    """Which of the texts have a known hash."""
    if not texts or not known.size:
        return []
    wanted = np.array([hash64(text) for text in texts], dtype=np.uint64)
    nearest = np.minimum(np.searchsorted(known, wanted), known.size - 1)
    places: list[int] = (known[nearest] == wanted).nonzero()[0].tolist()
    return places
