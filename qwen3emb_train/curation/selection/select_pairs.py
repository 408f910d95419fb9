"""Selects pairs that a trained model finds similar: the program ``select_pairs``.

The report's second stage keeps the synthetic pairs with a cosine above 0.7 (arXiv 2506.05176, 3.3). A killed run
continues: the vectors are in ``work_dir``, shard by shard; the scores and the files written from them take little time.
"""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from qwen3emb_train import lineage
from qwen3emb_train.curation.rejected import MALFORMED, RejectedLines, count_malformed
from qwen3emb_train.curation.selection.config import SelectPairsConfig
from qwen3emb_train.curation.selection.pairs import PairTexts
from qwen3emb_train.curation.selection.report import SelectionReport
from qwen3emb_train.curation.selection.scoring import embed_pairs, rank_pairs, score_pairs
from qwen3emb_train.data.records import TrainingExample, write_examples
from qwen3emb_train.data.rows import source_path
from qwen3emb_train.distributed import launched_rank, launched_world_size
from qwen3emb_train.index.query_prompts import QueryPrompts

PROGRAM = "select_pairs"
_LOW_SHARE = 0.1  # of the pairs, from which a warning is due
_LOGISTICS = ("output_dir", "work_dir", "overwrite", "num_processes", "rows_per_block", "block_elements")
logger = logging.getLogger(__name__)


def select_pairs(config: SelectPairsConfig) -> Path:
    """Selects among the pairs of a file; returns ``output_dir``. Does nothing if that is up to date.

    An example keeps the positives that pass, and is dropped if none does. Its negatives are unchanged, its ``scores``
    are those of the kept documents.

    Raises:
        FileNotFoundError, ValueError: an input is missing or malformed, no example is of one of the ``tasks``, or
            ``work_dir`` holds vectors of other texts (names one) or of another model.
    """
    output = Path(config.output_dir)
    settings = lineage.settings_of(config, _LOGISTICS)
    inputs = {"examples": source_path(config.examples)}
    if Path(config.model).exists():  # a hub name has no local files; it is part of the settings
        inputs["model"] = Path(config.model)
    if launched_world_size() > 1 and config.work_dir is None:
        raise ValueError("Several ranks need a place for their vectors: set work_dir to a directory that all see.")
    work_dir = Path(config.work_dir) if config.work_dir else output.with_name(f"{output.name}.work")
    if launched_rank() != 0:  # the first rank writes
        if not lineage.is_up_to_date(output, PROGRAM, settings, inputs):
            embed_pairs(_read(config, work_dir), config, work_dir)
        return output

    def write(made: lineage.Output) -> dict[str, Any]:
        with nullcontext() if config.work_dir is None else lineage.DirectoryLock(work_dir / lineage.LOCK_FILE):
            return _select(config, work_dir, made.directory)

    if lineage.produce(PROGRAM, output, settings, inputs, write) and config.work_dir is None:
        shutil.rmtree(work_dir)
    return output


def _malformed_file(work_dir: Path) -> Path:
    return work_dir / f"{launched_rank()}-{MALFORMED}"


def _read(config: SelectPairsConfig, work_dir: Path) -> PairTexts:
    return PairTexts(config, QueryPrompts.of(config.model), _malformed_file(work_dir))


def _select(config: SelectPairsConfig, work_dir: Path, directory: Path) -> dict[str, Any]:
    """Scores the pairs and writes what passes, what does not, and the report; returns the figures."""
    QueryPrompts.of(config.model).report({"instruction": config.instruction})
    texts, malformed = _read(config, work_dir), _malformed_file(work_dir)
    queries, documents = embed_pairs(texts, config, work_dir)
    scores = score_pairs(directory / "scores.npy", texts, queries, documents, config.rows_per_block)
    ranks = None
    if config.consistency_top_k is not None:
        ranks = rank_pairs(texts, queries, documents, config.consistency_top_k, config)
    report = SelectionReport(config.min_score)
    with RejectedLines(directory / "rejected") as rejected:
        kept = _kept(texts, scores, ranks, config, report, rejected)
        write_examples(directory / "examples.jsonl", kept)
    report.num_malformed = count_malformed(malformed)
    if report.all_pairs.num_kept < _LOW_SHARE * report.all_pairs.num_pairs:
        logger.warning(
            "Only %d of %d pairs pass. Thresholds belong to models: read the histogram in %s before you use these.",
            report.all_pairs.num_kept, report.all_pairs.num_pairs, Path(config.output_dir) / "report.txt",
        )  # fmt: skip
    if report.num_malformed:
        (directory / "rejected").mkdir(exist_ok=True)
        shutil.move(malformed, directory / "rejected" / MALFORMED)
    lineage.write_text(directory / "report.json", json.dumps(report.as_json(), indent=2, ensure_ascii=False) + "\n")
    lineage.write_text(directory / "report.txt", report.as_text())
    return {"num_examples": report.num_examples, "num_kept": report.num_kept, **report.all_pairs.as_json()}


def _kept(
    texts: PairTexts,
    scores: Float[np.ndarray, " pairs"],
    ranks: Int[np.ndarray, " pairs"] | None,
    config: SelectPairsConfig,
    report: SelectionReport,
    rejected: RejectedLines,
) -> Iterator[TrainingExample]:
    """The examples that are kept; the others go to ``rejected``, all to the report."""
    first = 0
    for line in texts.lines():
        report.num_examples += 1
        example = line.example
        if not texts.is_scored(example):
            report.num_unscored += 1
            report.num_kept += 1
            yield example
            continue
        own = slice(first, first + len(example.positives))
        first = own.stop
        cosines = scores[own].tolist()
        is_similar = [config.min_score is None or score > config.min_score for score in cosines]
        is_near = [True] * len(cosines) if ranks is None else [bool(rank) for rank in ranks[own]]
        passes = [similar and near for similar, near in zip(is_similar, is_near, strict=True)]
        report.add(example, cosines, passes)
        if any(passes):
            report.num_kept += 1
            yield _with_positives(example, passes)
            continue
        reason = "inconsistent" if any(is_similar) else "low_score"
        detail = (
            f"no positive among the {config.consistency_top_k} nearest"
            if any(is_similar)
            else f"cosine {max(cosines):.4f}, not above {config.min_score}"
        )
        report.rejected[reason] = report.rejected.get(reason, 0) + 1
        rejected.add(line, reason, detail, scores=[round(score, 6) for score in cosines])


def _with_positives(example: TrainingExample, passes: list[bool]) -> TrainingExample:
    if all(passes):
        return example
    kept = [number for number, stays in enumerate(passes) if stays]
    scores = example.scores
    if scores is not None:
        scores = (*(scores[number] for number in kept), *scores[len(passes) :])
    return replace(example, positives=tuple(example.positives[number] for number in kept), scores=scores)
