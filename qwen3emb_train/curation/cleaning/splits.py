"""Assigning rows to splits: no document, and no query, is in two."""

from array import array
from collections.abc import Iterable
from dataclasses import replace

from qwen3emb_train.curation.cleaning.config import SplitConfig
from qwen3emb_train.curation.cleaning.duplicates import NearDocuments, document_key
from qwen3emb_train.data.records import TrainingExample
from qwen3emb_train.texts.overlap import normal_form
from qwen3emb_train.texts.words import hash64

SPLITS = ("train", "dev", "test")


class Splits:
    """Joins rows into groups; then, when all are known, gives the split of each.

    Rows are joined by their documents (id, text, and near-duplicate text) and queries. About 300 bytes per text.
    """

    def __init__(self, config: SplitConfig, documents: NearDocuments) -> None:
        self._config, self._documents = config, documents
        self._parents: dict[int, int] = {}
        self._rows = array("Q")
        self._negatives: dict[int, int] = {}  # the split of documents that are negatives only

    def add(self, example: TrainingExample, document: str | None) -> None:
        """Adds the next row, with the id of the document it comes from."""
        keys = [key for text in example.positives for key in self._documents.keys(text)]
        keys.append(hash64(f"query\0{normal_form(example.query)}"))
        if document is not None:
            keys.append(hash64(f"id\0{document}"))
        self._join(keys)
        self._rows.append(keys[0])

    def of_row(self, number: int) -> str:
        """The split of a row, counted from 0 in the order they were added."""
        return SPLITS[self._split_of(self._rows[number])]

    def group_sizes(self) -> list[int]:
        """Rows of each group, the largest first."""
        sizes: dict[int, int] = {}
        for key in self._rows:
            root = self._root(key)
            sizes[root] = sizes.get(root, 0) + 1
        return sorted(sizes.values(), reverse=True)

    def note_negatives(self, example: TrainingExample, split: str) -> None:
        """Call it for every row before the first ``without_foreign_negatives``.

        A document that is no row's positive belongs to the first of train, dev, test that has it as a negative.
        """
        for text in example.negatives:
            key, number = document_key(text), SPLITS.index(split)
            self._negatives[key] = min(number, self._negatives.get(key, number))

    def without_foreign_negatives(self, example: TrainingExample, split: str) -> TrainingExample:
        """The row without the negatives that are documents of another split."""
        kept = [index for index, text in enumerate(example.negatives) if self._split_of_document(text) == split]
        if len(kept) == len(example.negatives):
            return example
        scores = example.scores
        if scores is not None:
            num_positives = len(example.positives)
            scores = scores[:num_positives] + tuple(scores[num_positives + index] for index in kept)
        return replace(example, negatives=tuple(example.negatives[index] for index in kept), scores=scores)

    def _split_of_document(self, text: str) -> str:
        key = document_key(text)
        return SPLITS[self._split_of(key) if key in self._parents else self._negatives[key]]

    def _split_of(self, key: int) -> int:
        config = self._config
        place = hash64(f"{config.seed}\0{self._root(key)}") / 2**64
        if place < config.test_share:
            return SPLITS.index("test")
        return SPLITS.index("dev" if place < config.test_share + config.dev_share else "train")

    def _join(self, keys: Iterable[int]) -> None:
        roots = {self._root(key) for key in keys}
        lowest = min(roots)  # so that a group's root does not depend on the order of the rows
        for root in roots:
            self._parents[root] = lowest

    def _root(self, key: int) -> int:
        parent = self._parents.setdefault(key, key)
        while parent != (grandparent := self._parents[parent]):
            self._parents[key] = grandparent
            key, parent = parent, grandparent
        return parent
