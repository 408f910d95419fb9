"""The program ``evaluate``: every model on every set, at every dimension and storage, and rerankers on top of each."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train import lineage
from qwen3emb_train.data.retrieval_set import RetrievalSet
from qwen3emb_train.evaluation.cached_vectors import CachedEmbedder
from qwen3emb_train.evaluation.config import BM25, EvaluateConfig, SetConfig, TaskKind
from qwen3emb_train.evaluation.diagnostics import retrieval_diagnostics
from qwen3emb_train.evaluation.reranking import rerank, score_candidates
from qwen3emb_train.evaluation.results import Measurement, ResultRow, Uncertainty, make_rows
from qwen3emb_train.evaluation.retrieval import Cuts, Ranking, rank, score_ranking, trec_lines
from qwen3emb_train.evaluation.sets import load_set
from qwen3emb_train.evaluation.stored_vectors import StoredAs, stored
from qwen3emb_train.evaluation.table import format_table
from qwen3emb_train.evaluation.tasks.task import SymmetricTask
from qwen3emb_train.index.bm25 import rank_with_bm25
from qwen3emb_train.index.embedders import EmbeddingSettings, load_embedder
from qwen3emb_train.index.nearest import own_last
from qwen3emb_train.index.query_prompts import QueryPrompts
from qwen3emb_train.index.rerankers import TextReranker, require_yes_no_reranker
from qwen3emb_train.models.text_model import truncate_and_normalize

__all__ = ["BM25", "EvaluateConfig", "ResultRow", "SetConfig", "evaluate", "format_table"]

PROGRAM = "evaluate"
RESULTS_FILE, PER_QUERY_FILE, DIAGNOSTICS_FILE, RUNS_FOLDER = (
    "results.json",
    "per_query.jsonl",
    "diagnostics.json",
    "runs",
)

Sets = Mapping[str, RetrievalSet | SymmetricTask]


@dataclass(frozen=True, eq=False)
class _Found:
    """Results so far.

    Attributes:
        rankings: of retrieval sets; those of rerankers after the first stages they reorder.
        measurements: of all sets, in the order of the table.
        diagnostics: entries of diagnostics.json.
    """

    rankings: list[Ranking]
    measurements: list[Measurement]
    diagnostics: list[dict[str, Any]]


def evaluate(config: EvaluateConfig) -> list[ResultRow]:
    """Evaluates, writes results.json and the other files of ``output_dir``, and returns the rows.

    Where the output is up to date, the rows are read from it.

    Raises:
        FileNotFoundError, ValueError: a model or set cannot be read, or a model gives NaN or infinity.
        ImportError: a package is missing; the message says how to install it.
    """
    output = Path(config.output_dir)
    for name, path in config.models.items():
        if path != BM25 and not Path(path).is_dir():
            raise FileNotFoundError(f"models.{name} is {path}: no such directory. Give a model directory, or bm25.")
    for name, path in config.rerankers.items():
        if not Path(path).is_dir():
            raise FileNotFoundError(f"rerankers.{name} is {path}: no such directory. Give a reranker's directory.")
        require_yes_no_reranker(path)  # before hours are spent on the first stage
    sets = {name: load_set(chosen) for name, chosen in config.sets.items()}
    inputs = {f"model {name}": Path(path) for name, path in config.models.items() if path != BM25}
    inputs |= {f"reranker {name}": Path(path) for name, path in config.rerankers.items()}
    inputs |= {f"set {name}: {file.name}": file for name, data in sets.items() for file in data.files}
    lineage.produce(PROGRAM, output, lineage.settings_of(config), inputs, lambda made: _measure_all(config, sets, made))
    return [ResultRow.from_json(row) for row in json.loads((output / RESULTS_FILE).read_text(encoding="utf-8"))]


def _measure_all(config: EvaluateConfig, sets: Sets, made: lineage.Output) -> dict[str, Any]:
    found = _Found([], [], [])
    for name in config.models:
        _measure(config, name, sets, found)
    first_stages = list(found.rankings)
    for name in config.rerankers:
        _rerank(config, name, first_stages, sets, found)
    uncertainty = Uncertainty(config.baseline, config.confidence, config.bootstrap_samples, config.seed)
    rows = make_rows(found.measurements, uncertainty)
    _write(made.directory, config, found, rows, sets)
    return {"scores": {f"{row.model} {row.set} {row.dim} {row.quantization}": row.scores[row.metric] for row in rows}}


def _measure(config: EvaluateConfig, name: str, sets: Sets, found: _Found) -> None:
    """Evaluates a model on every set that it supports; BM25 only ranks documents."""
    path, layers = config.models[name], config.num_layers.get(name)
    if path != BM25:
        QueryPrompts.of(path).report(_instructions(config, sets))
    settings = EmbeddingSettings(
        config.max_tokens, config.precision, config.tokens_per_batch, config.texts_per_batch,
        num_processes=config.num_processes,
    )  # fmt: skip
    embedder = CachedEmbedder(lambda: load_embedder(path, settings, layers), config.cache_dir, path, settings, layers)
    for set_name, data in sets.items():
        if path == BM25:
            if isinstance(data, RetrievalSet):
                rows = rank_with_bm25(data.queries, data.documents, _depth(config) + 1)
                rows = own_last(rows, data.own_rows)[:, : _depth(config)]
                _add(config, found, Ranking(name, set_name, None, StoredAs.float32, rows), data)
        elif isinstance(data, RetrievalSet):
            _measure_retrieval(config, name, set_name, data, embedder, found)
        else:
            _measure_symmetric(config, name, set_name, data, embedder, found)


def _measure_retrieval(
    config: EvaluateConfig, name: str, set_name: str, data: RetrievalSet, embedder: CachedEmbedder, found: _Found
) -> None:
    queries = embedder.encode_queries(data.queries, config.sets[set_name].instruction)
    documents = embedder.encode_documents(data.documents)
    _require_finite(queries, documents, name, set_name)
    forms, full = list(_forms(config, queries.shape[1])), (queries.shape[1], StoredAs.float32)
    wanted = dict.fromkeys([*forms, full] if config.diagnostics else forms)  # without duplicates
    ranked = {
        form: own_last(rank(queries, documents, *form, _depth(config) + 1), data.own_rows)[:, : _depth(config)]
        for form in wanted
    }
    for form in forms:
        _add(config, found, Ranking(name, set_name, *form, ranked[form]), data)
    if config.diagnostics:
        ranking = Ranking(name, set_name, *full, ranked[full])
        scores = score_ranking(ranking.rows, data, _cuts(config)).statistic.per_query.tolist()
        found.diagnostics.append(retrieval_diagnostics(ranking, data, queries, documents, scores, config.seed))


def _measure_symmetric(
    config: EvaluateConfig, name: str, set_name: str, task: SymmetricTask, embedder: CachedEmbedder, found: _Found
) -> None:
    given = config.sets[set_name].instruction
    if given is None:
        given = "" if QueryPrompts.of(config.models[name]).is_bare else task.instruction
    vectors = _encode_unique(embedder, task, given)
    _require_finite(vectors, vectors, name, set_name)
    kind = config.sets[set_name].task
    for dim, form in _forms(config, vectors.shape[1]):
        scores = task.score(stored(truncate_and_normalize(vectors, dim), form))
        found.measurements.append(Measurement(name, set_name, dim, form, kind, scores, task.size))


def _rerank(config: EvaluateConfig, name: str, first_stages: Sequence[Ranking], sets: Sets, found: _Found) -> None:
    reranker = TextReranker.load(
        config.rerankers[name], num_layers=config.num_layers.get(name), max_tokens=config.max_tokens,
        precision=config.precision.value,
    )  # fmt: skip
    reranker.report(config.rerankers[name], _instructions(config, sets))
    for set_name, data in sets.items():
        if not isinstance(data, RetrievalSet):
            continue
        stages = [stage for stage in first_stages if stage.set == set_name]
        scores = score_candidates(
            reranker, data.queries, data.documents, [stage.rows for stage in stages], config.rerank_top_k,
            config.sets[set_name].instruction, config.tokens_per_batch,
        )  # fmt: skip
        for stage in stages:
            rows = own_last(rerank(stage.rows, scores, config.rerank_top_k), data.own_rows)
            reranked = replace(stage, model=f"{stage.model} > {name}", rows=rows)
            _add(config, found, reranked, data, scores.pairs_per_second)


def _add(
    config: EvaluateConfig, found: _Found, ranking: Ranking, data: RetrievalSet, pairs_per_second: float | None = None
) -> None:
    found.rankings.append(ranking)
    scores = score_ranking(ranking.rows, data, _cuts(config))
    found.measurements.append(Measurement(
        ranking.model, ranking.set, ranking.dim, ranking.quantization, TaskKind.retrieval, scores, len(data.queries),
        len(data.documents), pairs_per_second,
    ))  # fmt: skip


def _instructions(config: EvaluateConfig, sets: Sets) -> dict[str, str | None]:
    """Of the retrieval sets, by key: the instructions of the other tasks are theirs, whatever the training."""
    return {
        f"sets.{name}.instruction": config.sets[name].instruction
        for name, data in sets.items()
        if isinstance(data, RetrievalSet)
    }


def _cuts(config: EvaluateConfig) -> Cuts:
    return Cuts(config.ndcg_at, config.recall_at, config.mrr_at)


def _depth(config: EvaluateConfig) -> int:
    return max(_cuts(config).deepest, config.rerank_top_k if config.rerankers else 1)


def _forms(config: EvaluateConfig, width: int) -> Iterator[tuple[int, StoredAs]]:
    """Every dimension in every storage."""
    for dim in config.dims or [width]:
        for form in config.quantizations:
            yield dim, form


def _encode_unique(embedder: CachedEmbedder, task: SymmetricTask, instruction: str) -> Float[Tensor, "texts dim"]:
    """The vectors of the task's texts; each distinct text is encoded once."""
    unique = list(dict.fromkeys(task.texts))
    row_of = {text: row for row, text in enumerate(unique)}
    vectors = embedder.encode_queries(unique, instruction)
    return vectors[torch.tensor([row_of[text] for text in task.texts])]


