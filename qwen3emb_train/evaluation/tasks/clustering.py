"""Clustering: do k-means clusters of the vectors agree with the labels?

    {split}.jsonl     text, label (a text or a whole number)

Main metric: ``v_measure`` by mteb's ``AbsTaskClustering``: ten times, 16,384 texts are drawn with replacement and
clustered by mini-batch k-means into as many clusters as there are labels. The values per query are those of the ten
experiments, so the interval covers the draw and not the choice of texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.evaluation.bootstrap import Mean
from qwen3emb_train.evaluation.tasks.labelled import LabelledTexts, read_labelled
from qwen3emb_train.evaluation.tasks.task import TaskScores

_TEXTS = 16_384  # mteb's default


@dataclass(frozen=True, eq=False)
class ClusteringTask:
    """Texts and the clusters they belong to.

    Attributes:
        labelled: the texts; a label is a cluster.
        texts_per_experiment: texts drawn for each clustering.
        instruction: mteb's for this kind of task.
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
        """V-measure and adjusted mutual information, means over the experiments.

        mteb seeds the global generators of Python, NumPy and torch with 42.
        """
        found = self._mteb_task().evaluate(_KnownVectors(vectors), "test", encode_kwargs={})["default"]
        v_measures = np.array(found["v_measures"]["Level 0"])
        ids = [f"experiment {number}" for number in range(1, len(v_measures) + 1)]
        scores = {"v_measure": float(found["v_measure"]), "ami": float(found["ami"])}
        return TaskScores(scores, "v_measure", ids, Mean(v_measures))

    def _mteb_task(self) -> Any:
        from datasets import Dataset, DatasetDict
        from mteb.abstasks.clustering import AbsTaskClustering
        from mteb.abstasks.task_metadata import TaskMetadata

        metadata = TaskMetadata(
            name="LocalClustering", description="a local set", dataset={"path": "local", "revision": "1"},
            type="Clustering", category="t2c", eval_splits=["test"], eval_langs=["und-Zyyy"], main_score="v_measure",
        )  # fmt: skip
        attributes = {
            "metadata": metadata,
            "max_fraction_of_documents_to_embed": None,  # all of them
            "max_documents_per_cluster": self.texts_per_experiment,
        }
        task: Any = type("LocalClustering", (AbsTaskClustering,), attributes)()
        codes = np.unique(self.labelled.labels, return_inverse=True)[1]
        task.dataset = DatasetDict({"test": Dataset.from_dict({"sentences": self.texts, "labels": codes})})
        task.data_loaded = True
        return task


class _KnownVectors:
    """mteb's ``EncoderProtocol`` over vectors that stand in the order of the data set."""

    mteb_model_meta = None

    def __init__(self, vectors: Float[Tensor, "texts dim"]) -> None:
        self._vectors = vectors.numpy()

    def encode(self, inputs: Any, **_: Any) -> Float[np.ndarray, "texts dim"]:
        return self._vectors

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        raise NotImplementedError("clustering compares no pairs")

    similarity_pairwise = similarity


def read_clustering(path: Path, split: str) -> ClusteringTask:
    """Reads the texts of a split.

    Raises:
        FileNotFoundError, ValueError: the file is missing or malformed, or has only one label.
        ImportError: scikit-learn or mteb is missing.
    """
    if find_spec("mteb") is None:
        raise ImportError("clustering needs mteb: pip install 'qwen3emb-train[eval]'.")
    labelled = read_labelled(path, split)
    if len(set(labelled.labels)) == 1:
        raise ValueError(f"{labelled.path}: every label is {labelled.labels[0]!r}; there must be at least two.")
    return ClusteringTask(labelled, _TEXTS)
