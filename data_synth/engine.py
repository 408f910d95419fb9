"""Drives a task's items through a teacher: each to one end, many at a time, none twice.

At most ``window`` items are under way. That bounds memory, and it bounds what a crash can cost: replies are in the
ledger as soon as they are on the disk, so a restart asks again only what was under way.
"""

import asyncio
import hashlib
import logging
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from data_synth.ledger.lines import CALL, FAILED, item_key
from data_synth.ledger.reader import LedgerReader, RecordedCall
from data_synth.ledger.writer import LedgerWriter, open_ledger
from data_synth.outcomes import LONGEST_DETAIL, checked, to_record
from data_synth.progress import Progress
from data_synth.run_summary import RunSummary
from data_synth.teachers.teacher import Teacher, TeacherError, TeacherGone, TeacherRefusal, request_key
from data_synth.work import Accepted, Outcome, Reply, Request, Task, WorkItem

log = logging.getLogger(__name__)

_READ_AHEAD = 64  # items read from the task at once


async def run(
    task: Task,
    teacher: Teacher,
    directory: Path,
    *,
    window: int = 512,
    process_index: int = 0,
    num_processes: int = 1,
    retry_failed: bool = False,
    max_failures_in_a_row: int = 32,
    grace_seconds: float = 20.0,
    on_outcome: Callable[[WorkItem, Outcome], Outcome] | None = None,
    progress: Progress | None = None,
) -> RunSummary:
    """Brings every item of this process's share to its end.

    SIGTERM and SIGINT stop it: no new item is begun, those under way have ``grace_seconds`` to end.

    Args:
        task: its ``items`` are read in a thread of their own, a few at a time.
        teacher: who is asked.
        directory: of the whole synthesis; the ledger is in ``ledger/TASK`` below it.
        window: items under way at most. Well above the requests that servers take at once, or they wait for us.
        process_index, num_processes: the share. A group belongs to one process, by its hash.
        retry_failed: whether items that failed earlier are tried again.
        max_failures_in_a_row: after so many items that the teacher gave up on, without a reply between them, the run
            ends: then it is not the items. None of them counts as failed.
        grace_seconds: see above.
        on_outcome: sees each outcome before it is recorded and returns what is recorded, such as a filter that turns
            ``Accepted`` into ``Rejected``. Pure: what it says is kept.
        progress: is shown the summary as it grows.

    Raises:
        TeacherError: nothing more is to be had from the teacher. The ledger is whole; a later start continues.
        ValueError: the share does not exist, or another process works on it.
    """
    if window < 1 or not 0 <= process_index < num_processes:
        raise ValueError(
            f"window={window}, process_index={process_index}, num_processes={num_processes}: window is at least 1 and "
            "process_index counts from 0 to num_processes - 1. Mend them."
        )
    reader, writer = await asyncio.to_thread(
        open_ledger, ledger_directory(directory, task), process_index, num_processes, retry_failed=retry_failed
    )
    engine = _ItemRunner(task, teacher, reader, writer, on_outcome, max_failures_in_a_row)
    engine.is_mine = lambda item: num_processes == 1 or process_of(item, num_processes) == process_index
    started = time.perf_counter()
    showing = asyncio.create_task(progress.show(engine.summary)) if progress is not None else None
    try:
        with _stopped_by_signals(engine.stop):
            await _work(engine, window, grace_seconds)
    finally:
        await writer.close()
        engine.summary.seconds = time.perf_counter() - started
        if showing is not None:
            showing.cancel()
            await asyncio.wait([showing])
    return engine.summary


def ledger_directory(directory: Path, task: Task) -> Path:
    return directory / "ledger" / task.name


def process_of(item: WorkItem, num_processes: int) -> int:
    """Which process does the item: the same on every machine, and one for all items of a group."""
    return int.from_bytes(hashlib.sha256((item.group or item.key).encode()).digest()[:8]) % num_processes


