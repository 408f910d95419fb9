"""What a server's 200 holds: a reply that was paid for, however odd its shape, or an error in disguise.

A reply that was paid for is the item's outcome and is never asked for again, so everything that looks like a chat
completion becomes a ``Reply``: content as a list of parts, an answer in the reasoning field or in a tool call, a stream
that nobody asked for, compression, a byte order mark. What holds no answer keeps its words for the rejection.
"""

import json
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from data_synth.work import Reply

UNREADABLE = "unreadable"
"""``finish_reason`` of a paid reply without a message; its text is the body as received."""
REFUSAL = "refusal"
"""``finish_reason`` of a message that the vendor marks as the model's refusal."""

_FINISHES = {
    **dict.fromkeys(("max_tokens", "model_length", "max_output_tokens", "token_limit"), "length"),
    **dict.fromkeys(("safety", "recitation", "blocklist", "prohibited_content", "sensitive"), "content_filter"),
}
_BROKEN_OFF = ("abort", "error")
_REASONING = ("reasoning_content", "reasoning", "thinking")  # fields of a message
_THOUGHT_PARTS = ("thinking", "reasoning", "redacted_thinking")  # types of a part of its content
_COMPRESSED = re.compile(rb"\x1f\x8b|\x78[\x01\x5e\x9c\xda]")  # no JSON text begins like this
_FENCED_OBJECT = re.compile(r"(?:```\w*\s*)?(\{.*\})\s*(?:```)?", re.DOTALL)
_BUSY = re.compile(r"rate.?limit|too many requests|overload|throttl|capacity|\bqps\b|try again later", re.IGNORECASE)
_MAX_TOKENS = 10**9  # that a reply is believed to have taken; SQLite's integers end at 2**63
_SHOWN = 2_000  # characters of a body that is kept


class NoCompletionError(Exception):
    """The body is neither a chat completion nor an error: a proxy's page, half a JSON text."""


class ErrorInBodyError(Exception):
    """The body of a 200 is an error.

    Args:
        status: that the server ought to have sent; 500 if the body names none.
        body: the error, parsed.
    """

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(str(body)[:_SHOWN])
        self.status, self.body = status, body


def read_completion(content: bytes, max_bytes: int, encoding: str = "") -> Reply:
    """The reply in the body of a 200.

    Args:
        content: the body as received; of a body above ``max_bytes``, its beginning.
        max_bytes: longest body, before and after decompression; a longer one cannot be read.
        encoding: the header ``Content-Encoding``.

    Raises:
        ErrorInBodyError: it is an error.
        NoCompletionError: it is something else, for which nobody was charged.
    """
    inflated = inflate(content, max_bytes, encoding)
    if inflated is None:
        return Reply(f"compressed as {encoding!r}, which was not asked for", UNREADABLE)
    text = inflated[:max_bytes].decode("utf-8-sig", "replace")
    if len(inflated) > max_bytes:
        told = f"longer than max_response_bytes={max_bytes}: {text[:_SHOWN]}"
        if text.lstrip().startswith(("{", "data:")):
            return Reply(told, UNREADABLE)
        raise NoCompletionError(told[:200])
    body = _parsed(text)
    if isinstance(body, list) and len(body) == 1:
        body = body[0]  # Gemini wraps its errors so
    if not isinstance(body, Mapping):
        raise NoCompletionError(f"no chat completion: {content[:80]!r}")
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else None
    error = body.get("error") or (choice or {}).get("error")
    if error or (choice is None and not _is_paid(body)):
        raise ErrorInBodyError(_status_in(error or body), body if body.get("error") or not error else {"error": error})
    usage = body.get("usage")
    tokens = _tokens(usage, "prompt_tokens", "input_tokens"), _tokens(usage, "completion_tokens", "output_tokens")
    if choice is None:
        return Reply(text[:_SHOWN], UNREADABLE, *tokens)
    finish = str(choice.get("finish_reason") or "stop").lower()
    if finish in _BROKEN_OFF and tokens[1]:
        # Tokens were counted, so it was paid for; what is there of the answer may be half of it.
        return Reply(f"the server broke off ({finish}): {_said(choice, finish)[0]}"[:_SHOWN], UNREADABLE, *tokens)
    if finish in _BROKEN_OFF:
        raise ErrorInBodyError(500, f"the server broke off: finish_reason {finish}")
    said, finish = _said(choice, _FINISHES.get(finish, finish))
    return Reply(whole(said), finish, *tokens)


