"""The program ``mine_negatives``: hard negatives are documents similar to a query, but less than its positives.

    python -m qwen3emb_train mine_negatives model=outputs/mine/model examples=pairs.jsonl output_dir=outputs/mined
    accelerate launch -m qwen3emb_train mine_negatives ...       # encoding and search shared by the ranks

Four steps, each resumable and each leaving files only: encode, find (exactly, or by an approximate index; and by BM25),
score again (with a cross-encoder), and then apply the rules and write. Vectors stay on the disk, memory-mapped; in
memory are the texts and one block of queries.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from qwen3emb_train import lineage
from qwen3emb_train.data.readers import read_examples
from qwen3emb_train.data.records import TrainingExample, write_examples
from qwen3emb_train.data.rows import shard_paths, source_path
from qwen3emb_train.distributed import launched_rank
from qwen3emb_train.mining import provenance
from qwen3emb_train.mining.choosing import Choice
from qwen3emb_train.mining.config import Backend, MiningConfig
from qwen3emb_train.mining.provenance import Mined
from qwen3emb_train.mining.queries import SearchProblem, gather
from qwen3emb_train.mining.report import MiningStatistics
from qwen3emb_train.mining.search import rank_barrier
from qwen3emb_train.mining.search.finding import find_by_bm25, find_by_model, sampled_recall, score_known
from qwen3emb_train.mining.search.rescoring import rescore
from qwen3emb_train.mining.search.vectors import embed_problem

PROGRAM = "mine_negatives"
# Settings that do not change the result.
_LOGISTICS = ("output_dir", "work_dir", "overwrite", "num_processes", "queries_per_block", "block_elements")
logger = logging.getLogger(__name__)


def mine_negatives(config: MiningConfig) -> Path:
    """Mines negatives for a file of examples; returns ``output_dir``. Does nothing if that is up to date.

    The written examples keep their order. Line ``n`` of ``provenance.jsonl`` is about example ``n``: id, cosine, rank
    and source of each negative, and the reranker's score.

    Raises:
        FileNotFoundError, ValueError: an input is missing or malformed; no example is of one of the ``tasks``; the
            ``work_dir`` holds vectors of other texts (names one) or of another model.
    """
    output = Path(config.output_dir)
    settings, inputs = lineage.settings_of(config, _LOGISTICS), _inputs(config)
    work_dir = Path(config.work_dir) if config.work_dir else output.with_name(f"{output.name}.work")
    is_temporary = config.work_dir is None
    if launched_rank() != 0:  # the first rank waits for what the others find, and writes
        if not lineage.is_up_to_date(output, PROGRAM, settings, inputs):
            _search(config, work_dir)
            if is_temporary:
                rank_barrier.wait_for_removal(work_dir)
        return output

    def write(made: lineage.Output) -> Mapping[str, Any]:
        with nullcontext() if is_temporary else lineage.DirectoryLock(work_dir / lineage.LOCK_FILE):
            examples, choice, statistics = _search(config, work_dir)
            if is_temporary:
                rank_barrier.wait_for_others(work_dir)
            _write(config, examples, choice, statistics, made.directory)
        return statistics.counts

    if lineage.produce(PROGRAM, output, settings, inputs, write) and is_temporary:
        rank_barrier.remove(work_dir)
    return output


def _search(config: MiningConfig, work_dir: Path) -> tuple[list[TrainingExample], Choice, MiningStatistics]:
    """Reads the examples and finds, with the other ranks, what is near their queries."""
    examples = list(read_examples(source_path(config.examples), columns=config.example_columns))
    if not any(example.task in config.tasks for example in examples):
        found = ", ".join(sorted({example.task for example in examples}))
        raise ValueError(f"{config.examples}: tasks={config.tasks} finds no example; the tasks there: {found}.")
    others = Counter(example.task for example in examples if example.task not in config.tasks)
    problem = gather(examples, config)
    if launched_rank() == 0:
        for task, count in sorted(others.items()):
            logger.warning("%d examples of task %r are copied without mining (tasks=%s)", count, task, config.tasks)
        problem.prompts.report({"instruction": config.instruction})
    statistics = MiningStatistics(config.num_negatives, len(problem.queries), problem.num_candidates, seed=config.seed)
    return examples, _choose(problem, config, work_dir, statistics), statistics


def _write(
    config: MiningConfig,
    examples: Sequence[TrainingExample],
    choice: Choice,
    statistics: MiningStatistics,
    directory: Path,
) -> None:
    write_examples(directory / "examples.jsonl", _written(examples, choice, statistics, directory))
    lineage.write_text(directory / "report.txt", statistics.as_text())
    lineage.write_text(directory / "report.html", statistics.as_html(choice.problem.pool))
    if 2 * statistics.num_without > statistics.num_examples:
        logger.warning(
            "%d of %d examples got no negative. Read %s: if all cosines there look alike, the model is too "
            "weak to mine with; else loosen max_relative_score or give a larger corpus.",
            statistics.num_without, statistics.num_examples, Path(config.output_dir) / "report.txt",
        )  # fmt: skip


def _inputs(config: MiningConfig) -> dict[str, Path]:
    named = {"examples": config.examples} | ({"corpus": config.corpus} if config.corpus else {})
    inputs = {name: source_path(path) for name, path in named.items()}
    for path in inputs.values():
        if not path.is_file():
            shard_paths(path)  # refuses what is not there
    for name, model in (("model", config.model), ("reranker", config.reranker)):
        if model is not None and Path(model).exists():  # a hub name has no local files; it is part of the settings
            inputs[name] = Path(model)
    return inputs


def _choose(problem: SearchProblem, config: MiningConfig, work_dir: Path, statistics: MiningStatistics) -> Choice:
    documents, queries = embed_problem(problem, config, work_dir)
    by_model = find_by_model(problem, documents, queries, config, work_dir)
    by_bm25 = find_by_bm25(problem, documents, queries, config, work_dir) if config.bm25_share else None
    known = score_known(problem, documents, queries, config, work_dir)
    found = [by_model] if by_bm25 is None else [by_model, by_bm25]
    rescored = rescore(problem, found, config, work_dir) if config.reranker is not None else None
    if config.backend is Backend.faiss and launched_rank() == 0:
        statistics.recall = sampled_recall(by_model, documents, queries, problem, config)
    return Choice(problem, config, by_model, by_bm25, known, rescored)


def _written(
    examples: Sequence[TrainingExample], choice: Choice, statistics: MiningStatistics, directory: Path
) -> Iterator[TrainingExample]:
    """The examples to write, one by one; their provenance is written on the way."""
    config, pool = choice.config, choice.problem.pool
    with (directory / provenance.FILE_NAME).open("w", encoding="utf-8") as file:
        for example in examples:
            if example.task not in config.tasks:
                file.write(provenance.line_of(None, pool))
                yield example
                continue
            mined, best_cosine = choice.of(example)
            if config.min_positive_score is not None and _best(mined) <= config.min_positive_score:
                statistics.num_left_out += 1
                continue
            statistics.add(mined, best_cosine)
            file.write(provenance.line_of(mined, pool))
            negatives = tuple(pool.texts[candidate.row] for candidate in mined.negatives)
            yield replace(example, negatives=negatives, scores=choice.scores_to_write(mined))


def _best(mined: Mined) -> float:
    return max(candidate.score for candidate in mined.positives)
