"""The contract between the method (what is asked) and the runner (how it is asked, once, and never lost).

A *work item* is one unit that ends in exactly one terminal record. Its *steps* are a plain generator: it yields
requests, receives the teacher's replies, and returns an outcome. It knows nothing of servers, concurrency or files, so
the same generator runs against a real server, from a ledger of earlier replies after a crash, and dry.
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
    """How the teacher samples; part of a request's identity.

    Attributes:
        temperature, top_p: as servers take them.
        max_tokens: ceiling of the reply; a reply cut there is a failure of its own, never parsed.
        seed: sent to servers that take one.
    """

    temperature: float = 0.7
    top_p: float = 0.95
    max_tokens: int = 512
    seed: int | None = None


@dataclass(frozen=True)
class Request:
    """One call. Its content, not its place in the run, decides whether it was made before.

    Attributes:
        messages: rendered, system turn first (a server's prefix cache starts there).
        schema: JSON schema of the reply; None where plain text is wanted.
        sampling: see ``Sampling``.
        prompt: name and version of the prompt, e.g. "retrieval/configure@3f2a91c0" (digest of its template files).
        affinity: requests that begin alike; of several servers, one and the same gets them, for its prefix cache. No
            part of the request's identity; the runner fills in the item's group.
    """

    messages: tuple[Message, ...]
    schema: Mapping[str, Any] | None
    sampling: Sampling
    prompt: str
    affinity: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back.

    Attributes:
        text: the reply's text, unparsed.
        finish_reason: "stop", "length", ...
        prompt_tokens, completion_tokens: as the server counted; 0 where it did not.
    """

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class Accepted:
    """The item became training rows.

    Attributes:
        rows: at least one.
        facts: one mapping a row of what statistics count beyond the row itself (question type, difficulty, length
            bucket, persona, passage language, ...): JSON values.
    """

    rows: tuple[TrainingExample, ...]
    facts: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Rejected:
    """The item gave nothing usable; kept with its reason, never deleted.

    Attributes:
        reason: a short, countable name ("not_json", "copies_passage", "wrong_language", ...).
        detail: what exactly was wrong, for a reader.
        rows: what would have been written, where it got so far.
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
        key: content digest (hex) of everything that decides the item's requests: task, texts, plan entry, prompt
            version, sampling. Equal key = same work, whatever its number.
        task: retrieval, bitext, sts, classification, code, ...
        payload: what ``steps`` needs; JSON values only.
        group: items of one document share it and belong to one process; the runner sends them back to back, for prefix
            caches. Equal keys come with equal groups.
    """

    key: str
    task: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""


@runtime_checkable
class Task(Protocol):
    """One family of synthetic data."""

    name: str

    def items(self) -> Iterator[WorkItem]:
        """All items in a fixed order, streamed: the same configuration and input give the same items."""
        ...

    def steps(self, item: WorkItem) -> Steps:
        """The item's calls; pure: the same replies give the same outcome."""
        ...
