"""A local retrieval set in BEIR layout as an mteb task."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen3emb_train import lineage
from qwen3emb_train.data.instructions import refuse_template
from qwen3emb_train.data.retrieval_set import load_retrieval_set


@dataclass
class LocalSetConfig:
    """A local retrieval set.

    Attributes:
        path: directory in the BEIR layout.
        split: which judgements.
        instruction: before each query; null = the model's own, "" = none.
    """

    path: str = "???"
    split: str = "test"
    instruction: str | None = None

    def __post_init__(self) -> None:
        refuse_template("local_sets.*.instruction", self.instruction)


def build_local_task(name: str, chosen: LocalSetConfig) -> Any:
    """An ``AbsTaskRetrieval`` of the set, named ``name``.

    Its dataset revision is the digest of the files, the split and the instruction, so that mteb does not reuse a stored
    result after one of them has changed. Document text is joined as everywhere here (title, line break, text).

    Raises:
        FileNotFoundError, ValueError: see ``load_retrieval_set``.
    """
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    data = load_retrieval_set(Path(chosen.path), chosen.split)
    # Without paths, so that a copy of a set has the same revision.
    content = [[file.name, lineage.file_digest(file)] for file in data.files]
    described = TaskMetadata(
        name=name,
        description=f"the local retrieval set {name}",
        dataset={"path": "local", "revision": lineage.value_digest([content, chosen.split, chosen.instruction])},
        type="Retrieval",
        category="t2t",
        eval_splits=[chosen.split],
        eval_langs=["und-Zyyy"],  # undetermined, any script
        main_score="ndcg_at_10",
    )

    def load_data(self: Any, num_proc: int | None = None, **_: Any) -> None:
        split = {
            "corpus": Dataset.from_dict({"id": data.document_ids, "text": data.documents}),
            "queries": Dataset.from_dict({"id": data.query_ids, "text": data.queries}),
            "relevant_docs": {query: dict(judged) for query, judged in data.relevance.items()},
            "top_ranked": None,
        }
        self.dataset = {"default": {chosen.split: split}}
        self.data_loaded = True

    # mteb needs a class for each task, with its metadata.
    leaves_out = any(row >= 0 for row in data.own_rows)
    members = {"metadata": described, "load_data": load_data, "ignore_identical_ids": leaves_out}
    return type(name, (AbsTaskRetrieval,), members)()
