"""What a teacher is: something that answers a request or says why not. Nothing here knows of servers."""

import hashlib
import json
from typing import Protocol, runtime_checkable

from data_synth.work import Reply, Request


class TeacherError(RuntimeError):
    """The teacher gave no answer to one request."""


class TeacherRefusal(TeacherError):  # noqa: N818 - the error is its base
    """The server understood and says no (400, 401, 403, 404, ...): asking again would get the same answer.

    Attributes:
        status: HTTP status.
        is_fatal: no other request would fare better either (a wrong key, model or address), so the run ends.
    """

    def __init__(self, message: str, status: int, *, is_fatal: bool = False) -> None:
        super().__init__(message)
        self.status, self.is_fatal = status, is_fatal


class TeacherUnavailable(TeacherError):  # noqa: N818 - the error is its base
    """The retry policy is exhausted for this request; another request may fare better."""


class TeacherGone(TeacherUnavailable):
    """No server has answered for so long that the run ends; a later start continues it."""


@runtime_checkable
class Teacher(Protocol):
    """A language model.

    Attributes:
        model: its name and whatever else changes its replies; part of the identity of every request.
    """

    model: str

    async def complete(self, request: Request) -> Reply:
        """The model's reply.

        Raises:
            TeacherRefusal, TeacherUnavailable: see there.
        """
        ...


def request_key(model: str, request: Request) -> str:
    """SHA-256 (hex) of all that decides a reply: model, messages, sampling, schema and the prompt's version.

    The server's address is no part of it: the same model behind another address answers the same request.
    """
    sampling = request.sampling
    content = [
        model, request.prompt, request.schema,
        [sampling.temperature, sampling.top_p, sampling.max_tokens, sampling.seed],
        [[message.role, message.content] for message in request.messages],
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
