"""Reads the inputs of a report: directories of training runs, evaluations and merge searches."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from qwen3emb_train.evaluation.report.fields import Entry
from qwen3emb_train.lineage import RUN_FILE, RunRecord, read_record

METRICS_FILE, HEALTH_FILE = "metrics.jsonl", "health.json"
RESULTS_FILE, PER_QUERY_FILE, DIAGNOSTICS_FILE = "results.json", "per_query.jsonl", "diagnostics.json"


@dataclass(frozen=True)
class TrainingRun:
    """A run of train_embedding or train_reranker, finished or not.

    Attributes:
        name: in the report.
        lines: of metrics.jsonl, in the order of the steps.
        health: what health.json holds; None without one.
        record: what run.json holds; None without one.
    """

    name: str
    lines: list[dict[str, Any]]
    health: dict[str, Any] | None
    record: RunRecord | None

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """The steps at which a metric was recorded as a number, and the numbers."""
        found = [(line["step"], float(line[key])) for line in self.lines if is_number(line.get(key))]
        return [step for step, _ in found], [value for _, value in found]

    def last(self, key: str) -> Any:
        """The newest value of a metric, of any type; None where there is none."""
        return next((line[key] for line in reversed(self.lines) if line.get(key) is not None), None)


@dataclass(frozen=True)
class MergeSearch:
    """What merge_search tried: ``metrics`` are those of its run.json."""

    name: str
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """What evaluate wrote.

    Attributes:
        name: in the report.
        rows: entries of results.json.
        units: entries of per_query.jsonl: scores by query; None without the file.
        diagnostics: entries of diagnostics.json: histograms, maps, worst queries; None without the file.
        record: what run.json holds; None without one.
    """

    name: str
    rows: list[Entry]
    units: list[Entry] | None
    diagnostics: list[Entry] | None
    record: RunRecord | None


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a finite number; a bool is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def run_files(key: str, directory: Path) -> list[Path]:
    """The files of a training run that a report reads; FileNotFoundError where metrics.jsonl is missing."""
    _require(directory / METRICS_FILE, key, "the output_dir of train_embedding or train_reranker")
    return _existing(directory, METRICS_FILE, HEALTH_FILE, RUN_FILE)


def evaluation_files(key: str, directory: Path) -> list[Path]:
    """The files of an evaluation that a report reads; FileNotFoundError where results.json is missing."""
    _require(directory / RESULTS_FILE, key, "the output_dir of evaluate")
    return _existing(directory, RESULTS_FILE, PER_QUERY_FILE, DIAGNOSTICS_FILE, RUN_FILE)


def merge_files(key: str, directory: Path) -> list[Path]:
    """The file of a merge search that a report reads; FileNotFoundError where it is missing."""
    _require(directory / RUN_FILE, key, "the output_dir of merge_search")
    return [directory / RUN_FILE]


def load_run(name: str, directory: Path) -> TrainingRun:
    """Reads a training run. The last line of metrics.jsonl may be incomplete: the run may be writing it.

    Raises:
        ValueError: a file is not what a training run writes, or no step was recorded.
    """
    path = directory / METRICS_FILE
    lines = _json_lines(path, may_be_torn=True)
    for number, line in enumerate(lines, 1):
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            raise ValueError(f"{path}, line {number}: step is no whole number. Give a training run's output_dir.")
    if not lines:
        raise ValueError(f"{path}: no step was recorded. Wait for the run's first lines, or leave runs.{name} out.")
    health_file = directory / HEALTH_FILE
    health = _json(health_file) if health_file.is_file() else None
    return TrainingRun(name, lines, health, _own_record(directory))


def load_evaluation(name: str, directory: Path) -> Evaluation:
    """Reads an evaluation, with per_query.jsonl and diagnostics.json where they exist."""
    units, diagnostics = directory / PER_QUERY_FILE, directory / DIAGNOSTICS_FILE
    return Evaluation(
        name,
        _entries(directory / RESULTS_FILE, _json(directory / RESULTS_FILE)),
        _entries(units, _json_lines(units)) if units.is_file() else None,
        _entries(diagnostics, _json(diagnostics)) if diagnostics.is_file() else None,
        _own_record(directory),
    )


def load_merge(name: str, directory: Path) -> MergeSearch:
    """Reads a merge search.

    Raises:
        ValueError: another program made the directory.
    """
    record = read_record(directory)
    if record is None or record.program != "merge_search" or not record.metrics.get("tried"):
        made = "nothing known" if record is None else record.program
        raise ValueError(f"merges.{name} is {directory}, made by {made}. Give the output_dir of merge_search.")
    return MergeSearch(name, record.metrics)


def _own_record(directory: Path) -> RunRecord | None:
    return read_record(directory) if (directory / RUN_FILE).is_file() else None  # not that of the directory above


def _require(path: Path, key: str, remedy: str) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{key} is {path.parent}: there is no {path.name}. Give {remedy}.")


def _existing(directory: Path, *names: str) -> list[Path]:
    return [directory / name for name in names if (directory / name).is_file()]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}). Make it again with the program that wrote it.") from None


def _json_lines(path: Path, *, may_be_torn: bool = False) -> list[Any]:
    written = path.read_text(encoding="utf-8", errors="replace").split("\n")
    numbered = [(number, line) for number, line in enumerate(written, 1) if line.strip()]
    entries = []
    for position, (number, line) in enumerate(numbered):
        try:
            entries.append(json.loads(line))
        except ValueError as error:
            if may_be_torn and position == len(numbered) - 1:
                break
            raise ValueError(f"{path}, line {number}: not JSON ({error}). Mend or delete the line.") from None
    return entries


def _entries(path: Path, values: Any) -> list[Entry]:
    if not isinstance(values, list):
        raise ValueError(f"{path}: holds no list of entries. Run evaluate again.")
    return [Entry(f"{path}, entry {number}", value) for number, value in enumerate(values, 1)]
