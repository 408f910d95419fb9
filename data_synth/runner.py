"""Runs a task's items through a teacher concurrently, each exactly once.

At most ``window`` items are in progress. That bounds memory and the cost of a crash: replies are recorded as they
arrive, so a restart repeats only the requests in flight.
"""

import asyncio
import logging
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from data_synth.ledger import FAILED, End, Ledger, RecordedCall, process_of
from data_synth.ledger_writer import LedgerWriter
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
    """Runs every item of this process's share to its end.

    SIGTERM and SIGINT stop it: no new item is started, those in progress have ``grace_seconds`` to end.

    Args:
        task: its ``items`` are read in a separate thread, a few at a time.
        teacher: that answers the requests.
        directory: of the whole synthesis; the ledger is in ``ledger/TASK`` below it.
        window: maximum number of items in progress; well above the number of concurrent requests of the servers, or
            they idle.
        process_index, num_processes: the share. A group belongs to one process, by its hash.
        retry_failed: whether items that failed earlier are tried again.
        max_failures_in_a_row: the run ends after this many items without a reply in between, since then the cause is
            not in the items. None of them counts as failed.
        grace_seconds: for items in progress after a signal.
        on_outcome: receives each outcome before it is recorded and returns the one to record, such as a filter that
            turns ``Accepted`` into ``Rejected``. Pure.
        progress: displays the summary while it grows.

    Returns:
        What this call did.

    Raises:
        TeacherError: the teacher is no longer available. The ledger is intact; a later start continues.
        ValueError: the share does not exist, another process works on it, or the ledger is damaged.
        OSError: the ledger cannot be written (the disk is full, ...).
    """
    if window < 1 or not 0 <= process_index < num_processes:
        raise ValueError(
            f"window={window}, process_index={process_index}, num_processes={num_processes}: window is at least 1 and "
            "process_index counts from 0 to num_processes - 1. Change them."
        )
    ledger = await asyncio.to_thread(
        Ledger, directory, task.name, teacher.model,
        process_index=process_index, num_processes=num_processes, retry_failed=retry_failed,
    )  # fmt: skip
    with ledger:
        runner = _ItemRunner(task, teacher, ledger, on_outcome, max_failures_in_a_row)
        runner.is_mine = lambda item: num_processes == 1 or process_of(item, num_processes) == process_index
        started = time.perf_counter()
        displaying = asyncio.create_task(progress.show(runner.summary)) if progress is not None else None
        try:
            with _stopped_by_signals(runner.stop):
                await _work(runner, window, grace_seconds)
        finally:
            await runner.close()
            runner.summary.seconds = time.perf_counter() - started
            if displaying is not None:
                displaying.cancel()
                await asyncio.wait([displaying])
    return runner.summary