async def _work(engine: "_ItemRunner", window: int, grace_seconds: float) -> None:
    workers = [asyncio.create_task(engine.work()) for _ in range(window)]
    working: asyncio.Future[Any] = asyncio.gather(*workers)
    working.add_done_callback(lambda done: done.cancelled() or done.exception())  # looked at, whatever it is
    stopping: asyncio.Future[Any] = asyncio.create_task(engine.stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            engine.summary.is_interrupted = True
            log.warning("stopping: items under way have %g s to end", grace_seconds)
            await asyncio.wait({working}, timeout=grace_seconds)
        if working.done():
            working.result()
            if not engine.summary.is_interrupted:
                await engine.settle()
    finally:
        stopping.cancel()
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


class _ItemRunner:
    """The state of a run."""

    def __init__(
        self,
        task: Task,
        teacher: Teacher,
        reader: LedgerReader,
        writer: LedgerWriter,
        on_outcome: Callable[[WorkItem, Outcome], Outcome] | None,
        max_failures_in_a_row: int,
    ) -> None:
        self.summary = RunSummary()
        self.stop = asyncio.Event()
        self.is_mine: Callable[[WorkItem], bool] = lambda item: True
        self._task, self._teacher = task, teacher
        self._reader, self._writer = reader, writer
        self._on_outcome = on_outcome
        self._max_failures_in_a_row = max_failures_in_a_row
        self._given_up: list[tuple[bytes, TeacherError]] = []  # since the teacher's last reply
        self._items = task.items()
        self._ahead: deque[WorkItem] = deque()
        self._reading = asyncio.Lock()
        self._under_way: set[bytes] = set()

    async def work(self) -> None:
        """One of the window's workers."""
        while (item := await self._next()) is not None:
            key = item_key(self._teacher.model, item.key)
            try:
                await self._bring_to_end(item, key)
            except Exception as error:
                error.add_note(f"while working on item {item.key} of {self._task.name}")
                raise

    async def settle(self) -> None:
        """At the end: items that were given up after the last reply have failed, if there ever was a reply."""
        if self._given_up and not self.summary.num_calls and not self.summary.num_done_before:
            raise self._given_up[0][1]
        await self._record_given_up()

    async def _next(self) -> WorkItem | None:
        async with self._reading:
            if not self._ahead:
                self._ahead.extend(await asyncio.to_thread(self._read_ahead))
            return self._ahead.popleft() if self._ahead and not self.stop.is_set() else None

    def _read_ahead(self) -> list[WorkItem]:
        return list(islice(self._open_items(), _READ_AHEAD))

    def _open_items(self) -> Iterator[WorkItem]:
        for item in self._items:
            if self.stop.is_set():
                return
            if not self.is_mine(item):
                continue
            key = item_key(self._teacher.model, item.key)
            # In this order: an item leaves the set only after it has got its end.
            if key in self._under_way:
                self.summary.num_repeated += 1
            elif self._reader.has_ended(key):
                self.summary.num_done_before += 1
            else:
                self._under_way.add(key)
                yield item

    async def _bring_to_end(self, item: WorkItem, key: bytes) -> None:
        prompts: list[str] = []
        try:
            outcome = await self._drive(item, key, prompts)
        except TeacherGone:
            raise
        except TeacherError as error:
            if isinstance(error, TeacherRefusal) and error.is_fatal:
                raise
            self._given_up.append((key, error))
            if len(self._given_up) >= self._max_failures_in_a_row:
                error.add_note(f"{len(self._given_up)} items in a row got no reply")
                raise
            return
        if self._on_outcome is not None:
            outcome = self._on_outcome(item, outcome)
        outcome = checked(outcome)
        await self._record(key, *to_record(outcome, prompts))
        if isinstance(outcome, Accepted):
            self.summary.num_accepted += 1
            self.summary.num_rows += len(outcome.rows)
        else:
            self.summary.num_rejected += 1
            self.summary.reasons[outcome.reason] += 1

    async def _drive(self, item: WorkItem, key: bytes, prompts: list[str]) -> Outcome:
        """Runs the item's steps: on the recorded replies as far as they go, then on the teacher's."""
        recorded = deque(self._reader.take_calls(key))
        steps = self._task.steps(item)
        try:
            request = next(steps)
            while True:
                if request.prompt not in prompts:
                    prompts.append(request.prompt)
                request = steps.send(await self._reply(item, key, request, recorded))
        except StopIteration as end:
            return end.value

    async def _reply(self, item: WorkItem, key: bytes, request: Request, recorded: deque[RecordedCall]) -> Reply:
        request_digest = request_key(self._teacher.model, request)
        if recorded and recorded[0].request == request_digest:
            self.summary.num_replayed += 1
            return recorded.popleft().reply
        recorded.clear()  # the steps took another way than when these replies were bought
        if not request.affinity and item.group:
            request = replace(request, affinity=item.group)
        reply = await self._teacher.complete(request)
        self._writer.append(CALL, key, {"request": request_digest, "prompt": request.prompt, **_fields(reply)})
        self.summary.num_calls += 1
        self.summary.prompt_tokens += reply.prompt_tokens
        self.summary.completion_tokens += reply.completion_tokens
        if self._given_up:
            await self._record_given_up()
        return reply

    async def _record_given_up(self) -> None:
        """The teacher answers, so those it gave no answer to have failed on their own account."""
        given_up, self._given_up = self._given_up, []
        for key, error in given_up:
            reason = "refused" if isinstance(error, TeacherRefusal) else "unavailable"
            await self._record(key, FAILED, {"reason": reason, "detail": str(error)[:LONGEST_DETAIL]})
            self.summary.num_failed += 1
            self.summary.reasons[reason] += 1

    async def _record(self, key: bytes, kind: bytes, body: dict[str, Any]) -> None:
        await asyncio.shield(self._writer.append(kind, key, body))
        self._reader.mark_ended(key)
        self._under_way.discard(key)


def _fields(reply: Reply) -> dict[str, Any]:
    return {
        "text": reply.text, "finish_reason": reply.finish_reason,
        "prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens,
    }  # fmt: skip


@contextmanager
def _stopped_by_signals(stop: asyncio.Event) -> Iterator[None]:
    """The first signal asks to stop; a second one has its ordinary effect."""
    loop = asyncio.get_running_loop()
    installed: list[signal.Signals] = []

    def ask() -> None:
        stop.set()
        for number in installed:
            loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, ask)
        except (ValueError, RuntimeError):  # not the main thread: whoever owns it decides
            break
        installed.append(number)
    try:
        yield
    finally:
        for number in installed:
            loop.remove_signal_handler(number)
