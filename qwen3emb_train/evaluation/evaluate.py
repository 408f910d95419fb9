"""The result table: every model on every retrieval set, at every dimension; and every reranker behind each of them."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qwen3emb_train import lineage
from qwen3emb_train.data.ranking_metrics import mrr_at, ndcg_at, recall_at
from qwen3emb_train.data.retrieval_set import RetrievalSet, load_retrieval_set
from qwen3emb_train.evaluation.reranking import rerank, score_candidates
from qwen3emb_train.models.embedders import EmbeddingSettings, load_embedder
from qwen3emb_train.models.lexical import rank_with_bm25
from qwen3emb_train.models.nearest import top_k_documents
from qwen3emb_train.models.pooling import truncate_and_normalize
from qwen3emb_train.models.precision import Precision
from qwen3emb_train.models.rerankers import TextReranker, require_yes_no_reranker

PROGRAM = "evaluate"
RESULTS_FILE = "results.json"
BM25 = "bm25"


@dataclass
class SetConfig:
    """A retrieval set.

    Attributes:
        path: directory in the BEIR layout (see ``retrieval.py``).
        split: which judgements.
        instruction: what stands before each query, and what a reranker judges by. None: the model's own; "": nothing
            (a reranker's template always holds one: its own).
    """

    path: str = "???"
    split: str = "test"
    instruction: str | None = None


@dataclass
class EvaluateConfig:
    """What is measured.

    Attributes:
        models: name in the table -> model directory, or "bm25" for the lexical baseline.
        rerankers: name in the table -> directory of a yes/no reranker. Each gives a row "MODEL > NAME" behind every row
            of every model.
        rerank_top_k: how many documents of a first stage a reranker puts in order; the rest follows as it was.
        num_layers: name -> use only the first layers of that (unexported) model or reranker: to compare one trained on
            a cut backbone with its start.
        sets: name in the table -> retrieval set.
        dims: Matryoshka dimensions; empty = the full vector only. The corpus is encoded once for all of them.
        output_dir: receives results.json and run.json.
        max_tokens: longest text.
        precision: of the matrix products.
        tokens_per_batch: tokens encoded at once by our encoder and by rerankers.
        texts_per_batch: texts encoded at once by Sentence-Transformers (exports).
        ndcg_at, recall_at, mrr_at: cut-offs.
    """

    models: dict[str, str] = field(default_factory=dict)
    rerankers: dict[str, str] = field(default_factory=dict)
    rerank_top_k: int = 50
    num_layers: dict[str, int] = field(default_factory=dict)
    sets: dict[str, SetConfig] = field(default_factory=dict)
    dims: list[int] = field(default_factory=list)
    output_dir: str = "???"
    max_tokens: int = 8192
    precision: Precision = Precision.auto
    tokens_per_batch: int = 16_384
    texts_per_batch: int = 32
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


@dataclass(frozen=True)
class ResultRow:
    """A line of the table.

    Attributes:
        model, set: names.
        dim: components of the vectors; None for the lexical baseline.
        scores: mean over queries by metric name ("ndcg@10", "recall@100", "mrr@10"), 0 .. 1.
        pairs_per_second: of the reranker, on this set; None without one. Documents that several first stages found are
            scored once, so rows of one reranker on one set share it.
    """

    model: str
    set: str
    dim: int | None
    scores: dict[str, float]
    num_queries: int
    num_documents: int
    pairs_per_second: float | None = None


@dataclass(frozen=True, eq=False)
class Ranking:
    """What a model found on a set: rows of documents, best first."""

    model: str
    set: str
    dim: int | None
    rows: Int[Tensor, "queries kept"]


def evaluate(config: EvaluateConfig) -> list[ResultRow]:
    """Measures, writes results.json and run.json, returns the rows; reads them back where they are up to date.

    Raises:
        FileNotFoundError, ValueError: a model or set cannot be read.
        ImportError: a package is missing; the message says how to install it.
    """
    output = Path(config.output_dir)
    recorded = json.loads(json.dumps(asdict(config)))
    for name, path in config.models.items():
        if path != BM25 and not Path(path).is_dir():
            raise FileNotFoundError(f"models.{name} is {path}: no such directory. Give a model directory, or bm25.")
    for name, path in config.rerankers.items():
        if not Path(path).is_dir():
            raise FileNotFoundError(f"rerankers.{name} is {path}: no such directory. Give a reranker's directory.")
        require_yes_no_reranker(path)  # before hours are spent on the first stage
    sets = {name: load_retrieval_set(Path(chosen.path), chosen.split) for name, chosen in config.sets.items()}
    inputs = {f"model {name}": Path(path) for name, path in config.models.items() if path != BM25}
    inputs |= {f"reranker {name}": Path(path) for name, path in config.rerankers.items()}
    inputs |= {f"set {name}: {file.name}": file for name, data in sets.items() for file in data.files}
    if lineage.is_up_to_date(output, PROGRAM, recorded, inputs):
        print(f"{output}: up to date")
        return [ResultRow(**row) for row in json.loads((output / RESULTS_FILE).read_text(encoding="utf-8"))]
    found = [stage for name in config.models for stage in _find(config, name, sets)]
    rows = [_row(config, stage, sets[stage.set]) for stage in found]
    rows += [row for name in config.rerankers for row in _rerank(config, name, found, sets)]
    with lineage.atomic_directory(output) as directory:
        lineage.write_text(directory / RESULTS_FILE, json.dumps([asdict(row) for row in rows], indent=2) + "\n")
        means = {"ndcg": {f"{row.model} {row.set} {row.dim}": row.scores[f"ndcg@{config.ndcg_at}"] for row in rows}}
        lineage.write_record(directory, lineage.new_record(PROGRAM, recorded, inputs, **means))
    return rows


def _find(config: EvaluateConfig, name: str, sets: dict[str, RetrievalSet]) -> Iterator[Ranking]:
    deepest = max(config.ndcg_at, config.mrr_at, *config.recall_at, config.rerank_top_k if config.rerankers else 1)
    if config.models[name] == BM25:
        for set_name, data in sets.items():
            yield Ranking(name, set_name, None, rank_with_bm25(data.queries, data.documents, deepest))
        return
    settings = EmbeddingSettings(config.max_tokens, config.precision, config.tokens_per_batch, config.texts_per_batch)
    embedder = load_embedder(config.models[name], settings, config.num_layers.get(name))
    for set_name, data in sets.items():
        queries = embedder.encode_queries(data.queries, config.sets[set_name].instruction)
        documents = embedder.encode_documents(data.documents)
        _require_finite(queries, documents, name, set_name)
        for dim in config.dims or [queries.shape[1]]:
            _, rows = top_k_documents(
                truncate_and_normalize(queries, dim), truncate_and_normalize(documents, dim), deepest
            )
            yield Ranking(name, set_name, dim, rows)


def _rerank(
    config: EvaluateConfig, name: str, found: Sequence[Ranking], sets: dict[str, RetrievalSet]
) -> Iterator[ResultRow]:
    reranker = TextReranker.load(
        config.rerankers[name], num_layers=config.num_layers.get(name), max_tokens=config.max_tokens,
        precision=config.precision.value,
    )  # fmt: skip
    for set_name, data in sets.items():
        stages = [stage for stage in found if stage.set == set_name]
        scores = score_candidates(
            reranker, data.queries, data.documents, [stage.rows for stage in stages], config.rerank_top_k,
            config.sets[set_name].instruction, config.tokens_per_batch,
        )  # fmt: skip
        for stage in stages:
            ranking = rerank(stage.rows, scores, config.rerank_top_k)
            reranked = Ranking(f"{stage.model} > {name}", set_name, stage.dim, ranking)
            yield replace(_row(config, reranked, data), pairs_per_second=scores.pairs_per_second)


def _require_finite(
    queries: Float[Tensor, "queries dim"], documents: Float[Tensor, "documents dim"], model: str, set_name: str
) -> None:
    if not (torch.isfinite(queries).all() and torch.isfinite(documents).all()):
        raise ValueError(f"model {model!r} gives vectors with NaN or infinity on {set_name!r}. Try precision=fp32.")


def _row(config: EvaluateConfig, stage: Ranking, data: RetrievalSet) -> ResultRow:
    sums: dict[str, float] = {}
    for query_id, rows in zip(data.query_ids, stage.rows.tolist(), strict=True):
        judged = data.relevance[query_id]
        ranked = [judged.get(data.document_ids[row], 0) for row in rows]
        scores = {f"ndcg@{config.ndcg_at}": ndcg_at(config.ndcg_at, ranked, judged.values())}
        scores |= {f"recall@{k}": recall_at(k, ranked, judged.values()) for k in config.recall_at}
        scores |= {f"mrr@{config.mrr_at}": mrr_at(config.mrr_at, ranked)}
        sums = {metric: sums.get(metric, 0.0) + score for metric, score in scores.items()}
    means = {metric: total / len(data.queries) for metric, total in sums.items()}
    return ResultRow(stage.model, stage.set, stage.dim, means, len(data.queries), len(data.documents))


def format_table(rows: Sequence[ResultRow], *, markdown: bool = False) -> str:
    """The rows as an aligned text table, or as a Markdown one; with pairs/s where there is a reranker."""
    metrics = list(rows[0].scores) if rows else []
    is_timed = any(row.pairs_per_second is not None for row in rows)
    lines = [["model", "set", "dim", "queries", *metrics, *["pairs/s"][:is_timed]]]
    for row in rows:
        dim = "-" if row.dim is None else str(row.dim)
        speed = "-" if row.pairs_per_second is None else f"{row.pairs_per_second:,.1f}"
        scores = [f"{row.scores[metric]:.4f}" for metric in metrics]
        lines.append([row.model, row.set, dim, str(row.num_queries), *scores, *[speed][:is_timed]])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = [
        # Names on the left, numbers on the right.
        [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]
    if not markdown:
        return "\n".join("  ".join(line).rstrip() for line in padded)
    rule = ["-" * width if column < 2 else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [padded[0], rule, *padded[1:]])
