"""The first half of publishing: each item's end, filtered and sketched, in parts that a restart finds again.

A part holds the items of some passages. Parts are made by any number of processes and kept until the output is
written; they serve only while ledger, passages and settings are those they were made from.
"""

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_synth.examination import Examined
from data_synth.filters.candidates import shorten
from data_synth.filters.near_duplicates import NearDuplicateConfig, compared_text
from data_synth.ledger import Ledger
from data_synth.ledger_database import FAILED, End
from data_synth.outcomes import from_record
from data_synth.steps import StepProgress
from data_synth.work import Accepted, Outcome, Task, WorkItem
from qwen3emb_train.lineage import value_digest
from qwen3emb_train.texts.overlap import ComparedText
from qwen3emb_train.texts.sketches import SketchWriter

ITEMS_FILE = "items.jsonl"
Examine = Callable[[WorkItem, Outcome], Outcome | Examined]


@dataclass(frozen=True)
class PartMaker:
    """Makes the parts of one task.

    Attributes:
        directory: of the synthesis.
        model: the teacher's.
        tasks: one for each part, with the part's items.
        examine: filters an item's outcome by itself.
        near_duplicates: None = rows are not compared.
        state: where the parts are written.
    """

    directory: Path
    model: str
    tasks: Sequence[Callable[[], Task]]
    examine: Examine | None
    near_duplicates: NearDuplicateConfig | None
    state: Path

    def path(self, number: int) -> Path:
        """The directory of a part; it exists if and only if the part is whole."""
        return self.state / f"part-{number:06d}"

    def make(self, ledger: Ledger, processes: int, progress: StepProgress) -> list[Path]:
        """Makes those that are missing, in this process if ``processes`` is 1.

        Args:
            ledger: all shares, which it locks; other processes open them anew.
            processes: that share the parts.
            progress: is told of each part.

        Raises:
            RuntimeError: a process ended early.
        """
        self.state.mkdir(parents=True, exist_ok=True)
        paths = [self.path(number) for number in range(len(self.tasks))]
        missing = [number for number, path in enumerate(paths) if not path.is_dir()]
        if processes == 1 or len(missing) < 2:
            for number in missing:
                progress.show("filters", sum(path.is_dir() for path in paths), len(paths))
                self._make(number, ledger)
            return paths
        context = multiprocessing.get_context("fork")  # filters and tasks hold what cannot be sent
        parent = os.getpid()
        workers = [
            context.Process(target=self._work, args=(missing[share::processes], parent)) for share in range(processes)
        ]
        for worker in workers:
            worker.start()
        try:
            while any(worker.is_alive() for worker in workers):
                for worker in workers:
                    worker.join(0.2)
                progress.show("filters", sum(path.is_dir() for path in paths), len(paths))
        finally:
            for worker in workers:
                worker.kill()
                worker.join()
        if any(worker.exitcode for worker in workers) or not all(path.is_dir() for path in paths):
            raise RuntimeError("a process that filters rows ended early (out of memory?). The same command continues.")
        return paths

    def _work(self, numbers: Sequence[int], parent: int) -> None:
        task = self.tasks[0]()
        with Ledger(self.directory, task.name, self.model, is_locked=True) as ledger:
            for number in numbers:
                self._make(number, ledger, parent)

    def _make(self, number: int, ledger: Ledger, parent: int | None = None) -> None:
        writing = self.state / f".writing-{number:06d}-{os.getpid()}"
        shutil.rmtree(writing, ignore_errors=True)
        writing.mkdir(parents=True)
        with ExitStack() as opened:
            sketches = None
            if self.near_duplicates is not None:
                sketches = SketchWriter(writing, self.near_duplicates.threshold)
                opened.callback(sketches.close)
            file = opened.enter_context((writing / ITEMS_FILE).open("w", encoding="utf-8", newline="\n"))
            for item in self.tasks[number]().items():
                if parent is not None and os.getppid() != parent:
                    os._exit(1)  # killed, and the same command may already be running again
                file.write(json.dumps(self._entry(item, ledger.end(item), sketches)) + "\n")
        os.rename(writing, self.path(number))

    def _entry(self, item: WorkItem, end: End | None, sketches: SketchWriter | None) -> dict[str, Any]:
        """What the second half needs of an item."""
        entry: dict[str, Any] = {"item": item.key, "group": item.group, "document": item.document}
        if end is None:
            return {**entry, "kind": "missing"}
        if end.kind == FAILED:
            return {**entry, "kind": FAILED, "body": end.body}
        before = from_record(end)
        examined = before if self.examine is None else self.examine(item, before)
        if not isinstance(examined, Examined):
            examined = Examined(examined, len(examined.rows) if isinstance(examined, Accepted) else 0)
        outcome, entry["prompts"] = examined.outcome, end.body["prompts"]
        entry["rows"] = [row.to_json() for row in outcome.rows]
        if sketches is not None and examined.num_compared:
            compared = before.rows[: examined.num_compared]
            for row in compared:
                text = compared_text(item.task, row)
                sketches.add(ComparedText(text), shorten(text))
            entry["compared"] = [shorten(row.query) for row in compared]
            entry["before"] = [row.to_json() for row in before.rows]
        if isinstance(outcome, Accepted):
            return {**entry, "kind": "accepted", "facts": [dict(facts) for facts in outcome.facts]}
        return {**entry, "kind": "rejected", "reason": outcome.reason, "detail": outcome.detail}


def read_entries(parts: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The items of all parts in order."""
    for part in parts:
        with (part / ITEMS_FILE).open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def state_directory(directory: Path, task: str, model: str, settings: Mapping[str, Any] | None) -> Path:
    """Where the parts made from this ledger and these settings are; others of the task are removed.

    Args:
        directory: of the synthesis; its ledger is locked.
        task: its name.
        model: the teacher's.
        settings: all that decides how items are made and filtered; None = unknown, nothing is taken over.
    """
    states = directory / "publishing" / task
    ledger = [
        (path.name, status.st_size, status.st_mtime_ns, status.st_ino)
        for path in sorted((directory / "ledger" / task).glob("*.sqlite"))
        for status in [path.stat()]
    ]
    own = states / value_digest({"ledger": ledger, "model": model, "settings": settings})[:16]
    for other in states.iterdir() if states.is_dir() else ():
        if settings is None or other != own:
            shutil.rmtree(other)
    return own
