"""Items that got no reply, until it is known who is at fault: they, or the server.

A document that a vendor's filter flags, or that does not fit into the context, is refused however often it is asked;
that is the item's outcome. A server that refuses everything says the same words. The difference is evidence: the items
have failed once another request of the same prompt is answered after them. Where none is for a while, one that was
answered before is asked again, as a control.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from data_synth.ledger_database import RecordedCall
from data_synth.teachers.teacher import (
    Teacher,
    TeacherError,
    TeacherInRounds,
    TeacherRefusal,
    TeacherSilent,
    request_key,
)
from data_synth.work import Request, WorkItem

_UNCLEAR = (403, 404)  # as often about the key or the model as about a document


class _Waiting(NamedTuple):
    item: WorkItem
    error: TeacherError
    prompt: str


class GivenUp:
    """The items without a reply, since the last one.

    Args:
        teacher: for the control.
        fail: records an item as failed.
        record_call: records the control's reply, which is paid for as well.
        answered_earlier: a request of this prompt that was answered in an earlier run, if there is one.
        max_failures: so many items in a row without an answer at all, or with one that may concern the server, are
            looked into.
        max_refusals: so many refusals in a row are; they cost nothing, and the documents of one folder may all be
            refused.
    """

    def __init__(
        self,
        teacher: Teacher,
        fail: Callable[[WorkItem, TeacherError], Awaitable[None]],
        record_call: Callable[[RecordedCall], None],
        answered_earlier: Callable[[str], Request | None],
        max_failures: int,
        max_refusals: int,
    ) -> None:
        self._teacher, self._fail, self._record_call = teacher, fail, record_call
        self._answered_earlier = answered_earlier
        self._max_failures, self._max_refusals = max_failures, max_refusals
        self._waiting: list[_Waiting] = []
        self._answered: dict[str, Request] = {}  # by prompt
        self._deciding = asyncio.Lock()

    async def add(self, item: WorkItem, error: TeacherError, prompt: str) -> None:
        """Takes an item that the teacher gave up on.

        Args:
            item: without a reply.
            error: of the teacher.
            prompt: of the request.

        Raises:
            TeacherError: this one, if the server is at fault. No item is recorded as failed for it.
        """
        self._waiting.append(_Waiting(item, error, prompt))
        num_unclear = sum(not _is_about_item(waiting.error) for waiting in self._waiting)
        is_suspicious = num_unclear >= self._max_failures or len(self._waiting) >= self._max_refusals
        if is_suspicious or isinstance(error, TeacherSilent):
            await self._decide(prompt)

    async def answered(self, request: Request) -> None:
        """A request was answered, so the items that wait for another of its prompt have failed."""
        self._answered[request.prompt] = request
        if self._waiting:
            await self._fail_all(request.prompt)

    async def settle(self) -> None:
        """At the end of a run: the items have failed if any request of their prompt was answered in it.

        Raises:
            TeacherError: the server is at fault.
        """
        for prompt in dict.fromkeys(waiting.prompt for waiting in self._waiting):
            await (self._fail_all(prompt) if prompt in self._answered else self._decide(prompt))

    async def _fail_all(self, prompt: str) -> None:
        failed = [waiting for waiting in self._waiting if waiting.prompt == prompt]
        self._waiting = [waiting for waiting in self._waiting if waiting.prompt != prompt]
        for waiting in failed:
            await self._fail(waiting.item, waiting.error)

    async def _decide(self, prompt: str) -> None:
        async with self._deciding:
            errors = [waiting.error for waiting in self._waiting if waiting.prompt == prompt]
            if not errors:
                return  # another request was answered meanwhile
            if await self._server_works(prompt):
                await self._fail_all(prompt)
            else:
                errors[0].add_note(f"{len(errors)} items in a row got no reply")
                raise errors[0]

    async def _server_works(self, prompt: str) -> bool:
        request = self._answered.get(prompt) or await asyncio.to_thread(self._answered_earlier, prompt)
        if request is None:
            return False
        if isinstance(self._teacher, TeacherInRounds):
            return True  # a control would be another round, and be bought again
        try:
            reply = await self._teacher.complete(request)
        except TeacherError:
            return False
        key = request_key(self._teacher.model, request)
        self._record_call(RecordedCall(key, request.prompt, reply, request.sampling.max_tokens))
        return True


def _is_about_item(error: TeacherError) -> bool:
    return isinstance(error, TeacherRefusal) and error.status not in _UNCLEAR
