"""What a server's error means: it is busy, it failed, or it refuses - this item, or everything.

Only what is certain to hold for other items as well is fatal: a wrong key, no money, a model that is not there, a field
that the server does not know. Whether another refusal concerns the item or the server is decided by evidence, in
``given_up.py``.
"""

import json
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from data_synth.teachers.teacher import TeacherRefusal

_OVERLOADED = (429, 503, 529)
_RETRIED = (408, 409, 425)  # besides all of 5xx
_FATAL = (401, 402)
_SENT = ("max_tokens", "max_completion_tokens", "temperature", "top_p", "seed")  # fields that can be left out
_NOT_KNOWN = re.compile(
    r"unsupported|not support|unknown|unrecogni[sz]ed|unexpected|extra.?(?:inputs|forbidden|fields)|not permitted"
    r"|not allowed|cannot find field|cannot both|deprecated",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"model\b.{0,100}(?:not found|not exist|no such|not available|not loaded)|(?:unknown|invalid|no such) model",
    re.IGNORECASE | re.DOTALL,
)
_TOO_LARGE = re.compile(r"request (?:is )?too large|must be reduced|maximum context length", re.IGNORECASE)
_LONGEST = 2_000  # characters of words that are looked at


class OverloadedError(Exception):
    """The server is busy.

    Args:
        words: the server's.
        retry_after: seconds that it asked for.
    """

    def __init__(self, words: str, retry_after: float | None) -> None:
        super().__init__(words)
        self.retry_after = retry_after


class FailureError(Exception):
    """No usable answer; another attempt may have one.

    Args:
        words: what happened.
        status: of the server's answer; None without one.
    """

    def __init__(self, words: str, status: int | None = None) -> None:
        super().__init__(words)
        self.status = status


def trouble_of(url: str, status: int, body: Any, words: str, headers: Mapping[str, str]) -> Exception:
    """The exception for an error: ``OverloadedError``, ``FailureError`` or ``TeacherRefusal``.

    Args:
        url: of the server, for the message.
        status: HTTP status, or the one that the body of a 200 names.
        body: the error, parsed; None if it is no JSON.
        words: the server's, without secrets, to be repeated.
        headers: of the response.
    """
    said = f"{json.dumps(body, default=str)[:_LONGEST]} {words}"
    is_out_of_money = status == 429 and "insufficient_quota" in said
    if status in _OVERLOADED and not is_out_of_money and not _TOO_LARGE.search(said):
        return OverloadedError(f"{status} {words}", _retry_after(headers))
    if (status >= 500 or status in _RETRIED) and status not in _OVERLOADED:
        return FailureError(f"{status} {words}", status)
    if status < 400:
        target = headers.get("location", "")
        words = (
            f"it redirects{f' to {target}' if target else ''}, and redirects are not followed. Give its final address"
        )
    is_fatal = status < 400 or status in _FATAL or is_out_of_money
    if status in (400, 403, 404) and ("model_not_found" in said or _NO_MODEL.search(said)):
        is_fatal = True
    if status in (400, 422) and (field := _unknown_field(said)):
        is_fatal = True
        instead = ', "max_completion_tokens": 512' if field == "max_tokens" and "max_completion_tokens" in said else ""
        words += f". Leave it out of all requests: teacher.extra_body='{{\"{field}\": null{instead}}}'"
    return TeacherRefusal(f"{url} refuses ({status}): {words}", status, is_fatal=is_fatal)


def words_of(body: Any, text: str) -> str:
    """The message within an error's body, whatever its shape.

    Args:
        body: parsed; None if it is no JSON.
        text: the body as it is, for want of a message.
    """
    for _ in range(4):
        if isinstance(body, list) and body:
            body = body[0]
        if not isinstance(body, Mapping):
            break
        inner = next(
            (body[name] for name in ("error", "message", "detail", "msg", "error_msg") if body.get(name)), None
        )
        if inner is None:
            break
        if isinstance(inner, str) and isinstance(code := body.get("code"), str) and code not in inner:
            inner = f"{inner} ({code})"
        body = inner
    said = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False, default=str) if body else text
    return " ".join(said.split())


def _unknown_field(said: str) -> str | None:
    """A field of ours that the server names as one that it does not take.

    The name has to stand in quotes or after such a word: a server may repeat the document, which may speak of seeds.
    """
    if "response_format" in said or not _NOT_KNOWN.search(said):
        return None
    pattern = r"""(?:\\?['"`]{0}\\?['"`])|(?:(?:argument|parameter|field)s?(?: supplied)?:? {0}\b)|(?:\b{0} is not)"""
    found = [(match.start(), name) for name in _SENT if (match := re.search(pattern.format(name), said))]
    return min(found)[1] if found else None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds; the header gives a number of them, or a date."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return seconds if 0 <= seconds < float("inf") else None
