"""The interface of a teacher, its errors and the identity of a request; independent of servers."""

import hashlib
import json
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from data_synth.work import Reply, Request


class TeacherError(RuntimeError):
    """The teacher gave no answer to one request."""


class TeacherRefusal(TeacherError):  # noqa: N818 - the error is its base
    """The server refused the request (400, 401, 403, 404, ...); a retry would be refused, too.

    Args:
        message: for the user.
        status: HTTP status.
        is_fatal: other requests would be refused, too (a wrong key, no such model), so the run ends.
    """

    def __init__(self, message: str, status: int, *, is_fatal: bool = False) -> None:
        super().__init__(message)
        self.status, self.is_fatal = status, is_fatal


class TeacherUnavailable(TeacherError):  # noqa: N818 - the error is its base
    """The retries of this request are exhausted; another request may succeed."""


class TeacherSilent(TeacherUnavailable):
    """The servers were busy with this request and answered nobody for ``patience_seconds``."""


class TeacherGone(TeacherUnavailable):
    """No server has answered for ``patience_seconds``, so the run ends; a later start continues it."""


class ReplyLaterError(Exception):
    """The request is written down for the next round; its item goes on when that has been answered."""


@runtime_checkable
class Teacher(Protocol):
    """A language model.

    Attributes:
        model: its name and other settings that its replies depend on; part of the identity of every request.
    """

    model: str

    async def complete(self, request: Request) -> Reply:
        """The model's reply.

        Raises:
            TeacherRefusal, TeacherUnavailable: see there.
            ReplyLaterError: of a teacher that is asked in rounds.
        """
        ...


@runtime_checkable
class TeacherInRounds(Teacher, Protocol):
    """A teacher that notes what it is asked, and has the replies at a later pass over the items."""

    def begin(self, num_replies: Callable[[str], int]) -> None:
        """Begins a pass over a task's items.

        Args:
            num_replies: how many replies to a request, by its key, were recorded before.
        """
        ...


def request_key(model: str, request: Request) -> str:
    """SHA-256 (hex) of what a reply depends on: model, messages, schema, how it is sampled, and its turn.

    Not included are the server's address (another server with the same model is equivalent), the limit of the reply
    (it decides whether the reply was cut, which is recorded), the seed (it follows from the rest) and the name of the
    prompt (its text is in the messages).
    """
    sampling = request.sampling
    content = [
        model, request.schema, [sampling.temperature, sampling.top_p], request.turn,
        [[message.role, message.content] for message in request.messages],
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
