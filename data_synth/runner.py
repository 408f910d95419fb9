"""Runs a task's items through a teacher concurrently, each exactly once.

At most ``window`` items are in progress. That bounds memory and the cost of a crash: replies are recorded as they
arrive, so a restart repeats only the requests in flight.
"""

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_synth.brake import Brake, BrakeConfig
from data_synth.item_runner import ItemRunner
from data_synth.ledger import Ledger, process_of
from data_synth.progress import Progress
from data_synth.run_summary import RunSummary
from data_synth.teachers.teacher import Teacher, TeacherInRounds
from data_synth.work import Outcome, Request, Task, WorkItem

log = logging.getLogger(__name__)


async def run(
    task: Task,
    teacher: Teacher,
    directory: Path,
    *,
    window: int = 512,
    process_index: int = 0,
    num_processes: int = 1,
    retry_failed: bool = False,
    retry_rejected: Collection[str] = (),
    max_failures_in_a_row: int = 32,
    max_refusals_in_a_row: int = 256,
    brake: BrakeConfig | None = None,
    limit_of: Callable[[Request], int | None] = lambda request: request.sampling.max_tokens,
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
        retry_rejected: reasons of rejection whose items are asked again; "all" stands for every reason.
        max_failures_in_a_row, max_refusals_in_a_row: after so many items that got no reply, or were refused, without a
            reply in between, a request that was answered before is asked again. If it is refused as well, or there is
            none, the cause is not in the items: the run ends, and none of them counts as failed.
        brake: ends the run when too few items are accepted; None = never.
        limit_of: the limit of a reply's tokens that a request is sent with.
        grace_seconds: for items in progress after a signal.
        on_outcome: receives each outcome before it is recorded and returns the one to record, such as a filter that
            turns ``Accepted`` into ``Rejected``. Pure.
        progress: displays the summary while it grows.

    Returns:
        What this call did.

    Raises:
        TeacherError: the teacher is no longer available. The ledger is intact; a later start continues.
        UselessRepliesError: of the brake.
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
        retry_rejected=retry_rejected,
    )  # fmt: skip
    with ledger:
        if isinstance(teacher, TeacherInRounds):
            teacher.begin(ledger.num_replies)
        counting = Brake(task.name, brake or BrakeConfig(num_items=0))
        limits = max_failures_in_a_row, max_refusals_in_a_row
        runner = ItemRunner(task, teacher, ledger, on_outcome, counting, limit_of, *limits)
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


async def _work(runner: ItemRunner, window: int, grace_seconds: float) -> None:
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
