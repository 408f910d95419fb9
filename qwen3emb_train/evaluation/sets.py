"""Loads the directory of a set as its task."""

from collections.abc import Callable
from pathlib import Path

from qwen3emb_train.data.retrieval_set import RetrievalSet, load_retrieval_set
from qwen3emb_train.evaluation.config import SetConfig, TaskKind
from qwen3emb_train.evaluation.tasks.bitext import read_bitext
from qwen3emb_train.evaluation.tasks.classification import read_classification
from qwen3emb_train.evaluation.tasks.clustering import read_clustering
from qwen3emb_train.evaluation.tasks.pair_classification import read_pair_classification
from qwen3emb_train.evaluation.tasks.sts import read_sts
from qwen3emb_train.evaluation.tasks.task import SymmetricTask

_READERS: dict[TaskKind, Callable[[Path, str], SymmetricTask]] = {
    TaskKind.sts: read_sts,
    TaskKind.pair_classification: read_pair_classification,
    TaskKind.classification: read_classification,
    TaskKind.clustering: read_clustering,
    TaskKind.bitext: read_bitext,
}


def load_set(chosen: SetConfig) -> RetrievalSet | SymmetricTask:
    """Reads a set.

    Raises:
        FileNotFoundError, ValueError: a file is missing or malformed; names file, line and field.
        ImportError: a package that the task needs is missing.
    """
    if chosen.task is TaskKind.retrieval:
        return load_retrieval_set(Path(chosen.path), chosen.split)
    return _READERS[chosen.task](Path(chosen.path), chosen.split)