async def _work(runner: "_ItemRunner", window: int, grace_seconds: float) -> None:
    workers = [asyncio.create_task(runner.work()) for _ in range(window)]
    working: asyncio.Future[Any] = asyncio.gather(*workers)
    working.add_done_callback(lambda done: done.cancelled() or done.exception())  # retrieved, whatever it is
    stopping: asyncio.Future[Any] = asyncio.create_task(runner.stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            runner.summary.is_interrupted = True
            log.warning("stopping: items in progress have %g s to end", grace_seconds)
            await asyncio.wait({working}, timeout=grace_seconds)
        if working.done():
            working.result()
            if not runner.summary.is_interrupted:
                await runner.settle()
    finally:
        stopping.cancel()
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


class _OpenItem(NamedTuple):
    """An item that has not ended, and the replies that earlier runs recorded for it."""

    item: WorkItem
    recorded: list[RecordedCall]


class _ItemRunner:
    """The state of a run."""

    def __init__(
        self,
        task: Task,
        teacher: Teacher,
        ledger: Ledger,
        on_outcome: Callable[[WorkItem, Outcome], Outcome] | None,
        max_failures_in_a_row: int,
    ) -> None:
        self.summary = RunSummary()
        self.stop = asyncio.Event()
        self.is_mine: Callable[[WorkItem], bool] = lambda item: True
        self._task, self._teacher = task, teacher
        self._ledger, self._writer = ledger, LedgerWriter(ledger)
        self._on_outcome = on_outcome
        self._max_failures_in_a_row = max_failures_in_a_row
        self._given_up: list[tuple[WorkItem, TeacherError]] = []  # since the teacher's last reply
        self._items = task.items()
        self._ahead: deque[_OpenItem] = deque()
        self._reading = asyncio.Lock()
        self._under_way: set[str] = set()  # keys

    async def work(self) -> None:
        """One of the window's workers."""
        while (open_item := await self._next()) is not None:
            item, recorded = open_item
            try:
                await self._run_to_end(item, deque(recorded))
            except Exception as error:
                error.add_note(f"while working on item {item.key} of {self._task.name}")
                raise

    async def settle(self) -> None:
        """At the end: items that were given up after the last reply have failed, unless there never was a reply."""
        if self._given_up and not self.summary.num_calls and not self.summary.num_done_before:
            raise self._given_up[0][1]
        await self._record_given_up()

    async def close(self) -> None:
        """Waits until all records are on disk."""
        await self._writer.close()

    async def _next(self) -> _OpenItem | None:
        async with self._reading:
            if not self._ahead:
                self._ahead.extend(await asyncio.to_thread(self._read_ahead))
            return self._ahead.popleft() if self._ahead and not self.stop.is_set() else None

    def _read_ahead(self) -> list[_OpenItem]:
        return list(islice(self._open_items(), _READ_AHEAD))

    def _open_items(self) -> Iterator[_OpenItem]:
        for item in self._items:
            if self.stop.is_set():
                return
            if not self.is_mine(item):
                continue
            # The order of these checks matters: an item leaves the set only after its end was recorded.
            if item.key in self._under_way:
                self.summary.num_repeated += 1
            elif self._ledger.has_ended(item):
                self.summary.num_done_before += 1
            else:
                self._under_way.add(item.key)
                yield _OpenItem(item, self._ledger.calls(item))

    async def _run_to_end(self, item: WorkItem, recorded: deque[RecordedCall]) -> None:
        prompts: list[str] = []
        try:
            outcome = await self._run_steps(item, prompts, recorded)
        except TeacherGone:
            raise
        except TeacherError as error:
            if isinstance(error, TeacherRefusal) and error.is_fatal:
                raise
            self._given_up.append((item, error))
            if len(self._given_up) >= self._max_failures_in_a_row:
                error.add_note(f"{len(self._given_up)} items in a row got no reply")
                raise
            return
        if self._on_outcome is not None:
            outcome = self._on_outcome(item, outcome)
        outcome = checked(outcome)
        await self._record_end(item, to_record(outcome, prompts))
        if isinstance(outcome, Accepted):
            self.summary.num_accepted += 1
            self.summary.num_rows += len(outcome.rows)
        else:
            self.summary.num_rejected += 1
            self.summary.reasons[outcome.reason] += 1

    async def _run_steps(self, item: WorkItem, prompts: list[str], recorded: deque[RecordedCall]) -> Outcome:
        """Runs the item's steps: on the recorded replies as far as they go, then on the teacher's."""
        steps = self._task.steps(item)
        try:
            request = next(steps)
            while True:
                if request.prompt not in prompts:
                    prompts.append(request.prompt)
                request = steps.send(await self._reply(item, request, recorded))
        except StopIteration as end:
            return end.value

    async def _reply(self, item: WorkItem, request: Request, recorded: deque[RecordedCall]) -> Reply:
        request_digest = request_key(self._teacher.model, request)
        if recorded and recorded[0].request == request_digest:
            self.summary.num_replayed += 1
            return recorded.popleft().reply
        recorded.clear()  # the steps differ from those that these replies were recorded for
        if not request.affinity and item.group:
            request = replace(request, affinity=item.group)
        reply = await self._teacher.complete(request)
        self._writer.record_call(item, RecordedCall(request_digest, request.prompt, reply))
        self.summary.num_calls += 1
        self.summary.prompt_tokens += reply.prompt_tokens
        self.summary.completion_tokens += reply.completion_tokens
        if self._given_up:
            await self._record_given_up()
        return reply

    async def _record_given_up(self) -> None:
        """The teacher responds, so the items without a reply are at fault: they have failed."""
        given_up, self._given_up = self._given_up, []
        for item, error in given_up:
            reason = "refused" if isinstance(error, TeacherRefusal) else "unavailable"
            await self._record_end(item, End(FAILED, {"reason": reason, "detail": str(error)[:LONGEST_DETAIL]}))
            self.summary.num_failed += 1
            self.summary.reasons[reason] += 1

    async def _record_end(self, item: WorkItem, end: End) -> None:
        await self._writer.record_end(item, end)
        self._under_way.discard(item.key)


@contextmanager
def _stopped_by_signals(stop: asyncio.Event) -> Iterator[None]:
    """The first signal requests a stop; a second one has its default effect."""
    loop = asyncio.get_running_loop()
    installed: list[signal.Signals] = []

    def ask() -> None:
        stop.set()
        for number in installed:
            loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, ask)
        except (ValueError, RuntimeError):  # not the main thread
            break
        installed.append(number)
    try:
        yield
    finally:
        for number in installed:
            loop.remove_signal_handler(number)
