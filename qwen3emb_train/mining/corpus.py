"""The documents that mining knows: each text once, found again by its identity."""

from collections.abc import Iterable
from pathlib import Path

from qwen3emb_train.data.rows import decode_row, json_rows
from qwen3emb_train.data.validation import InvalidExampleError


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


def read_corpus(path: Path) -> list[str]:
    """Texts of a JSON Lines corpus: title, line break, text; the text alone where there is no title. Empty ones go.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that is no object with a string ``text``; names file, line and field.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. corpus=... is a JSONL file with a text on every line.")
    texts = []
    for line, raw in json_rows(path):
        try:
            row = decode_row(raw)
        except InvalidExampleError as problem:
            raise ValueError(f"{path}:{line}: {problem}") from problem
        title, text = row.get("title") or "", row.get("text")
        if not isinstance(text, str) or not isinstance(title, str):
            name, value = ("text", text) if not isinstance(text, str) else ("title", title)
            raise ValueError(f"{path}:{line}: {name} is {value!r}; it must be a string. Mend or remove the line.")
        if document := (f"{title}\n{text}" if title else text).strip():
            texts.append(document)
    if not texts:
        raise ValueError(f"{path}: holds no documents.")
    return texts
