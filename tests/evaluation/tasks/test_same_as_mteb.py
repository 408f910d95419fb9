"""Every task's figures are mteb's on the same vectors: its own task classes score random vectors beside ours."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import adjusted_mutual_info_score, v_measure_score

from qwen3emb_train.evaluation.tasks.bitext import read_bitext
from qwen3emb_train.evaluation.tasks.classification import read_classification
from qwen3emb_train.evaluation.tasks.clustering import ClusteringTask, read_clustering
from qwen3emb_train.evaluation.tasks.pair_classification import read_pair_classification
from qwen3emb_train.evaluation.tasks.sts import read_sts
from qwen3emb_train.evaluation.tasks.task import SymmetricTask, TaskScores

pytest.importorskip("mteb")

EXACT = 1e-9
DIM = 24


class _Vectors:
    """A model that knows each text's vector; float64, so that neither side's order hangs on a last bit."""

    mteb_model_meta = None

    def __init__(self, texts: Sequence[str], vectors: torch.Tensor) -> None:
        self.vector_of = dict(zip(texts, vectors.numpy(), strict=True))

    def encode(self, inputs: Any, **_: Any) -> np.ndarray:
        return np.stack([self.vector_of[text] for batch in inputs for text in batch["text"]])

    def similarity(self, first: Any, second: Any) -> torch.Tensor:
        return (
            torch.nn.functional.normalize(torch.as_tensor(first), dim=1)
            @ torch.nn.functional.normalize(torch.as_tensor(second), dim=1).T
        )

    def similarity_pairwise(self, first: Any, second: Any) -> torch.Tensor:
        return torch.nn.functional.cosine_similarity(torch.as_tensor(first), torch.as_tensor(second))


def _mteb_scores(base: str, kind: str, main: str, splits: dict[str, Any], model: _Vectors, **changes: Any) -> Any:
    """What mteb's own class gives for the data set."""
    import importlib

    from datasets import Dataset, DatasetDict
    from mteb.abstasks.task_metadata import TaskMetadata

    module, name = base.rsplit(".", 1)
    metadata = TaskMetadata(
        name="Local", description="local", dataset={"path": "local", "revision": "1"}, type=kind, category="t2t",
        eval_splits=["test"], eval_langs=["und-Zyyy"], main_score=main,
    )  # fmt: skip
    task = type("Local", (getattr(importlib.import_module(module), name),), {"metadata": metadata, **changes})()
    task.dataset = DatasetDict({split: Dataset.from_dict(columns) for split, columns in splits.items()})
    task.data_loaded = True
    return task.evaluate(model, "test", encode_kwargs={"batch_size": 64})["default"]


