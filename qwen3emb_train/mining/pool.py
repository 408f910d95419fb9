"""The documents that mining knows: each text once, found again by its identity."""

from collections.abc import Iterable


def identity(text: str) -> str:
    """Equal for texts that differ only in case and white space: where one is relevant, the other is no negative."""
    return " ".join(text.split()).casefold()


class DocumentPool:
    """Documents in the order they came; of those with one identity, the first.

    Attributes:
        texts: the documents; their index is their row.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._row_of: dict[str, int] = {}

    def add(self, texts: Iterable[str]) -> None:
        for text in texts:
            if self._row_of.setdefault(identity(text), len(self.texts)) == len(self.texts):
                self.texts.append(text)

    def rows(self, texts: Iterable[str]) -> list[int]:
        """Rows of texts that were added, themselves or an identical one."""
        return [self._row_of[identity(text)] for text in texts]
