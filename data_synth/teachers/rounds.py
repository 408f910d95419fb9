"""A teacher that is asked in rounds: what it has no result for is written down, and the item goes on later.

An item's second request follows from its first reply. So a run passes over the items, each as far as the replies go;
what they then ask is one round. The ledger is the same as with servers: a reply is recorded when its item takes it.
"""

import json
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from data_synth.teachers.batch_files import BatchFiles
from data_synth.teachers.chat_body import chat_body, response_format
from data_synth.teachers.completions import ErrorInBodyError, NoCompletionError, read_completion
from data_synth.teachers.settings import StructuredOutput, TeacherConfig
from data_synth.teachers.teacher import ReplyLaterError, TeacherRefusal, TeacherUnavailable, request_key
from data_synth.teachers.troubles import FailureError, OverloadedError, trouble_of, words_of
from data_synth.work import Reply, Request

_KEY_LENGTH = 40  # hexadecimal digits


class TeacherByFiles:
    """Answers from result files, and writes down what they do not hold.

    Args:
        config: of the teacher; its addresses and times are not used.
        files: of the task.
    """

    def __init__(self, config: TeacherConfig, files: BatchFiles) -> None:
        self.model = config.identity()
        self._config, self._files = config, files
        self._numbers: dict[str, int] = {}  # by key: replies to it, recorded or asked for
        self._num_replies: Callable[[str], int] = lambda key: 0

    def begin(self, num_replies: Callable[[str], int]) -> None:
        """See ``TeacherInRounds``."""
        self._numbers.clear()
        self._num_replies = num_replies

    def limit_of(self, request: Request) -> int | None:
        """The limit of a reply that the request is sent with; None if it is sent without."""
        return self._config.limit_of(request.sampling.max_tokens)

    async def complete(self, request: Request) -> Reply:
        """The reply of an earlier round.

        Raises:
            ReplyLaterError: there is none yet; the request is in the next round.
            TeacherRefusal, TeacherUnavailable: the result is an error.
        """
        key = request_key(self.model, request)[:_KEY_LENGTH]
        if key not in self._numbers:
            self._numbers[key] = self._num_replies(request_key(self.model, request))
        number = self._numbers[key]
        self._numbers[key] += 1
        num_failures = 0
        for attempt in count():
            name = f"{key}-{number}-{attempt}"
            result = self._files.result(name)
            if result is None:
                self._files.ask(name, self._body(request))
                raise ReplyLaterError(name)
            if self._files.is_told(name):
                num_failures = 0
                continue
            try:
                return self._read(result)
            except TeacherRefusal as refusal:
                others = self._files.failed() if refusal.is_fatal else []
                self._files.tell([name, *others])
                raise
            except (FailureError, OverloadedError, NoCompletionError) as failure:
                num_failures += 1
                if num_failures >= self._config.max_attempts:
                    self._files.tell([name])
                    raise TeacherUnavailable(f"{num_failures} attempts; the last: {failure}") from None
        raise AssertionError("unreachable")

    def _body(self, request: Request) -> dict[str, Any]:
        body = chat_body(self._config, request)
        if request.schema is not None and self._config.structured_output is not StructuredOutput.never:
            body["response_format"] = response_format(request)
        return body

    def _read(self, result: Mapping[str, Any]) -> Reply:
        response = result.get("response") or {}
        error = result.get("error")
        body = response.get("body")
        status = response.get("status_code")
        if status == 200 and not error:
            try:
                return read_completion(json.dumps(body).encode(), self._config.max_response_bytes)
            except ErrorInBodyError as disguised:
                status, body = disguised.status, disguised.body
        # Without a status the request was never begun: the batch expired, or was cancelled.
        told = words_of(body or error, json.dumps(result))[:500]
        if not isinstance(status, int) or status < 400:
            raise FailureError(told)
        raise trouble_of("the batch", status, body, told, {})