def _random_vectors(texts: Sequence[str], groups: Sequence[int], noise: float, seed: int = 0) -> torch.Tensor:
    """Texts of a group lie around one centre; a text that occurs twice has one vector."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(max(groups) + 1, DIM, generator=generator, dtype=torch.float64)
    vectors = centres[torch.tensor(list(groups))]
    vectors = vectors + noise * torch.randn(len(texts), DIM, generator=generator, dtype=torch.float64)
    first = {text: row for row, text in reversed(list(enumerate(texts)))}
    return torch.nn.functional.normalize(vectors[torch.tensor([first[text] for text in texts])], dim=1)


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _both(
    task: SymmetricTask, groups: Sequence[int], noise: float, theirs: Callable[[_Vectors], Any]
) -> tuple[TaskScores, Any]:
    vectors = _random_vectors(task.texts, groups, noise)
    return task.score(vectors), theirs(_Vectors(list(dict.fromkeys(task.texts)), _of_unique(task.texts, vectors)))


def _of_unique(texts: Sequence[str], vectors: torch.Tensor) -> torch.Tensor:
    return vectors[torch.tensor([texts.index(text) for text in dict.fromkeys(texts)])]


def test_sts(tmp_path: Path) -> None:
    randomness = np.random.default_rng(0)
    gold = randomness.integers(0, 11, 150) / 2  # many equal scores
    columns = {
        "sentence1": [f"a {row}" for row in range(150)],
        "sentence2": [f"{'a' if row % 30 == 0 else 'b'} {row}" for row in range(150)],  # five pairs of equal texts
        "score": gold.tolist(),
    }
    _write(
        tmp_path / "test.jsonl", [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    )
    task = read_sts(tmp_path, "test")
    ours, theirs = _both(
        task, [0] * 300, 1.5,
        lambda model: _mteb_scores("mteb.abstasks.sts.AbsTaskSTS", "STS", "cosine_spearman", {"test": columns}, model),
    )  # fmt: skip
    assert ours.metric == "cosine_spearman"
    for metric in ("cosine_spearman", "cosine_pearson"):
        assert ours.scores[metric] == pytest.approx(theirs[metric], abs=EXACT)
    assert abs(ours.scores["cosine_spearman"]) > 1e-3


@pytest.mark.parametrize("is_unit", [True, False])
def test_pair_classification(tmp_path: Path, is_unit: bool) -> None:
    """Of vectors that are not unit ones (stored as int8) the four similarities order differently."""
    columns = {
        "sentence1": [f"a {row}" for row in range(120)],
        "sentence2": [f"b {row}" for row in range(120)],
        "labels": [int(row % 3 == 0) for row in range(120)],
    }
    rows = zip(*columns.values(), strict=True)
    names = ("sentence1", "sentence2", "label")
    _write(tmp_path / "test.jsonl", [dict(zip(names, row, strict=True)) for row in rows])
    task = read_pair_classification(tmp_path, "test")
    vectors = _random_vectors(task.texts, [row % 40 for row in range(240)], 1.5)
    if not is_unit:
        vectors = vectors * (1 + torch.arange(240, dtype=torch.float64)[:, None] % 120 / 30)
    ours = task.score(vectors)
    model = _Vectors(list(dict.fromkeys(task.texts)), _of_unique(task.texts, vectors))
    theirs = _mteb_scores(
        "mteb.abstasks.pair_classification.AbsTaskPairClassification", "PairClassification", "max_ap",
        {"test": columns}, model, label_column_name="labels",
    )  # fmt: skip
    assert ours.metric == "max_ap"
    for metric in ("cosine_ap", "dot_ap", "euclidean_ap", "manhattan_ap", "max_ap", "cosine_f1", "cosine_accuracy"):
        assert ours.scores[metric] == pytest.approx(theirs[metric], abs=EXACT)
    assert len({round(ours.scores[f"{name}_ap"], 9) for name in ("cosine", "dot", "euclidean")}) == (
        1 if is_unit else 3
    )


def test_classification(tmp_path: Path) -> None:
    """Labels of unequal size, one with fewer texts than the eight that are drawn."""
    sizes = [30, 12, 5, 20]
    train_labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    test_labels = [row % 4 for row in range(60)]
    splits = {
        "train": {"text": [f"train {row}" for row in range(67)], "label": train_labels},
        "test": {"text": [f"test {row}" for row in range(60)], "label": test_labels},
    }
    for split, columns in splits.items():
        rows = zip(columns["text"], columns["label"], strict=True)
        _write(tmp_path / f"{split}.jsonl", [{"text": text, "label": label} for text, label in rows])
    ours, theirs = _both(
        read_classification(tmp_path, "test"), [*train_labels, *test_labels], 2.0,
        lambda model: _mteb_scores(
            "mteb.abstasks.classification.AbsTaskClassification", "Classification", "accuracy", splits, model
        ),
    )  # fmt: skip
    assert ours.metric == "accuracy"
    assert 0.3 < ours.scores["accuracy"] < 0.95
    for metric in ("accuracy", "f1"):
        assert ours.scores[metric] == pytest.approx(theirs[metric], abs=EXACT)


def test_clustering(tmp_path: Path) -> None:
    """mteb scores it; beside it the protocol written out with scikit-learn."""
    labels = [row % 5 for row in range(200)]
    rows = [{"text": f"text {row}", "label": f"label {label}"} for row, label in enumerate(labels)]
    _write(tmp_path / "test.jsonl", rows)
    task = read_clustering(tmp_path, "test")
    assert task.texts_per_experiment == 16_384
    vectors = _random_vectors(task.texts, labels, 2.5)
    ours = ClusteringTask(task.labelled, texts_per_experiment=700).score(vectors)
    clusters = MiniBatchKMeans(5, batch_size=512, init="k-means++", n_init=1, random_state=42)
    randomness = random.Random(42)
    v_measures, mutual = [], []
    for _ in range(10):
        drawn = randomness.choices(range(200), k=700)
        found = clusters.fit_predict(vectors.numpy()[drawn])
        v_measures.append(v_measure_score(np.array(labels)[drawn], found))
        mutual.append(adjusted_mutual_info_score(np.array(labels)[drawn], found))
    assert ours.metric == "v_measure"
    assert 0.1 < ours.scores["v_measure"] < 0.95
    assert ours.scores == pytest.approx({"v_measure": np.mean(v_measures), "ami": np.mean(mutual)}, abs=EXACT)
    assert ours.statistic.per_query == pytest.approx(v_measures, abs=EXACT)


def test_bitext(tmp_path: Path) -> None:
    columns = {"sentence1": [f"en {row}" for row in range(80)], "sentence2": [f"de {row}" for row in range(80)]}
    lines = ["sentence1\tsentence2", *(f"en {row}\tde {row}" for row in range(80))]
    (tmp_path / "test.tsv").write_text("\n".join(lines), encoding="utf-8")
    ours, theirs = _both(
        read_bitext(tmp_path, "test"), [*range(80), *range(80)], 0.7,
        lambda model: _mteb_scores(
            "mteb.abstasks.text.bitext_mining.AbsTaskBitextMining", "BitextMining", "f1", {"test": columns}, model
        ),
    )  # fmt: skip
    assert ours.metric == "f1"
    assert 0.3 < ours.scores["f1"] < 0.99
    for metric in ("f1", "accuracy", "precision"):
        assert ours.scores[metric] == pytest.approx(theirs[metric], abs=EXACT)
