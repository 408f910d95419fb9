"""From the ledger to training files, in the order of the items, not in the order in which they ended.

OUTPUT/examples/000000.jsonl     rows in the trainer's format (the directory is a data path)
OUTPUT/provenance/000000.jsonl   the matching lines: item, teacher, prompts, and the row's facts
OUTPUT/rejected/REASON.jsonl     rejected items with reason, detail and rows
"""

import json
import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from data_synth.filters.near_duplicates import NearDuplicateConfig, near_duplicate
from data_synth.ledger import Ledger
from data_synth.ledger_database import FAILED
from data_synth.publish_parts import Examine, PartMaker, read_entries, state_directory
from data_synth.steps import StepProgress
from data_synth.work import Task
from qwen3emb_train.data.records import TrainingExample
from qwen3emb_train.lineage import replacing, require_apart
from qwen3emb_train.texts.near_duplicates import FirstOnes, match
from qwen3emb_train.texts.sketches import Sketches

PROGRAM = "publish"
_FAILED_FILE = "failed"


@dataclass
class PublishSummary:
    """Counts of what was written.

    Attributes:
        num_items: distinct items of the task.
        num_missing: items without an end (only if ``partial``).
        num_rows: lines in examples/.
        num_accepted: items that these rows come from.
        reasons: rejected items by reason; failed items under "failed".
    """

    num_items: int = 0
    num_missing: int = 0
    num_rows: int = 0
    num_accepted: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


def publish(
    directory: Path,
    task: Task,
    output: Path,
    *,
    model: str,
    examine: Examine | None = None,
    near_duplicates: NearDuplicateConfig | None = None,
    parts: Sequence[Callable[[], Task]] | None = None,
    processes: int = 1,
    settings: Mapping[str, Any] | None = None,
    partial: bool = False,
    rows_per_file: int = 100_000,
) -> PublishSummary:
    """Writes ``output``, atomically, from the ledgers of all processes.

    Args:
        directory: of the synthesis, as for ``run``.
        task: with the same items as for ``run``.
        output: directory to write; an earlier output is replaced unless it contains other files.
        model: the teacher's ``model``.
        examine: filters each outcome by itself. It affects the output, not the ledger, so it may change between two
            calls at no cost.
        near_duplicates: whether and how rows are compared with one another, after ``examine``; None = not.
        parts: tasks that together have the task's items in the same order; None = the task itself.
        processes: that share the parts; above 1, ``examine`` and ``parts`` run in other processes.
        settings: all that ``examine`` and the items depend on besides the ledger. Finished parts of a start that was
            killed are taken over if it is the same; None = they are not.
        partial: publish although some items have not ended.
        rows_per_file: lines per file.

    Raises:
        ValueError: items have not ended; or ``output`` contains the ledger or files that this function did not write.
    """
    require_apart(output, {"ledger": directory / "ledger"})
    comparing = near_duplicates if near_duplicates is not None and near_duplicates.enabled else None
    progress = StepProgress(f"{task.name}: publishing")
    of_output = {"task": task.name, "teacher": model, "partial": partial, "rows_per_file": rows_per_file}
    with replacing(PROGRAM, output, of_output, {}) as made, ExitStack() as opened:
        ledger = opened.enter_context(Ledger(directory, task.name, model))
        threshold = None if comparing is None else comparing.threshold
        decisive = None if settings is None else {"settings": settings, "threshold": threshold}
        state = state_directory(directory, task.name, model, decisive)
        maker = PartMaker(directory, model, parts or [lambda: task], examine, comparing, state)
        paths = maker.make(ledger, processes, progress)
        first_ones = None if threshold is None else _first_ones(paths, threshold, state, opened, progress)
        writer = _Writer(made.directory, opened, rows_per_file)
        summary = _merge(paths, writer, first_ones, model, opened, progress)
        if summary.num_missing and not partial:
            raise ValueError(
                f"{directory}: {summary.num_missing} of {summary.num_items} items of {task.name} have not ended with "
                f"{model}. Run the synthesis again to finish them, or publish with partial=true."
            )
    shutil.rmtree(state.parent)
    with suppress(OSError):  # other tasks' parts
        state.parent.parent.rmdir()
    return summary


def _first_ones(
    paths: Sequence[Path], threshold: float, state: Path, opened: ExitStack, progress: StepProgress
) -> FirstOnes:
    sketches = Sketches(paths, threshold)
    opened.callback(sketches.close)
    matches = match(sketches, state, lambda step, done, total: progress.show(f"near-duplicates, {step}", done, total))
    opened.callback(matches.close)
    return FirstOnes(sketches, matches)


