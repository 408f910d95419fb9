"""Exact and near-duplicate rows: the first in file order is kept."""

from collections.abc import Sequence

from qwen3emb_train.curation.cleaning.checks import Drop, compared, shorten
from qwen3emb_train.curation.cleaning.config import Compared
from qwen3emb_train.data.records import TrainingExample
from qwen3emb_train.texts.overlap import NearDuplicateIndex, normal_form
from qwen3emb_train.texts.words import hash64


def document_key(text: str) -> int:
    """A 64-bit hash of a document; the same for texts that differ only in case and white space."""
    return hash64(f"document\0{normal_form(text)}")


class NearDocuments:
    """Which documents count as one: equal ones, and (with a threshold) near-duplicates.

    Args:
        threshold: Jaccard similarity; None: only equal texts.
    """

    def __init__(self, threshold: float | None) -> None:
        self._index = None if threshold is None else NearDuplicateIndex(threshold)
        self._key_of_number: list[int] = []
        self._keys: dict[int, tuple[int, ...]] = {}

    def keys(self, text: str) -> tuple[int, ...]:
        """The document's own key, and those of earlier near-duplicates."""
        own = document_key(text)
        if own not in self._keys:
            near: list[int] = []
            if self._index is not None:
                near = [self._key_of_number[number] for number, _ in self._index.near(compared(text))]
                self._index.add(compared(text))
                self._key_of_number.append(own)
            self._keys[own] = (own, *near)
        return self._keys[own]


class ExactDuplicates:
    """Equal task, query and positives, up to case and white space; negatives are ignored."""

    def __init__(self) -> None:
        self._first: dict[int, str] = {}

    def __call__(self, example: TrainingExample) -> Drop | None:
        first = self._first.get(_row_key(example))
        return None if first is None else Drop("duplicate", f"of {first}: {shorten(example.query)}")

    def remember(self, example: TrainingExample, place: str) -> None:
        self._first[_row_key(example)] = place


def _row_key(example: TrainingExample) -> int:
    positives = sorted(map(normal_form, example.positives))
    return hash64("\0".join([example.task, normal_form(example.query), *positives]))


class NearDuplicates:
    """Queries that are nearly the same and, where pairs are compared, have nearly the same document.

    Args:
        threshold: Jaccard similarity of queries.
        compare: queries, or pairs.
        documents: which documents count as one.
    """

    def __init__(self, threshold: float, compare: Compared, documents: NearDocuments) -> None:
        self._compare, self._documents = compare, documents
        self._index = NearDuplicateIndex(threshold)
        self._rows: list[tuple[str, frozenset[int]]] = []  # position and documents of each query

    def __call__(self, example: TrainingExample) -> Drop | None:
        near = self._index.near(compared(example.query))
        if not near:
            return None
        keys = _keys(self._documents, example.positives) if self._compare is Compared.pair else frozenset()
        for number, similarity in near:
            place, others = self._rows[number]
            if self._compare is Compared.query or keys & others:
                return Drop("near_duplicate", f"query {similarity:.2f} similar to {place}: {shorten(example.query)}")
        return None

    def remember(self, example: TrainingExample, place: str) -> None:
        self._index.add(compared(example.query))
        is_pair = self._compare is Compared.pair
        self._rows.append((place, _keys(self._documents, example.positives) if is_pair else frozenset()))


def _keys(documents: NearDocuments, texts: Sequence[str]) -> frozenset[int]:
    return frozenset(key for text in texts for key in documents.keys(text))
