"""Cost estimate of a run: prompts are rendered, no request is sent.

Later calls of an item need the replies of earlier ones; a placeholder reply that fits the schema is used, so the
prompts have about their true length. Prompt tokens are estimated from bytes, completion tokens are assumed.
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
_NO_LIMIT = 4096  # assumed for a reply without a limit of ours
_MAX_CALLS = 20  # of one item
_FILLER = "What does this explain about the subject?"


@dataclass
class Estimate:
    """The estimate for one task.

    Attributes:
        num_items: of the whole run.
        num_rendered: items whose prompts were rendered; tokens and calls are of these.
        calls: by prompt.
        prompt_tokens: of the rendered items.
        ceiling: completion tokens of the rendered items if every reply has its maximum length.
        examples: one rendered request for each prompt.
    """

    num_items: int = 0
    num_rendered: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    ceiling: int = 0
    examples: dict[str, Request] = field(default_factory=dict)

    def scaled(self, prices: PricesConfig, completion_tokens: int) -> dict[str, Any]:
        """Calls, tokens and costs of the whole run, at ``completion_tokens`` per reply, and at most."""
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
            found.ceiling += request.sampling.max_tokens or _NO_LIMIT
            found.examples.setdefault(request.prompt, request)
    return found


def tokens_of(request: Request) -> int:
    """Estimated prompt tokens of a request."""
    characters = sum(len(message.content.encode("utf-8", "replace")) for message in request.messages)
    return round(characters / _BYTES_PER_TOKEN) + 4 * len(request.messages)


def _requests(task: Task, item: WorkItem) -> Iterator[Request]:
    steps = task.steps(item)
    try:
        request = next(steps)
        for _ in range(_MAX_CALLS):
            yield request
            request = steps.send(Reply(placeholder_reply(request)))
    except StopIteration:
        return
    finally:
        steps.close()


def placeholder_reply(request: Request) -> str:
    """A short text that fits the request's schema."""
    return _FILLER if request.schema is None else json.dumps(_instance(request.schema, count(1)))


def _instance(schema: Mapping[str, Any], numbers: "count[int]") -> Any:
    """An instance of a schema; its texts are numbered, so that they differ."""
    if "enum" in schema:
        return schema["enum"][0]
    if schema["type"] == "object":
        return {name: _instance(child, numbers) for name, child in schema["properties"].items()}
    if schema["type"] == "array":
        return [_instance(schema["items"], numbers) for _ in range(schema.get("minItems", 1))]
    return f"{_FILLER} ({next(numbers)})"
