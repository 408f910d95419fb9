"""Replies that fit a request's schema."""

import json
from collections.abc import Callable, Iterable

from data_synth.documents import Passage, passage_id
from data_synth.work import Outcome, Reply, Request, Task, WorkItem


def passage(text: str, language: str = "en", source: str = "demo", code: str = "") -> Passage:
    personas = tuple(f"A person number {number}." for number in range(5))
    return Passage(passage_id(text), text, language, source, code=code, personas=personas)


PROSE = [
    passage(f"Ferry number {number} sails twice a day from May to September. It does not sail in storms at all.")
    for number in range(40)
]
CODE = [
    passage(f"def add_{number}(value):\n    return value + {number}\n", language="", code="python")
    for number in range(20)
]


def obedient(request: Request) -> Reply:
    """Fills the schema with texts that differ by key, position and request."""
    assert request.schema is not None
    answer: dict[str, object] = {}
    mark = request.sampling.seed
    for key, schema in request.schema["properties"].items():
        if schema["type"] == "array":
            answer[key] = [f"{key} {index} of {mark}" for index in range(schema["minItems"])]
        else:
            answer[key] = schema["enum"][-1] if "enum" in schema else f"{key} of {mark}"
    return Reply(json.dumps(answer))


def drive(task: Task, item: WorkItem, answer: Callable[[Request], Reply] = obedient) -> tuple[Outcome, list[Request]]:
    """The outcome of an item and what was asked for it."""
    steps, requests = task.steps(item), []
    try:
        request = next(steps)
        while True:
            requests.append(request)
            request = steps.send(answer(request))
    except StopIteration as stop:
        return stop.value, requests


def drive_all(task: Task, answer: Callable[[Request], Reply] = obedient) -> list[Outcome]:
    return [drive(task, item, answer)[0] for item in task.items()]


def never_ending(things: list[Passage]) -> Iterable[Passage]:
    while True:
        yield from things
