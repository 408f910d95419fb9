"""A small task and a teacher without a server."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator

from data_synth.work import Accepted, Message, Rejected, Reply, Request, Sampling, Steps, WorkItem
from qwen3emb_train.data.records import TrainingExample

SCHEMA = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}


class ScriptedTask:
    """Two calls an item; a quarter of the items is rejected, on what the second reply says.

    Args:
        num_items: how many; four to a group.
        num_calls: calls of each item.
    """

    name = "scripted"

    def __init__(self, num_items: int, *, num_calls: int = 2) -> None:
        self.num_items, self.num_calls = num_items, num_calls

    def items(self) -> Iterator[WorkItem]:
        for number in range(self.num_items):
            text = f"passage {number}"
            yield WorkItem(
                hashlib.sha256(text.encode()).hexdigest(), self.name, {"text": text}, f"document {number // 4}"
            )

    def steps(self, item: WorkItem) -> Steps:
        said = ""
        for call in range(self.num_calls):
            reply = yield self.request(f"{call}: {item.payload['text']} {said}")
            said = reply.text
        if int(hashlib.sha256(said.encode()).hexdigest(), 16) % 4 == 0:
            return Rejected("dull", said)
        row = TrainingExample(f"what of {said}?", (item.payload["text"],), source="scripted")
        return Accepted((row,), ({"calls": self.num_calls},))

    def request(self, text: str) -> Request:
        messages = (Message("system", "Ask."), Message("user", text))
        return Request(messages, SCHEMA, Sampling(), "scripted/ask@1")


def echo(text: str) -> str:
    """The reply to a user turn: known in advance, unlike it."""
    return json.dumps({"query": hashlib.sha256(text.encode()).hexdigest()[:12]})


class ScriptedTeacher:
    """Answers by ``answer``, after ``delay(call number)`` seconds; counts."""

    def __init__(
        self,
        answer: Callable[[Request], str] | None = None,
        *,
        delay: Callable[[int], float] | None = None,
        model: str = "scripted",
    ) -> None:
        self.model = model
        self._answer = answer or (lambda request: echo(request.messages[-1].content))
        self._delay = delay or (lambda number: 0.0)
        self.requests: list[Request] = []
        self.num_in_flight = self.most_in_flight = 0

    async def complete(self, request: Request) -> Reply:
        self.requests.append(request)
        self.num_in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.num_in_flight)
        try:
            await asyncio.sleep(self._delay(len(self.requests)))
        finally:
            self.num_in_flight -= 1
        return Reply(self._answer(request), "stop", 10, 2)
