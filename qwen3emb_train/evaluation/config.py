"""Settings of ``evaluate``."""

from dataclasses import dataclass, field
from enum import Enum

from qwen3emb_train.data.instructions import refuse_template
from qwen3emb_train.evaluation.stored_vectors import StoredAs
from qwen3emb_train.models.precision import Precision

BM25 = "bm25"
MEAN = "mean"
"""Name of the row over all sets, which no set may have."""


class TaskKind(str, Enum):
    """Kind of a set; ``tasks/`` has a file for each, with its layout and its protocol."""

    retrieval = "retrieval"
    sts = "sts"
    pair_classification = "pair_classification"
    classification = "classification"
    clustering = "clustering"
    bitext = "bitext"


@dataclass
class SetConfig:
    """An evaluation set.

    Attributes:
        path: its directory: for retrieval the BEIR layout, for the others see ``tasks/``.
        split: which judgements (retrieval), or which file.
        instruction: what stands before each query, and what a reranker judges by; in every task but retrieval, what
            stands before all texts. null = the model's own for retrieval, the usual one of the task for the others
            (nothing for a model that was trained on bare queries); "" = nothing (a reranker's template always holds
            one: its own).
        task: the set's task.
    """

    path: str = "???"
    split: str = "test"
    instruction: str | None = None
    task: TaskKind = TaskKind.retrieval

    def __post_init__(self) -> None:
        refuse_template("sets.*.instruction", self.instruction)


@dataclass
class EvaluateConfig:
    """Settings of an evaluation.

    Attributes:
        models: model directories by their name in the table (models.mine=exports/mine), or "bm25" for the lexical
            baseline (on retrieval sets).
        rerankers: yes/no rerankers by their name in the table. Each gives a row "MODEL > NAME" behind every row
            of every model on retrieval sets.
        rerank_top_k: how many documents of a first stage a reranker puts in order; the rest follows as it was.
        num_layers: by name: use only so many layers of that (unexported) model or reranker: to compare one trained on
            a cut backbone with its start.
        sets: sets by their name in the table: sets.test.path=DIRECTORY.
        dims: Matryoshka dimensions; empty = the full vector only. Texts are encoded once for all of them.
        quantizations: how documents are stored; several in one pass, too.
        baseline: name of a model; every other row is compared with it; null = no comparison.
        confidence: level of the intervals.
        bootstrap_samples: resamples for intervals, and sign flips for p-values; 0 = neither.
        seed: seed of resamples, flips, and what diagnostics.json samples.
        diagnostics: whether to write diagnostics.json: histograms of cosines, a map, the worst queries, for reports.
        save_runs: whether to write the rankings as runs/MODEL__SET.trec.
        output_dir: receives results.json, per_query.jsonl, diagnostics.json, runs/ and run.json.
        cache_dir: where vectors are kept between runs; null = nowhere.
        max_tokens: longest text.
        precision: precision of the matrix products.
        tokens_per_batch: tokens encoded at once by our encoder and by rerankers.
        texts_per_batch: texts encoded at once by Sentence-Transformers (exports).
        num_processes: processes of our encoder: on a CPU, or one for each GPU. Exports have one.
        ndcg_at: cut-off of nDCG, the main metric of retrieval.
        recall_at: cut-offs of recall.
        mrr_at: cut-off of MRR.
    """

    models: dict[str, str] = field(default_factory=dict)
    rerankers: dict[str, str] = field(default_factory=dict)
    rerank_top_k: int = 50
    num_layers: dict[str, int] = field(default_factory=dict)
    sets: dict[str, SetConfig] = field(default_factory=dict)
    dims: list[int] = field(default_factory=list)
    quantizations: list[StoredAs] = field(default_factory=lambda: [StoredAs.float32])
    baseline: str | None = None
    confidence: float = 0.95
    bootstrap_samples: int = 2000
    seed: int = 0
    diagnostics: bool = True
    save_runs: bool = False
    output_dir: str = "???"
    cache_dir: str | None = None
    max_tokens: int = 8192
    precision: Precision = Precision.auto
    tokens_per_batch: int = 16_384
    texts_per_batch: int = 32
    num_processes: int = 1
    ndcg_at: int = 10
    recall_at: list[int] = field(default_factory=lambda: [10, 100])
    mrr_at: int = 10

    def __post_init__(self) -> None:
        for key, named in (("models", self.models), ("sets", self.sets)):
            if not named:
                raise ValueError(f"{key} is empty: name at least one, e.g. {key}.NAME=PATH.")
        for key, cuts in (("ndcg_at", [self.ndcg_at]), ("recall_at", self.recall_at), ("mrr_at", [self.mrr_at])):
            if any(cut < 1 for cut in cuts):
                raise ValueError(f"{key} is {getattr(self, key)}; a cut-off is at least 1.")
        if self.rerank_top_k < 1:
            raise ValueError(f"rerank_top_k is {self.rerank_top_k}; a reranker needs at least 1 document.")
        if both := self.models.keys() & self.rerankers.keys():
            raise ValueError(f"models and rerankers both have {sorted(both)}; give different names.")
        if any(dim < 1 for dim in self.dims):
            raise ValueError(f"dims is {self.dims}; a dimension is at least 1 (empty = the full vector).")
        for key, chosen in (("dims", self.dims), ("quantizations", self.quantizations)):
            if len(set(chosen)) < len(chosen):
                raise ValueError(f"{key} is {chosen}; give each once.")
        if not self.quantizations:
            raise ValueError("quantizations is empty; give at least one of float32, int8, binary.")
        if MEAN in self.sets:
            raise ValueError(f"sets has {MEAN!r}, which is the row over all sets; give the set another name.")
        if self.baseline is not None and self.baseline not in self.models:
            raise ValueError(f"baseline is {self.baseline!r}, none of the models {sorted(self.models)}; name one.")
        if not 0.0 < self.confidence < 1.0:
            raise ValueError(f"confidence is {self.confidence}; it lies between 0 and 1, e.g. 0.95.")
        if self.bootstrap_samples < 0 or self.seed < 0:
            raise ValueError(
                f"bootstrap_samples is {self.bootstrap_samples} and seed {self.seed}; both are at least 0 "
                "(bootstrap_samples=0: no intervals)."
            )
        if self.num_processes < 1:
            raise ValueError(f"num_processes is {self.num_processes}; at least 1 process encodes.")
        needs_retrieval = [*(name for name, path in self.models.items() if path == BM25), *self.rerankers]
        if needs_retrieval and all(chosen.task is not TaskKind.retrieval for chosen in self.sets.values()):
            raise ValueError(
                f"{needs_retrieval} can only rank documents, and no set is a retrieval set; remove them, or add one."
            )
