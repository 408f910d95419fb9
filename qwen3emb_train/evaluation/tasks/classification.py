"""Classification: can a linear classifier read a text's class from its vector?

    train.jsonl, {split}.jsonl     text, label (a text or a whole number)

Main metric: mteb's ``accuracy``: logistic regression on 8 training texts of each label, mean of ten experiments. The
value of a test text is the share of the ten that classify it correctly. In addition, on all training texts:
``linear_probe_accuracy`` by the same regression, and ``knn_accuracy`` by majority vote of the 5 nearest neighbours by
cosine (of equal majorities the first label).

The experiments are written out here rather than run by mteb's ``AbsTaskClassification``: on 10,003 training and 3,080
test texts with 77 labels it takes 87 s instead of 2.2 s, because it reads labels from a ``datasets`` column row by row.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from qwen3emb_train.evaluation.bootstrap import Mean
from qwen3emb_train.evaluation.tasks.labelled import LabelledTexts, read_labelled
from qwen3emb_train.evaluation.tasks.task import TaskScores

_SEED, _EXPERIMENTS, _TEXTS_PER_LABEL, _ITERATIONS = 42, 10, 8, 100  # mteb's
_NEIGHBOURS = 5


@dataclass(frozen=True, eq=False)
class ClassificationTask:
    """Labelled texts to train on, and others to classify.

    Attributes:
        train, test: the two splits; every test label occurs in ``train``.
        instruction: mteb's for this kind of task.
    """

    train: LabelledTexts
    test: LabelledTexts
    instruction: str = "Classify user passages."

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.train.path, self.test.path)

    @property
    def texts(self) -> Sequence[str]:
        return [*self.train.texts, *self.test.texts]

    @property
    def size(self) -> int:
        return len(self.test.lines)

    def score(self, vectors: Float[Tensor, "texts dim"]) -> TaskScores:
        """Accuracies and macro F1, 0 .. 1."""
        from sklearn.metrics import f1_score
        from sklearn.neighbors import KNeighborsClassifier

        train, test = np.split(vectors.numpy(), [len(self.train.texts)])
        names = sorted(set(self.train.labels))
        train_labels, test_labels = (
            np.searchsorted(names, labels).astype(np.int64) for labels in (self.train.labels, self.test.labels)
        )
        hits, f1 = [], []
        for chosen in experiments(self.train.labels):
            predicted = _regression(train[chosen], train_labels[chosen], test)
            hits.append((predicted == test_labels).astype(np.float64))
            f1.append(float(f1_score(test_labels, predicted, average="macro")))
        neighbours: Any = KNeighborsClassifier(min(_NEIGHBOURS, len(train)), metric="cosine", algorithm="brute")
        by_neighbours = neighbours.fit(train, train_labels).predict(test)
        share: Float64[np.ndarray, " texts"] = np.mean(hits, axis=0)
        scores = {
            "accuracy": float(share.mean()),
            "f1": float(np.mean(f1)),
            "linear_probe_accuracy": float((_regression(train, train_labels, test) == test_labels).mean()),
            "knn_accuracy": float((by_neighbours == test_labels).mean()),
        }
        return TaskScores(scores, "accuracy", self.test.ids, Mean(share))


def read_classification(path: Path, split: str) -> ClassificationTask:
    """Reads the training texts and those of a split.

    Raises:
        FileNotFoundError, ValueError: a file is missing or malformed, or a test label does not occur in training.
        ImportError: scikit-learn is missing.
    """
    train, test = read_labelled(path, "train"), read_labelled(path, split)
    known = set(train.labels)
    if len(known) == 1:
        raise ValueError(f"{train.path}: every label is {train.labels[0]!r}; there must be at least two.")
    for line, label in zip(test.lines, test.labels, strict=True):
        if label not in known:
            raise line.error("label", f"no text of {train.path.name} has it")
    return ClassificationTask(train, test)


def experiments(labels: Sequence[str]) -> list[Int64[np.ndarray, " chosen"]]:
    """Training rows of each experiment, as in mteb: the first 8 of each label, after one more shuffle each time."""
    rows = list(range(len(labels)))
    chosen = []
    for _ in range(_EXPERIMENTS):
        np.random.RandomState(_SEED).shuffle(rows)  # shuffles the last order, so that experiments differ
        taken: Counter[str] = Counter()
        some = []
        for row in rows:
            if taken[labels[row]] < _TEXTS_PER_LABEL:
                taken[labels[row]] += 1
                some.append(row)
        chosen.append(np.array(some, dtype=np.int64))
    return chosen


def _regression(
    train: Float[np.ndarray, "train dim"], labels: Int64[np.ndarray, " train"], test: Float[np.ndarray, "test dim"]
) -> Int64[np.ndarray, " test"]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    regression: Any = LogisticRegression(max_iter=_ITERATIONS, random_state=_SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # where it stops is part of the protocol
        predicted: Int64[np.ndarray, " test"] = regression.fit(train, labels).predict(test)
    return predicted
