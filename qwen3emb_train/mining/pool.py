"""The documents that mining knows: each text once, found again by its normalized form."""

import hashlib
from collections.abc import Iterable


def normalized_text(text: str) -> str:
    """Equal for texts that differ only in case and white space: where one is relevant, the other is no negative."""
    return " ".join(text.split()).casefold()


class DocumentPool:
    """Documents in the order they came; of those with one normalized form, the first.

    Attributes:
        ids, texts: of the documents; their index is their row.
    """

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.texts: list[str] = []
        self._row_of: dict[bytes, int] = {}

    def add(self, documents: Iterable[tuple[str, str]]) -> None:
        """Adds ``(id, text)`` pairs."""
        for document_id, text in documents:
            if self._row_of.setdefault(_key(text), len(self.texts)) == len(self.texts):
                self.ids.append(document_id)
                self.texts.append(text)

    def rows(self, texts: Iterable[str]) -> list[int]:
        """Rows of texts that were added, themselves or an identical one."""
        return [self._row_of[_key(text)] for text in texts]


def _key(text: str) -> bytes:
    """In place of the normalized text, which would hold every text in memory twice."""
    return hashlib.blake2b(normalized_text(text).encode(), digest_size=16).digest()