def _merge(
    paths: Sequence[Path],
    writer: "_Writer",
    first_ones: FirstOnes | None,
    model: str,
    opened: ExitStack,
    progress: StepProgress,
) -> PublishSummary:
    """Writes what the parts hold, in order: of items with one key, and of rows near to one another, the first."""
    summary, is_new, row = PublishSummary(), _key_memory(opened), 0
    for entry in read_entries(paths):
        queries = entry.get("compared", ())
        row += len(queries)
        if not is_new(entry["item"]):
            continue
        summary.num_items += 1
        progress.show("items written", summary.num_items)
        kind = entry["kind"]
        said = {"item": entry["item"], "group": entry["group"], "document": entry["document"], "teacher": model}
        if kind == "missing":
            summary.num_missing += 1
            continue
        if kind == FAILED:
            summary.reasons[_FAILED_FILE] += 1
            writer.reject(_FAILED_FILE, {**said, **entry["body"]})
            continue
        if first_ones is not None:
            for number, query in enumerate(queries, start=row - len(queries)):
                if (near := first_ones.offer(number)) is not None:
                    reason = near_duplicate(near[1], near[0], query)
                    kind, entry["reason"], entry["detail"] = "rejected", reason.name, reason.detail
                    entry["rows"] = entry["before"]
                    break
        origin = {"item": entry["item"], "group": entry["group"], "teacher": model, "prompts": entry["prompts"]}
        if kind == "accepted":
            summary.num_accepted += 1
            summary.num_rows += len(entry["rows"])
            writer.accept(entry["rows"], entry["facts"], origin)
        else:
            summary.reasons[entry["reason"]] += 1
            fields = {"reason": entry["reason"], "detail": entry["detail"], "rows": entry["rows"]}
            writer.reject(entry["reason"], {**said, **origin, **fields})
    return summary


def read_published(output: Path) -> Iterator[tuple[TrainingExample, dict[str, Any]]]:
    """Each row with its provenance."""
    for path in sorted((output / "examples").glob("*.jsonl")):
        with path.open(encoding="utf-8") as rows, (output / "provenance" / path.name).open(encoding="utf-8") as origins:
            for row, origin in zip(rows, origins, strict=True):
                yield TrainingExample.from_json(json.loads(row)), json.loads(origin)


def read_rejected(output: Path) -> Iterator[dict[str, Any]]:
    """Each rejected item."""
    for path in sorted((output / "rejected").glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def _key_memory(opened: ExitStack) -> Callable[[str], bool]:
    """Whether a key comes for the first time. The keys are in a temporary file, not in memory."""
    seen = opened.enter_context(closing(sqlite3.connect("", isolation_level=None)))
    seen.execute("CREATE TABLE seen (key TEXT PRIMARY KEY) WITHOUT ROWID")
    seen.execute("BEGIN")  # never committed: the file goes with the connection
    return lambda key: bool(seen.execute("INSERT OR IGNORE INTO seen VALUES (?)", (key,)).rowcount)


class _Writer:
    """The three kinds of files below a directory."""

    def __init__(self, directory: Path, files: ExitStack, rows_per_file: int) -> None:
        self._directory, self._files, self._rows_per_file = directory, files, rows_per_file
        self._rejected: dict[str, TextIO] = {}
        self._pair: tuple[TextIO, TextIO] | None = None
        self._num_rows = 0
        for name in ("examples", "provenance", "rejected"):
            (directory / name).mkdir()

    def accept(self, rows: Sequence[dict[str, Any]], facts: Sequence[dict[str, Any]], origin: dict[str, Any]) -> None:
        for row, row_facts in zip(rows, facts or ({},) * len(rows), strict=True):
            examples, provenance = self._next_files()
            _write(examples, row)
            _write(provenance, {**row_facts, **origin})

    def reject(self, reason: str, line: dict[str, Any]) -> None:
        # Reasons are names from our own code; if one ever contains a document's text, it must not name a file.
        name = reason if re.fullmatch(r"[a-z0-9_]{1,64}", reason) else "other"
        if name not in self._rejected:
            self._rejected[name] = self._open(f"rejected/{name}.jsonl")
        _write(self._rejected[name], line)

    def _next_files(self) -> tuple[TextIO, TextIO]:
        number, place = divmod(self._num_rows, self._rows_per_file)
        self._num_rows += 1
        if self._pair is None or place == 0:
            for file in self._pair or ():
                file.close()
            self._pair = self._open(f"examples/{number:06d}.jsonl"), self._open(f"provenance/{number:06d}.jsonl")
        return self._pair

    def _open(self, name: str) -> TextIO:
        return self._files.enter_context((self._directory / name).open("w", encoding="utf-8", newline="\n"))


def _write(file: TextIO, row: dict[str, Any]) -> None:
    text = json.dumps(row, ensure_ascii=False)
    # Facts and details are not validated as rows are; an unpaired surrogate in them must not end the run.
    file.write(text.encode("utf-8", "replace").decode() + "\n")