def whole(text: str) -> str:
    """The text with unpaired surrogates, which UTF-8 cannot represent, replaced."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def inflate(content: bytes, max_bytes: int, encoding: str = "") -> bytes | None:
    """A body without compression, at most ``max_bytes`` + 1 of it; None if the encoding is not known here.

    Args:
        content: the body as received.
        max_bytes: a few compressed bytes can expand to gigabytes.
        encoding: the header ``Content-Encoding``; gzip and zlib are told by their first bytes in any case.

    Raises:
        NoCompletionError: it is damaged.
    """
    if not _COMPRESSED.match(content) and encoding.lower() != "deflate":
        return content if encoding.lower() in ("", "identity", "gzip", "x-gzip") else None
    # Adding 32 finds out whether it is gzip or zlib; some servers mean the bare algorithm by "deflate".
    wbits = zlib.MAX_WBITS | 32 if _COMPRESSED.match(content) else -zlib.MAX_WBITS
    try:
        return zlib.decompressobj(wbits).decompress(content, max_bytes + 1)
    except zlib.error:
        raise NoCompletionError(f"compressed, and damaged: {content[:40]!r}") from None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _streamed(text)


def _streamed(text: str) -> Any:
    """One body from server-sent events; None if the text holds none, or the stream has no end."""
    events, is_done = [], False
    for block in re.split(r"\r?\n\r?\n", text):
        lines = [line[5:].strip() for line in block.splitlines() if line.startswith("data:")]
        is_done = is_done or "[DONE]" in lines
        lines = [line for line in lines if line not in ("", "[DONE]")]
        try:
            events += [json.loads(line) for line in lines]
        except (ValueError, RecursionError):
            try:  # one event of several lines
                events.append(json.loads("\n".join(lines)))
            except (ValueError, RecursionError):
                return None
    events = [event for event in events if isinstance(event, dict)]
    if not events:
        return None
    if complete := [event for event in events if any("message" in choice for choice in _choices(event))]:
        return complete[-1]
    if failed := [event for event in events if event.get("error")]:
        return failed[-1]
    message: dict[str, str] = {}
    finish, usage = None, None
    for event in events:
        usage = event.get("usage") or usage
        for choice in _choices(event)[:1]:
            finish = choice.get("finish_reason") or finish
            delta = choice.get("delta")
            for name, piece in delta.items() if isinstance(delta, Mapping) else ():
                if isinstance(piece, str) and name != "role":
                    message[name] = message.get(name, "") + piece
    if finish is None and not is_done:
        return None
    return {"choices": [{"message": message, "finish_reason": finish}], "usage": usage}


def _choices(event: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    choices = event.get("choices")
    return [choice for choice in choices if isinstance(choice, Mapping)] if isinstance(choices, list) else []


def _is_paid(body: Mapping[str, Any]) -> bool:
    """Whether a body without a choice is a completion all the same."""
    is_named = str(body.get("object", "")).startswith("chat.completion")
    return isinstance(body.get("choices"), list) or is_named or bool(body.get("usage"))


def _said(choice: Mapping[str, Any], finish: str) -> tuple[str, str]:
    """The answer of a choice and its finish reason; reasoning without an answer is put into think tags."""
    message = choice.get("message")
    message = message if isinstance(message, Mapping) else {}
    text, thought = _of_content(message.get("content"))
    if text.strip():
        return text, finish
    if refusal := message.get("refusal"):
        return str(refusal), REFUSAL
    for called in _arguments(message):
        return called, finish
    if isinstance(choice.get("text"), str) and choice["text"].strip():
        return choice["text"], finish
    thought = thought or next((str(message[name]) for name in _REASONING if message.get(name)), "")
    if not thought.strip():
        return "", finish
    # A reasoning parser on a model that does not reason puts the answer here. Drafts within real reasoning are none.
    answer = _FENCED_OBJECT.fullmatch(thought.strip())
    return (answer[1], finish) if answer and finish == "stop" else (f"<think>\n{thought}", finish)


def _of_content(content: Any) -> tuple[str, str]:
    """Text and reasoning of a message's content: a text, a list of parts, or an object."""
    if content is None or isinstance(content, str):
        return content or "", ""
    if isinstance(content, Mapping):
        return json.dumps(content, ensure_ascii=False), ""
    if not isinstance(content, list):
        return str(content), ""
    texts: list[str] = []
    thoughts: list[str] = []
    for part in content:
        is_thought = isinstance(part, Mapping) and part.get("type") in _THOUGHT_PARTS
        (thoughts if is_thought else texts).extend(_texts_in(part))
    return "".join(texts), "".join(thoughts)


def _texts_in(part: Any) -> Iterator[str]:
    """The texts of a part, which vendors nest: {"thinking": [{"text": ...}]}, {"text": {"value": ...}}."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, list):
        for child in part:
            yield from _texts_in(child)
    elif isinstance(part, Mapping):
        for name in ("text", "value", "content", *_THOUGHT_PARTS):
            if name in part:
                yield from _texts_in(part[name])
                return


def _arguments(message: Mapping[str, Any]) -> Iterator[str]:
    """The arguments of tool calls: some servers return the schema's object as one."""
    calls = message.get("tool_calls")
    functions = [call.get("function") for call in calls if isinstance(call, Mapping)] if isinstance(calls, list) else []
    for function in (*functions, message.get("function_call")):
        arguments = function.get("arguments") if isinstance(function, Mapping) else None
        if arguments:
            yield arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _status_in(error: Any) -> int:
    """The HTTP status that an error names, or that its words mean."""
    places = [error, *(error.values() if isinstance(error, Mapping) else ())]
    for place in places:
        for name in ("code", "status", "status_code", "http_status"):
            value = place.get(name) if isinstance(place, Mapping) else None
            if isinstance(value, int | str) and re.fullmatch(r"[45]\d\d", str(value)):
                return int(value)
    words = json.dumps(error, default=str)[:_SHOWN]
    if "insufficient_quota" in words or _BUSY.search(words):
        return 429
    return 400 if re.search(r"invalid.request|content.filter|moderation|context.length", words, re.IGNORECASE) else 500


def _tokens(usage: Any, *names: str) -> int:
    """A count of tokens as a server reports it; 0 for what is none."""
    if not isinstance(usage, Mapping):
        return 0
    value = next((usage[name] for name in names if usage.get(name)), 0)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
    return int(max(0, min(value, _MAX_TOKENS))) if is_number else 0
