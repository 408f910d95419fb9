"""Texts with labels: {split}.jsonl with text and label."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from qwen3emb_train.evaluation.tasks.reading import Line, find_file, read_lines


@dataclass(frozen=True)
class LabelledTexts:
    """The texts of a file and their labels.

    Attributes:
        path: of the file.
        lines: as read; one for each text.
        texts, labels: row by row.
    """

    path: Path
    lines: list[Line]
    texts: list[str]
    labels: list[str]

    @property
    def ids(self) -> Sequence[str]:
        """Line numbers."""
        return [str(line.number) for line in self.lines]


def read_labelled(directory: Path, split: str) -> LabelledTexts:
    """Reads the texts of a split.

    Raises:
        FileNotFoundError, ValueError: see ``reading``.
        ImportError: scikit-learn is missing; reported here, before anything is encoded.
    """
    if find_spec("sklearn") is None:
        raise ImportError("classification and clustering need scikit-learn: pip install 'qwen3emb-train[eval]'.")
    path = find_file(directory, split, ".jsonl")
    lines = read_lines(path)
    texts, labels = [line.text("text") for line in lines], [line.label("label") for line in lines]
    return LabelledTexts(path, lines, texts, labels)