def _require_finite(
    queries: Float[Tensor, "queries dim"], documents: Float[Tensor, "documents dim"], model: str, set_name: str
) -> None:
    if not (torch.isfinite(queries).all() and torch.isfinite(documents).all()):
        raise ValueError(f"model {model!r} gives vectors with NaN or infinity on {set_name!r}. Try precision=fp32.")


def _write(directory: Path, config: EvaluateConfig, found: _Found, rows: Sequence[ResultRow], sets: Sets) -> None:
    def write_json(name: str, values: list[Any]) -> None:
        lineage.write_text(directory / name, json.dumps(values, indent=2, ensure_ascii=False) + "\n")

    write_json(RESULTS_FILE, [asdict(row) for row in rows])
    per_query = [
        {
            "model": one.model, "set": one.set, "dim": one.dim, "quantization": one.quantization.value,
            "metric": one.scores.metric, "ids": list(one.scores.ids), "values": one.scores.statistic.per_query.tolist(),
        }
        for one in found.measurements
    ]  # fmt: skip
    lineage.write_text(
        directory / PER_QUERY_FILE, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in per_query)
    )
    if config.diagnostics:
        write_json(DIAGNOSTICS_FILE, found.diagnostics)
    for ranking in found.rankings if config.save_runs else []:
        data = sets[ranking.set]
        assert isinstance(data, RetrievalSet)
        # The name holds what distinguishes runs; characters that file names cannot hold are escaped.
        parts = [ranking.model, ranking.set]
        if ranking.dim is not None:
            parts += [str(ranking.dim)] * (len(config.dims) > 1)
            parts += [ranking.quantization.value] * (len(config.quantizations) > 1)
        name = "__".join(quote(part, safe="+") for part in parts)
        lines = trec_lines(ranking.rows, data, ranking.model)
        lineage.write_text(directory / RUNS_FOLDER / f"{name}.trec", "\n".join(lines) + "\n")
