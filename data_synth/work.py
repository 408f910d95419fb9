"""The interface between the tasks (what is requested) and the runner (which executes each request once).

A *work item* is one unit that ends in exactly one terminal record. Its *steps* are a generator: it yields requests,
receives the teacher's replies, and returns an outcome. It is independent of servers, concurrency and files, so the same
generator runs against a real server, on recorded replies after a crash, and in a dry run.
"""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from qwen3emb_train.data.records import TrainingExample


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat: role ("system", "user" or "assistant") and text."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the teacher samples. What is None is not sent.

    Attributes:
        temperature, top_p: as servers take them; part of a request's identity.
        max_tokens: limit of the reply; a truncated reply is rejected and never parsed.
        seed: of the server's generator.
    """

    temperature: float | None = 0.7
    top_p: float | None = 0.95
    max_tokens: int | None = 512
    seed: int | None = None


@dataclass(frozen=True)
class Request:
    """One call, identified by its content, not by its position in the run.

    Attributes:
        messages: rendered, system turn first (a server's prefix cache starts there).
        schema: JSON schema of the reply; None for plain text.
        sampling: see ``Sampling``.
        prompt: name and version of the prompt, e.g. "retrieval/configure@3f2a91c0" (digest of its template files).
        affinity: requests with a common prefix share it and go to one server, for its prefix cache. Not part of the
            request's identity; the runner fills in the item's group.
        turn: distinguishes requests that are otherwise equal and shall have replies of their own, such as those for one
            sentence of two passages.
    """

    messages: tuple[Message, ...]
    schema: Mapping[str, Any] | None
    sampling: Sampling
    prompt: str
    affinity: str = ""
    turn: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """The teacher's reply.

    Attributes:
        text: the reply's text, unparsed.
        finish_reason: "stop", "length", "content_filter", or as in ``teachers/completions.py``.
        prompt_tokens, completion_tokens: as reported by the server; 0 if it reports none.
    """

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class Accepted:
    """The item gave training rows.

    Attributes:
        rows: at least one.
        facts: one mapping per row of further properties for the statistics (question type, difficulty, length bucket,
            persona, passage language, ...): JSON values.
    """

    rows: tuple[TrainingExample, ...]
    facts: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Rejected:
    """The item gave nothing usable; it is kept with its reason.

    Attributes:
        reason: a short, countable name ("not_json", "copies_passage", "wrong_language", ...).
        detail: for a reader.
        rows: the rejected rows, if there are any.
    """

    reason: str
    detail: str = ""
    rows: tuple[TrainingExample, ...] = ()


Outcome = Accepted | Rejected
Steps = Generator[Request, Reply, Outcome]


@dataclass(frozen=True)
class WorkItem:
    """One unit of work.

    Attributes:
        key: content digest (hex) of everything that the item's requests depend on: task, texts, plan entry, prompt
            version, sampling. Equal keys mean the same work.
        task: retrieval, bitext, sts, classification, code, ...
        payload: what ``steps`` needs; JSON values only.
        group: items of one document share it and belong to one process; the runner sends them consecutively, for prefix
            caches. Items with equal keys have equal groups.
    """

    key: str
    task: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""

    @property
    def document(self) -> str:
        """Where its passage is from (file and line), for a reader; "" if it has none."""
        passage = self.payload.get("passage")
        return str(passage.get("document", "")) if isinstance(passage, Mapping) else ""


@runtime_checkable
class Task(Protocol):
    """One family of synthetic data."""

    name: str

    def items(self) -> Iterator[WorkItem]:
        """All items, streamed in an order that depends on the configuration and the input only."""
        ...

    def steps(self, item: WorkItem) -> Steps:
        """The item's calls; pure: the same replies give the same outcome."""
        ...
