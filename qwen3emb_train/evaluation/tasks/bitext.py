"""Bitext mining: is a sentence's translation its nearest neighbour in the other language?

    {split}.tsv or {split}.jsonl     sentence1, sentence2; each line a sentence and its translation

Main metric: mteb's ``f1``: each line is a class of its own, and F1 is averaged over classes. A translation that is also
the nearest of other sentences counts less. Its values per line are those F1s, of which mteb returns the mean only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.evaluation.bootstrap import Mean
from qwen3emb_train.evaluation.tasks.pairs import TextPairs, read_pairs
from qwen3emb_train.evaluation.tasks.task import TaskScores
from qwen3emb_train.index.nearest import top_k_documents
from qwen3emb_train.models.text_model import truncate_and_normalize


@dataclass(frozen=True, eq=False)
class BitextTask:
    """Sentences and their translations.

    Attributes:
        pairs: a sentence and its translation in each row.
        instruction: mteb's for this kind of task.
    """

    pairs: TextPairs
    instruction: str = "Retrieve parallel sentences."

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.pairs.path,)

    @property
    def texts(self) -> Sequence[str]:
        return self.pairs.texts

    @property
    def size(self) -> int:
        return len(self.pairs.lines)

    def score(self, vectors: Float[Tensor, "texts dim"]) -> TaskScores:
        """F1, accuracy and precision, 0 .. 1."""
        first, second = truncate_and_normalize(vectors).chunk(2)
        nearest = top_k_documents(first, second, 1)[1][:, 0].numpy()
        is_found = (nearest == np.arange(len(nearest))).astype(np.float64)
        # Class i has one sentence; ``predicted`` counts the sentences whose nearest neighbour is translation i.
        predicted = np.bincount(nearest, minlength=len(nearest))
        f1 = 2.0 * is_found / (1.0 + predicted)
        precision = is_found / np.maximum(predicted, 1)
        scores = {"f1": float(f1.mean()), "accuracy": float(is_found.mean()), "precision": float(precision.mean())}
        return TaskScores(scores, "f1", self.pairs.ids, Mean(f1))


def read_bitext(path: Path, split: str) -> BitextTask:
    """Reads the pairs of a split.

    Raises:
        FileNotFoundError, ValueError: the file is missing or malformed.
    """
    return BitextTask(read_pairs(path, split))
