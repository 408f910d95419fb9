"""Clustering: do k-means clusters of the vectors agree with the labels?

    {split}.jsonl     text, label (a text or a whole number)

Main metric: ``v_measure``, mteb's protocol: ten times 16,384 texts drawn with replacement, mini-batch k-means with as
many clusters as labels. The units of its interval are those ten experiments: it tells of the draw, not of other texts.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.evaluation.bootstrap import Mean
from qwen3emb_train.evaluation.tasks.labelled import LabelledTexts, read_labelled
from qwen3emb_train.evaluation.tasks.task import TaskScores

_SEED, _EXPERIMENTS, _TEXTS, _BATCH = 42, 10, 16_384, 512  # mteb's


@dataclass(frozen=True, eq=False)
class ClusteringTask:
    """Texts and the clusters they belong to.

    Attributes:
        texts_per_experiment: how many are drawn.
    """

    labelled: LabelledTexts
    texts_per_experiment: int
    instruction: str = "Identify categories in user passages."

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.labelled.path,)

    @property
    def texts(self) -> Sequence[str]:
        return self.labelled.texts

    @property
    def size(self) -> int:
        return len(self.labelled.lines)

    def score(self, vectors: Float[Tensor, "texts dim"]) -> TaskScores:
        from sklearn.cluster import MiniBatchKMeans
        from sklearn.metrics import adjusted_mutual_info_score, v_measure_score

        all_vectors, labels = vectors.numpy(), np.array(self.labelled.labels)
        clusters: Any = MiniBatchKMeans(
            n_clusters=len(set(self.labelled.labels)), batch_size=_BATCH, init="k-means++", n_init=1, random_state=_SEED
        )
        randomness = random.Random(_SEED)
        v_measures, mutual = [], []
        for _ in range(_EXPERIMENTS):
            drawn = randomness.choices(range(len(labels)), k=self.texts_per_experiment)
            found = clusters.fit_predict(all_vectors[drawn])
            v_measures.append(float(v_measure_score(labels[drawn], found)))
            mutual.append(float(adjusted_mutual_info_score(labels[drawn], found)))
        ids = [f"experiment {number}" for number in range(1, _EXPERIMENTS + 1)]
        scores = {"v_measure": float(np.mean(v_measures)), "ami": float(np.mean(mutual))}
        return TaskScores(scores, "v_measure", ids, Mean(np.array(v_measures)))


def read_clustering(path: Path, split: str) -> ClusteringTask:
    """Reads the texts of a split.

    Raises:
        FileNotFoundError, ValueError: the file is missing or malformed, or has only one label.
    """
    labelled = read_labelled(path, split)
    if len(set(labelled.labels)) == 1:
        raise ValueError(f"{labelled.path}: every label is {labelled.labels[0]!r}; there must be at least two.")
    return ClusteringTask(labelled, _TEXTS)
