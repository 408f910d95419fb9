"""The retrieval task: rankings of documents by cosine, and their metrics."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from qwen3emb_train.data.ranking_metrics import mrr_at, ndcg_at, recall_at
from qwen3emb_train.data.retrieval_set import RetrievalSet
from qwen3emb_train.evaluation.bootstrap import Mean
from qwen3emb_train.evaluation.stored_vectors import StoredAs, stored
from qwen3emb_train.evaluation.tasks.task import TaskScores
from qwen3emb_train.index.nearest import top_k_documents
from qwen3emb_train.models.text_model import truncate_and_normalize


@dataclass(frozen=True)
class Cuts:
    """Cut-offs of the metrics; nDCG is the main one."""

    ndcg_at: int
    recall_at: Sequence[int]
    mrr_at: int

    @property
    def deepest(self) -> int:
        return max(self.ndcg_at, self.mrr_at, *self.recall_at)


@dataclass(frozen=True, eq=False)
class Ranking:
    """The ranking of a model on a set.

    Attributes:
        model, set: names.
        dim: components of the vectors; None for BM25.
        quantization: how documents are stored.
        rows: indices of documents for each query, best first.
    """

    model: str
    set: str
    dim: int | None
    quantization: StoredAs
    rows: Int[Tensor, "queries kept"]


def rank(
    queries: Float[Tensor, "queries width"],
    documents: Float[Tensor, "documents width"],
    dim: int,
    form: StoredAs,
    depth: int,
) -> Int[Tensor, "queries kept"]:
    """Indices of the nearest documents, best first.

    Args:
        queries, documents: full vectors.
        dim: both are cut to this many components and normalised.
        form: how the documents are stored after that.
        depth: number of documents for each query.
    """
    cut = stored(truncate_and_normalize(documents, dim), form)
    return top_k_documents(truncate_and_normalize(queries, dim), cut, depth)[1]


def score_ranking(rows: Int[Tensor, "queries kept"], data: RetrievalSet, cuts: Cuts) -> TaskScores:
    """nDCG, recall and MRR, means over queries.

    Args:
        rows: indices of documents, best first.
        data: the set with its judgements.
        cuts: of the metrics.
    """
    by_query: dict[str, list[float]] = {}
    for query_id, its_rows in zip(data.query_ids, rows.tolist(), strict=True):
        judged = data.relevance[query_id]
        ranked = [judged.get(data.document_ids[row], 0) for row in its_rows]
        scores = {f"ndcg@{cuts.ndcg_at}": ndcg_at(cuts.ndcg_at, ranked, judged.values())}
        scores |= {f"recall@{k}": recall_at(k, ranked, judged.values()) for k in cuts.recall_at}
        scores |= {f"mrr@{cuts.mrr_at}": mrr_at(cuts.mrr_at, ranked)}
        for metric, score in scores.items():
            by_query.setdefault(metric, []).append(score)
    means = {metric: sum(scores) / len(scores) for metric, scores in by_query.items()}
    main = f"ndcg@{cuts.ndcg_at}"
    return TaskScores(means, main, data.query_ids, Mean(np.array(by_query[main])))


def trec_lines(rows: Int[Tensor, "queries kept"], data: RetrievalSet, tag: str) -> list[str]:
    """A run in trec_eval's format. Scores count down to 1, so that trec_eval keeps the order of equal cosines.

    Args:
        rows: indices of documents, best first.
        data: the set.
        tag: name of the run.

    Raises:
        ValueError: an id contains white space, which separates columns there.
    """
    for text_id in (*data.query_ids, *data.document_ids):
        if text_id.split() != [text_id]:
            raise ValueError(f"{data.files[0].parent}: trec_eval cannot read the id {text_id!r}. Set save_runs=false.")
    spaceless = "_".join(tag.split())
    return [
        f"{query_id} Q0 {data.document_ids[row]} {place} {len(its_rows) - place + 1} {spaceless}"
        for query_id, its_rows in zip(data.query_ids, rows.tolist(), strict=True)
        for place, row in enumerate(its_rows, start=1)
    ]
