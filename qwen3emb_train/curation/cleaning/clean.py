"""From raw data to a training set: the program ``clean``.

The first pass reads and checks; the second assigns the kept rows to train, dev and test. Memory is that of the indexes:
about 100 bytes per row for exact duplicates, at most 10 to 20 kB per query and document for near-duplicates.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from qwen3emb_train import lineage
from qwen3emb_train.curation.cleaning.checks import Drop, LanguageCheck, LengthCheck, RowCheck
from qwen3emb_train.curation.cleaning.config import CleanConfig
from qwen3emb_train.curation.cleaning.duplicates import ExactDuplicates, NearDocuments, NearDuplicates
from qwen3emb_train.curation.cleaning.evaluation_sets import ContaminationCheck
from qwen3emb_train.curation.cleaning.report import CleaningReport
from qwen3emb_train.curation.cleaning.retrieval_set import write_retrieval_set
from qwen3emb_train.curation.cleaning.splits import SPLITS, Splits
from qwen3emb_train.curation.rejected import MALFORMED, RejectedLines, count_malformed
from qwen3emb_train.data.readers import SourceLine, read_examples, read_lines
from qwen3emb_train.data.records import TrainingExample, write_examples
from qwen3emb_train.data.rows import decode_row, source_path

PROGRAM = "clean"
_KEPT = "kept.jsonl"  # between the two passes
_LARGE_GROUP = 0.1  # share of the rows from which a group is worth a warning
logger = logging.getLogger(__name__)


def clean(config: CleanConfig) -> Path:
    """Cleans and splits a file of examples; returns ``output_dir``. Does nothing if that is up to date.

    Raises:
        FileNotFoundError: an input is missing.
        ValueError: an input is malformed; nothing is left; or there are too few documents for the splits.
        ImportError: datasketch or py3langid is needed and not installed.
    """
    output = Path(config.output_dir)
    inputs = {"examples": source_path(config.examples)}
    inputs |= {f"evaluation set {name}": Path(one.path) for name, one in config.evaluation_sets.items()}

    def write(made: lineage.Output) -> dict[str, Any]:
        cleaner, directory = _Cleaner(config), made.directory
        cleaner.judge_all(directory)
        cleaner.write_splits(directory)
        report = cleaner.report
        lineage.write_text(directory / "report.json", json.dumps(report.as_json(), indent=2, ensure_ascii=False) + "\n")
        lineage.write_text(directory / "report.txt", report.as_text())
        figures = {"num_read": report.num_read, "num_kept": report.num_kept, "dropped": dict(report.dropped)}
        return {"splits": report.splits, **figures}

    lineage.produce(PROGRAM, output, lineage.settings_of(config, unrecorded=("output_dir",)), inputs, write)
    return output


class _Cleaner:
    """The checks of one run, their memory, and the report."""

    def __init__(self, config: CleanConfig) -> None:
        self._config = config
        near, split = config.near_duplicates, config.split
        self.report = CleaningReport()
        self._checks: list[RowCheck] = [LengthCheck(config.lengths)]
        self._memories: list[ExactDuplicates | NearDuplicates] = []
        if config.duplicates:
            self._memories.append(ExactDuplicates())
            self._checks.append(self._memories[-1])
        if config.languages.enabled:
            self._checks.append(LanguageCheck(config.languages))
        if config.evaluation_sets:
            contamination = ContaminationCheck(config.evaluation_sets, config.decontamination)
            self.report.evaluation_texts = contamination.num_texts
            self._checks.append(contamination)
        documents = NearDocuments(near.threshold if near.enabled else None)
        if near.enabled:  # the most expensive check comes last
            self._memories.append(NearDuplicates(near.threshold, near.compare, documents))
            self._checks.append(self._memories[-1])
        self._splits = Splits(split, documents) if split.is_wanted else None
        self._has_document_column = False

    def judge_all(self, directory: Path) -> None:
        """The first pass: every line to ``kept.jsonl`` or to ``rejected/``."""
        rejected_directory = directory / "rejected"
        with RejectedLines(rejected_directory) as rejected:
            write_examples(directory / _KEPT, self._kept(rejected_directory, rejected))
        self.report.num_malformed = count_malformed(rejected_directory / MALFORMED)
        if not self.report.num_kept:
            reasons = ", ".join(f"{reason} {count}" for reason, count in self.report.dropped.items())
            raise ValueError(f"{self._config.examples}: of {self.report.num_read} lines none is left ({reasons}).")
        if self._config.document_column and not self._has_document_column:
            raise ValueError(
                f"document_column={self._config.document_column}: no line of {self._config.examples} has it. Check the "
                "spelling, or leave it out; then documents are known by their texts."
            )

    def _kept(self, rejected_directory: Path, rejected: RejectedLines) -> Iterator[TrainingExample]:
        reading, column = self._config.reading, self._config.document_column
        if column:
            reading = replace(reading, ignored_columns=[*reading.ignored_columns, column])
        lines = read_lines(
            source_path(self._config.examples), reading,
            rejected_path=rejected_directory / MALFORMED, columns=self._config.columns,
        )  # fmt: skip
        for line in lines:
            drop = self._first_drop(line.example)
            self.report.add(line, drop)
            if drop is not None:
                rejected.add(line, drop.reason, drop.detail)
                continue
            place = f"{line.file.name}:{line.number}"
            for memory in self._memories:
                memory.remember(line.example, place)
            document = self._document_of(line)
            if self._splits is not None:
                self._splits.add(line.example, document)
            yield line.example

    def _first_drop(self, example: TrainingExample) -> Drop | None:
        return next((drop for check in self._checks if (drop := check(example)) is not None), None)

    def _document_of(self, line: SourceLine) -> str | None:
        if self._config.document_column is None:
            return None
        document = decode_row(line.raw).get(self._config.document_column)
        self._has_document_column |= document is not None
        return None if document is None else str(document)

    def write_splits(self, directory: Path) -> None:
        """The second pass: from ``kept.jsonl`` to ``train.jsonl``, ``dev/`` and ``test/``."""
        kept, splits = directory / _KEPT, self._splits
        if splits is None:
            kept.rename(directory / "train.jsonl")
            return
        sizes = splits.group_sizes()
        self.report.num_groups, self.report.largest_group = len(sizes), sizes[0]
        if sizes[0] > _LARGE_GROUP * self.report.num_kept:
            logger.warning(
                "%d of %d rows are connected by their documents or queries, and are in one split. Labels in place of "
                "documents cause that, as does a document_column with one value for all.",
                sizes[0], self.report.num_kept,
            )  # fmt: skip
        for number, example in enumerate(read_examples(kept)):
            splits.note_negatives(example, splits.of_row(number))
        for split, share in zip(
            SPLITS, (1.0, self._config.split.dev_share, self._config.split.test_share), strict=True
        ):
            if share:
                self._write_split(directory, split, splits)
        kept.unlink()

    def _write_split(self, directory: Path, split: str, splits: Splits) -> None:
        counts: dict[str, int] = {"rows": 0}

        def rows() -> Iterator[TrainingExample]:
            for number, example in enumerate(read_examples(directory / _KEPT)):
                if splits.of_row(number) == split:
                    counts["rows"] += 1
                    own = splits.without_foreign_negatives(example, split)
                    self.report.num_removed_negatives += len(example.negatives) - len(own.negatives)
                    yield own

        if split == "train":
            write_examples(directory / "train.jsonl", rows())
        else:
            counts["queries"], counts["documents"] = write_retrieval_set(directory / split, split, rows())
        if not counts["rows"]:
            raise ValueError(
                f"split: nothing is left for {split}. There are {self.report.num_groups} groups of rows, the largest "
                f"has {self.report.largest_group} of {self.report.num_kept} rows. Give another seed or larger shares."
            )
        self.report.splits[split] = counts
