"""The state of a run: takes items to their end, each once, on recorded replies first and then on the teacher's."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

from data_synth.brake import Brake
from data_synth.given_up import GivenUp
from data_synth.ledger import Ledger
from data_synth.ledger_database import FAILED, OK, End, RecordedCall
from data_synth.ledger_writer import LedgerWriter
from data_synth.outcomes import LONGEST_DETAIL, checked, to_record
from data_synth.run_summary import RunSummary
from data_synth.teachers.teacher import ReplyLaterError, Teacher, TeacherError, TeacherGone, TeacherRefusal, request_key
from data_synth.work import Accepted, Outcome, Reply, Request, Task, WorkItem

_READ_AHEAD = 64  # items read from the task at once


class ItemRunner:
    """Shared by the workers of a run.

    Args:
        task: whose items are run.
        teacher: that answers.
        ledger: of this process's share.
        on_outcome: see ``runner.run``.
        brake: that counts the outcomes.
        limit_of: of a reply's tokens, for a request.
        max_failures, max_refusals: see ``GivenUp``.
    """

    def __init__(
        self,
        task: Task,
        teacher: Teacher,
        ledger: Ledger,
        on_outcome: Callable[[WorkItem, Outcome], Outcome] | None,
        brake: Brake,
        limit_of: Callable[[Request], int | None],
        max_failures: int,
        max_refusals: int,
    ) -> None:
        self.summary = RunSummary()
        self.stop = asyncio.Event()
        self.is_mine: Callable[[WorkItem], bool] = lambda item: True
        self._task, self._teacher = task, teacher
        self._ledger, self._writer = ledger, LedgerWriter(ledger)
        self._on_outcome, self._brake, self._limit_of = on_outcome, brake, limit_of
        self._given_up = GivenUp(
            teacher, self._record_failed, self._record_call, self._answered_earlier, max_failures, max_refusals
        )
        self._done_before: WorkItem | None = None  # one that was accepted
        self._items = task.items()
        self._ahead: deque[WorkItem] = deque()
        self._reading = asyncio.Lock()
        self._under_way: set[str] = set()  # keys

    async def work(self) -> None:
        """One of the window's workers."""
        while (item := await self._next()) is not None:
            try:
                await self._run_to_end(item)
            except ReplyLaterError:
                self.summary.num_waiting += 1
                self._brake.later()
                continue
            except BaseException as error:
                self._brake.left()
                error.add_note(f"while working on item {item.key} of {self._task.name}")
                raise
            self._brake.left()

    async def settle(self) -> None:
        """At the end: decides what the items without a reply are.

        Raises:
            TeacherError: the server answers nothing.
        """
        await self._given_up.settle()

    async def close(self) -> None:
        """Waits until all records are on disk."""
        await self._writer.close()

    async def _next(self) -> WorkItem | None:
        async with self._reading:
            if not self._ahead:
                self._ahead.extend(await asyncio.to_thread(self._read_ahead))
            if not self._ahead:
                return None
            if not await self._brake.admit():
                return None
            if not self.stop.is_set():
                return self._ahead.popleft()
            self._brake.left()
            return None

    def _read_ahead(self) -> list[WorkItem]:
        return list(islice(self._open_items(), _READ_AHEAD))

    def _open_items(self) -> Iterator[WorkItem]:
        for item in self._items:
            if self.stop.is_set():
                return
            if not self.is_mine(item):
                continue
            # The order of these checks matters: an item leaves the set only after its end was recorded.
            if item.key in self._under_way:
                self.summary.num_repeated += 1
            elif (kind := self._ledger.kind_of_end(item)) is not None:
                self._was_done_before(item, kind)
            else:
                self._under_way.add(item.key)
                yield item

    def _was_done_before(self, item: WorkItem, kind: str) -> None:
        self.summary.num_done_before += 1
        if kind == FAILED:
            self.summary.num_failed_before += 1
            return
        if kind == OK:
            self._done_before = self._done_before or item
        if self._brake.is_trial and (end := self._ledger.end(item)) is not None:
            self._brake.ended_before(end)

    def _answered_earlier(self, prompt: str) -> Request | None:
        """A request of this prompt that the ledger has a reply to."""
        if self._done_before is None:
            return None
        steps = self._task.steps(self._done_before)
        try:
            request = next(steps)
            while recorded := self._ledger.calls(self._done_before, request_key(self._teacher.model, request)):
                if request.prompt == prompt:
                    return request
                request = steps.send(recorded[0].reply)
        except StopIteration:
            pass
        return None

    async def _run_to_end(self, item: WorkItem) -> None:
        prompts: list[str] = []
        requests: list[str] = []
        try:
            outcome = await self._run_steps(item, prompts, requests)
        except TeacherGone:
            raise
        except TeacherError as error:
            if isinstance(error, TeacherRefusal) and error.is_fatal:
                raise
            await self._given_up.add(item, error, prompts[-1] if prompts else "")
            return
        if self._on_outcome is not None:
            outcome = self._on_outcome(item, outcome)
        outcome = checked(outcome)
        await self._record_end(item, to_record(outcome, prompts, requests))
        if isinstance(outcome, Accepted):
            self.summary.num_accepted += 1
            self.summary.num_rows += len(outcome.rows)
        else:
            self.summary.num_rejected += 1
            self.summary.reasons[outcome.reason] += 1
        if requests:
            self._brake.ended(outcome)

    async def _run_steps(self, item: WorkItem, prompts: list[str], requests: list[str]) -> Outcome:
        """Runs the item's steps and notes the prompts' labels and the requests' keys."""
        steps = self._task.steps(item)
        try:
            request = next(steps)
            while True:
                if request.prompt not in prompts:
                    prompts.append(request.prompt)
                key = request_key(self._teacher.model, request)
                requests.append(key)
                request = steps.send(await self._reply(item, request, key, requests.count(key) - 1))
        except StopIteration as end:
            return end.value

    async def _reply(self, item: WorkItem, request: Request, key: str, number: int) -> Reply:
        """A recorded reply to the request, or else a new one; an item's n-th equal request gets the n-th reply."""
        limit = self._limit_of(request)
        if self._ledger.has_earlier_calls:
            recorded = await asyncio.to_thread(self._ledger.calls, item, key)
            usable = [call.reply for call in recorded if call.serves(limit)]
            if number < len(usable):
                self.summary.num_replayed += 1
                return usable[number]
        if not request.affinity and item.group:
            request = replace(request, affinity=item.group)
        reply = await self._teacher.complete(request)
        self._record_call(RecordedCall(key, request.prompt, reply, limit))
        await self._given_up.answered(request)
        return reply

    def _record_call(self, call: RecordedCall) -> None:
        self._writer.record_call(call)
        self.summary.num_calls += 1
        self.summary.prompt_tokens += call.reply.prompt_tokens
        self.summary.completion_tokens += call.reply.completion_tokens

    async def _record_failed(self, item: WorkItem, error: TeacherError) -> None:
        reason = "refused" if isinstance(error, TeacherRefusal) else "unavailable"
        await self._record_end(item, End(FAILED, {"reason": reason, "detail": str(error)[:LONGEST_DETAIL]}))
        if not self.summary.num_failed:
            self.summary.first_failure = f"{item.document or item.group or item.key}: {error}"
        self.summary.num_failed += 1
        self.summary.reasons[reason] += 1

    async def _record_end(self, item: WorkItem, end: End) -> None:
        await self._writer.record_end(item, end)
        self._under_way.discard(item.key)
