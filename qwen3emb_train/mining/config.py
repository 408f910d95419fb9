"""What is mined, and by which rules."""

from dataclasses import dataclass, field
from enum import Enum

from qwen3emb_train.data.instructions import refuse_template
from qwen3emb_train.data.readers import ColumnsConfig
from qwen3emb_train.index.embed_config import EncodingConfig


class Sampling(str, Enum):
    """``random``: any of the window's eligible documents. ``top``: the hardest of them."""

    random = "random"
    top = "top"


class Backend(str, Enum):
    """``exact``: every document is compared. ``faiss``: an approximate index, for tens of millions of documents."""

    exact = "exact"
    faiss = "faiss"


class WrittenScores(str, Enum):
    """Contents of an example's ``scores``; ``auto``: the reranker's where there is one, else none.

    A training run with a distillation weight learns these scores. The searching model's own cosines are no better than
    the student's, so they are written only on request.
    """

    auto = "auto"
    none = "none"
    cosine = "cosine"
    reranker = "reranker"


@dataclass
class MiningConfig(ColumnsConfig, EncodingConfig):
    """What is mined, and by which rules.

    Score limits are cosines, or the reranker's scores where there is one; null switches a limit off.

    Attributes:
        model: the searching model: a model directory, a Sentence-Transformers directory, a hub name.
        examples: examples in any layout that training reads; those of other ``tasks`` are copied as they are.
        output_dir: gets ``examples.jsonl``, ``provenance.jsonl``, ``report.html``, ``report.txt`` and ``run.json``.
        corpus: rows with ``text`` and optional ``title`` (BEIR's corpus.jsonl); null = all documents of the examples.
        num_negatives: at most so many for an example. Where fewer are eligible, it gets fewer.
        keep_negatives: an example's own negatives stay, and mined ones fill up. Otherwise they are mere candidates.
        rank_from: first rank of the window that negatives come from, counted from 1 without the query's positives.
        rank_to: last rank of that window.
        max_relative_score: a negative scores below this share of the positives' mean score (NV-Retriever: 0.95).
        absolute_margin: a negative scores below the positives' mean score minus this; a negative margin lets
            it score higher, as the VL report does ("mean + small safety margin").
        max_score: a negative scores below this; null = off, as with all limits.
        min_positive_score: an example none of whose positives scores above this is left out: its label is in doubt
            (the VL report's t+).
        sampling: how negatives are drawn from what the rules leave.
        seed: seed of ``sampling=random``.
        bm25_share: share of an example's negatives that BM25 finds, by the same rules with its own ranks. Where one
            source has too few, the other fills up.
        reranker: one of ours (a run's model/, an export) or any Sentence-Transformers cross-encoder: it scores the
            positives and the window again. Ours give logits, which may be negative: use ``absolute_margin`` with
            them, and ``max_relative_score=null``.
        scores: what the examples' ``scores`` hold.
        tasks: tasks whose examples get negatives. Scores of other tasks are labels and must not be overwritten.
        instruction: for examples without their own; null = the model's own (and the reranker's own), "" = none. Not for
            Sentence-Transformers models without a query prompt.
        backend: how the nearest documents are found.
        faiss_index: of ``backend=faiss``: a description for faiss.index_factory; about 4 * sqrt(documents) cells.
        faiss_probes: cells looked at for a query, where the index has cells.
        block_elements: scores held at once.
        queries_per_block: queries searched between two points from which a killed run continues.
        work_dir: vectors and what was found; null = beside ``output_dir``, and removed when all is done. A directory
            given here is kept, and used again while model, prompts and texts are the same.
    """

    model: str = "???"
    examples: str = "???"
    output_dir: str = "???"
    corpus: str | None = None
    num_negatives: int = 7
    keep_negatives: bool = False
    rank_from: int = 1
    rank_to: int = 100
    max_relative_score: float | None = 0.95
    absolute_margin: float | None = None
    max_score: float | None = None
    min_positive_score: float | None = None
    sampling: Sampling = Sampling.random
    seed: int = 0
    bm25_share: float = 0.0
    reranker: str | None = None
    scores: WrittenScores = WrittenScores.auto
    tasks: list[str] = field(default_factory=lambda: ["retrieval"])
    instruction: str | None = None
    backend: Backend = Backend.exact
    faiss_index: str = "IVF4096,Flat"
    faiss_probes: int = 64
    block_elements: int = 2**24
    queries_per_block: int = 4096
    work_dir: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_template("instruction", self.instruction)
        for name in ("num_negatives", "queries_per_block", "block_elements", "faiss_probes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1.")
        if not 1 <= self.rank_from <= self.rank_to:
            raise ValueError(
                f"rank_from={self.rank_from}, rank_to={self.rank_to}: ranks count from 1, and the window must hold one."
            )
        if self.rank_to - self.rank_from + 1 < self.num_negatives:
            raise ValueError(
                f"rank_from={self.rank_from}, rank_to={self.rank_to} hold fewer documents than "
                f"num_negatives={self.num_negatives}. Raise rank_to."
            )
        if self.max_relative_score is not None and not 0 < self.max_relative_score <= 1:
            raise ValueError(f"max_relative_score={self.max_relative_score}: must be above 0 and at most 1, or null.")
        if not 0 <= self.bm25_share <= 1:
            raise ValueError(f"bm25_share={self.bm25_share}: a share of the negatives, from 0 to 1.")
        if self.scores is WrittenScores.reranker and self.reranker is None:
            raise ValueError("scores=reranker: there is none. Set reranker, or scores=cosine or none.")

    @property
    def written_scores(self) -> WrittenScores:
        """``scores`` without ``auto``."""
        if self.scores is not WrittenScores.auto:
            return self.scores
        return WrittenScores.none if self.reranker is None else WrittenScores.reranker
