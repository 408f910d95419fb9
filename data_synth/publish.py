"""From the ledger to training files, in the order of the items, not in the order in which they ended.

OUTPUT/examples/000000.jsonl     rows in the trainer's format (the directory is a data path)
OUTPUT/provenance/000000.jsonl   the matching lines: item, teacher, prompts, and the row's facts
OUTPUT/rejected/REASON.jsonl     rejected items with reason, detail and rows
"""

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from data_synth.ledger import Ledger
from data_synth.ledger_database import FAILED
from data_synth.outcomes import from_record
from data_synth.work import Accepted, Outcome, Task, WorkItem
from qwen3emb_train.data.records import TrainingExample
from qwen3emb_train.lineage import replacing, require_apart

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
    examine: Callable[[WorkItem, Outcome], Outcome] | None = None,
    partial: bool = False,
    rows_per_file: int = 100_000,
) -> PublishSummary:
    """Writes ``output``, atomically, from the ledgers of all processes.

    Args:
        directory: of the synthesis, as for ``run``.
        task: with the same items as for ``run``.
        output: directory to write; an earlier output is replaced unless it contains other files.
        model: the teacher's ``model``.
        examine: filters each outcome, in the order of the items and in one process, so it may be stateful (queries
            seen before, ...). It affects the output, not the ledger, so it may change between two calls at no cost.
        partial: publish although some items have not ended.
        rows_per_file: lines per file.

    Raises:
        ValueError: items have not ended; or ``output`` contains the ledger or files that this function did not write.
    """
    require_apart(output, {"ledger": directory / "ledger"})
    summary = PublishSummary()
    settings = {"task": task.name, "teacher": model, "partial": partial, "rows_per_file": rows_per_file}
    with replacing(PROGRAM, output, settings, {}) as made, ExitStack() as opened:
        ledger = opened.enter_context(Ledger(directory, task.name, model))
        writer = _Writer(made.directory, opened, rows_per_file)
        for item in _without_repeats(task.items(), opened):
            summary.num_items += 1
            end = ledger.end(item)
            if end is None:
                summary.num_missing += 1
                continue
            if end.kind == FAILED:
                summary.reasons[_FAILED_FILE] += 1
                writer.reject(_FAILED_FILE, {**_origin(item, model), **end.body})
                continue
            outcome = from_record(end)
            if examine is not None:
                outcome = examine(item, outcome)
            origin = {"item": item.key, "group": item.group, "teacher": model, "prompts": end.body["prompts"]}
            if isinstance(outcome, Accepted):
                summary.num_accepted += 1
                summary.num_rows += len(outcome.rows)
                writer.accept(outcome, origin)
            else:
                summary.reasons[outcome.reason] += 1
                rows = [row.to_json() for row in outcome.rows]
                fields = {"reason": outcome.reason, "detail": outcome.detail, "rows": rows}
                writer.reject(outcome.reason, {**_origin(item, model), **origin, **fields})
        if summary.num_missing and not partial:
            raise ValueError(
                f"{directory}: {summary.num_missing} of {summary.num_items} items of {task.name} have not ended with "
                f"{model}. Run the synthesis again to finish them, or publish with partial=true."
            )
    return summary


def _origin(item: WorkItem, model: str) -> dict[str, Any]:
    """What a line about an item without rows says of it."""
    return {"item": item.key, "group": item.group, "document": item.document, "teacher": model}


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


def _without_repeats(items: Iterable[WorkItem], opened: ExitStack) -> Iterator[WorkItem]:
    """The first of the items with each key. The keys are in a temporary file, not in memory."""
    seen = opened.enter_context(closing(sqlite3.connect("", isolation_level=None)))
    seen.execute("CREATE TABLE seen (key TEXT PRIMARY KEY) WITHOUT ROWID")
    seen.execute("BEGIN")  # never committed: the file goes with the connection
    for item in items:
        if seen.execute("INSERT OR IGNORE INTO seen VALUES (?)", (item.key,)).rowcount:
            yield item


class _Writer:
    """The three kinds of files below a directory."""

    def __init__(self, directory: Path, files: ExitStack, rows_per_file: int) -> None:
        self._directory, self._files, self._rows_per_file = directory, files, rows_per_file
        self._rejected: dict[str, TextIO] = {}
        self._pair: tuple[TextIO, TextIO] | None = None
        self._num_rows = 0
        for name in ("examples", "provenance", "rejected"):
            (directory / name).mkdir()

    def accept(self, outcome: Accepted, origin: dict[str, Any]) -> None:
        facts = outcome.facts or ({},) * len(outcome.rows)
        for row, row_facts in zip(outcome.rows, facts, strict=True):
            examples, provenance = self._next_files()
            _write(examples, row.to_json())
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
