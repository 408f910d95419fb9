"""What a run will cost, before it costs anything: prompts are rendered, nothing is sent.

Later calls of an item need the replies of earlier ones; a made-up reply stands in, the plainest that its schema allows,
so the prompts have about their true length. Prompt tokens are estimated from characters, reply tokens are assumed.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from data_synth.progress import PricesConfig
from data_synth.work import Reply, Request, Task, WorkItem

_BYTES_PER_TOKEN = 4.0  # English prose in current vocabularies; other scripts have more bytes a letter
_MAX_CALLS = 20  # of one item
_FILLER = "What does this explain about the subject?"


@dataclass
class Estimate:
    """Of one task.

    Attributes:
        num_items: of the whole run.
        num_rendered: items whose prompts were rendered; tokens and calls are of these.
        calls: by prompt.
        prompt_tokens, ceiling: of the rendered items; the ceiling is every reply at its limit.
        examples: one rendered request for each prompt.
    """

    num_items: int = 0
    num_rendered: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    ceiling: int = 0
    examples: dict[str, Request] = field(default_factory=dict)

    def scaled(self, prices: PricesConfig, completion_tokens: int) -> dict[str, Any]:
        """The whole run's calls, tokens and money, at so many tokens a reply, and with every reply at its limit."""
        factor = self.num_items / self.num_rendered if self.num_rendered else 0.0
        calls = self.calls.total() * factor
        prompt, completion = round(self.prompt_tokens * factor), round(calls * completion_tokens)
        return {
            "items": self.num_items,
            "calls": round(calls),
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "cost": round(prices.of(prompt, completion), 4),
            "cost_at_most": round(prices.of(prompt, round(self.ceiling * factor)), 4),
        }


def estimate(task: Task, num_rendered: int) -> Estimate:
    """Renders the prompts of a task's first items and counts the rest."""
    found = Estimate()
    for item in task.items():
        found.num_items += 1
        if found.num_rendered >= num_rendered:
            continue
        found.num_rendered += 1
        for request in _requests(task, item):
            found.calls[request.prompt] += 1
            found.prompt_tokens += tokens_of(request)
            found.ceiling += request.sampling.max_tokens
            found.examples.setdefault(request.prompt, request)
    return found


def tokens_of(request: Request) -> int:
    """About how many tokens a request has."""
    characters = sum(len(message.content.encode("utf-8", "replace")) for message in request.messages)
    return round(characters / _BYTES_PER_TOKEN) + 4 * len(request.messages)


def _requests(task: Task, item: WorkItem) -> Iterator[Request]:
    steps = task.steps(item)
    try:
        request = next(steps)
        for _ in range(_MAX_CALLS):
            yield request
            request = steps.send(Reply(made_up_reply(request)))
    except StopIteration:
        return
    finally:
        steps.close()


def made_up_reply(request: Request) -> str:
    """The plainest text that fits the request's schema."""
    return _FILLER if request.schema is None else json.dumps(_instance(request.schema, count(1)))


def _instance(schema: Mapping[str, Any], numbers: "count[int]") -> Any:
    """An instance of the words that schemas.py knows; texts are told apart by a number."""
    if "enum" in schema:
        return schema["enum"][0]
    if schema["type"] == "object":
        return {name: _instance(child, numbers) for name, child in schema["properties"].items()}
    if schema["type"] == "array":
        return [_instance(schema["items"], numbers) for _ in range(schema.get("minItems", 1))]
    return f"{_FILLER} ({next(numbers)})"
