"""The documents of mining: each text once, looked up by its normalized form."""

import hashlib
from collections.abc import Iterable


def normalized_text(text: str) -> str:
    """Equal for texts that differ only in case and white space: if one is relevant, the other is no negative."""
    return " ".join(text.split()).casefold()


class DocumentPool:
    """Documents in order of insertion; of those with the same normalized form, the first.

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
        """Rows of texts that were added, up to normalization."""
        return [self._row_of[_key(text)] for text in texts]


def _key(text: str) -> bytes:
    """Instead of the normalized text, which would keep every text in memory twice."""
    return hashlib.blake2b(normalized_text(text).encode(), digest_size=16).digest()
