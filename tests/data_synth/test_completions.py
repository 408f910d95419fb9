"""Bodies of a 200 that real servers send, and what is taken from them."""

import gzip
import json
import zlib
from typing import Any

import pytest

from data_synth.teachers.completions import REFUSAL, UNREADABLE, ErrorInBodyError, NoCompletionError, read_completion
from data_synth.work import Reply

ANSWER = '{"Query": "a"}'


def read(body: Any, **choice: Any) -> Reply:
    """Of a body, or of a completion with this message."""
    if not isinstance(body, bytes):
        message = body if isinstance(body, dict) else {"content": body}
        body = json.dumps({"choices": [{"message": message, **choice}], "usage": {"completion_tokens": 5}}).encode()
    return read_completion(body, 100_000)


@pytest.mark.parametrize(
    "message",
    [
        ANSWER,
        [{"type": "text", "text": ANSWER}],
        [{"type": "text", "text": ANSWER[:6]}, ANSWER[6:]],
        [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": ANSWER}],
        [{"type": "output_text", "text": {"value": ANSWER}}],
        {"content": {"Query": "a"}},
        {"content": None, "reasoning_content": ANSWER},
        {"content": "", "reasoning": f"```json\n{ANSWER}\n```"},
        {"tool_calls": [{"function": {"name": "reply", "arguments": ANSWER}}]},
        {"content": None, "function_call": {"arguments": {"Query": "a"}}},
    ],
)
def test_an_answer_is_found_wherever_the_server_puts_it(message: Any) -> None:
    assert read(message) == Reply(ANSWER, "stop", 0, 5)


def test_reasoning_without_an_answer_is_no_answer() -> None:
    draft = "Let me think. Perhaps " + ANSWER + " is good."
    assert read({"content": None, "reasoning_content": draft}).text == "<think>\n" + draft
    assert read({"content": None, "reasoning_content": ANSWER}, finish_reason="length").text.startswith("<think>")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("MAX_TOKENS", "length"),
        ("model_length", "length"),
        ("SAFETY", "content_filter"),
        ("eos", "eos"),
        (None, "stop"),
    ],
)
def test_reasons_to_finish_have_one_name(given: str | None, expected: str) -> None:
    assert read("x", finish_reason=given).finish_reason == expected


def test_a_vendors_refusal_keeps_its_words() -> None:
    assert read({"content": None, "refusal": "I can't."}) == Reply("I can't.", REFUSAL, 0, 5)


@pytest.mark.parametrize(
    "body", [b'{"choices": []}', b'{"object": "chat.completion", "choices": null}', b'{"usage": {"total_tokens": 3}}']
)
def test_a_paid_body_without_a_choice_keeps_its_words(body: bytes) -> None:
    assert read(body) == Reply(body.decode(), UNREADABLE)


def events(*events: Any, end: str = "data: [DONE]\n\n") -> bytes:
    return ("".join(f"data: {json.dumps(event)}\n\n" for event in events) + end).encode()


def delta(finish: str | None = None, **fields: str) -> dict[str, Any]:
    return {"choices": [{"delta": fields, "finish_reason": finish}]}


def test_a_stream_that_nobody_asked_for_is_put_together() -> None:
    parts = [delta(role="assistant", content=""), delta(content=ANSWER[:5]), delta("stop", content=ANSWER[5:])]
    usage = {"choices": [], "usage": {"completion_tokens": 5}}
    assert read(b": keep-alive\n\n" + events(*parts, usage)) == Reply(ANSWER, "stop", 0, 5)
    assert read(events(*parts, usage).replace(b"\n\n", b"\n")) == Reply(ANSWER, "stop", 0, 5)
    whole = json.loads(json.dumps({"choices": [{"message": {"content": ANSWER}, "finish_reason": "stop"}]}))
    assert read(events(whole)).text == ANSWER
    with pytest.raises(NoCompletionError):
        read(events(*parts[:2], end=""))
    with pytest.raises(ErrorInBodyError):
        read(events(parts[0], {"error": {"code": 502, "message": "gone"}}))


@pytest.mark.parametrize(
    "packed", [gzip.compress, zlib.compress, lambda body: b"\xef\xbb\xbf" + body, lambda body: b"\n\n" + body]
)
def test_compression_marks_and_blank_lines_are_undone(packed: Any) -> None:
    assert read(packed(json.dumps({"choices": [{"message": {"content": ANSWER}}]}).encode())).text == ANSWER


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"error": {"code": 429}}, 429),
        ({"error": {"message": "x", "code": "502"}}, 502),
        ({"error": "Rate limit reached"}, 429),
        ({"choices": None, "error": {"metadata": {"raw": "Too Many Requests"}}}, 429),
        ({"choices": [{"error": {"code": 503}, "message": {"content": "half"}}]}, 503),
        ({"error_code": 18, "error_msg": "Open api qps request limit reached"}, 429),
        ({"base_resp": {"status_msg": "insufficient"}, "choices": None}, 500),
        ({"error": {"type": "invalid_request_error", "message": "x"}}, 400),
        ({"detail": "what"}, 500),
        ([{"error": {"code": 403}}], 403),
    ],
)
def test_an_error_in_disguise_has_the_status_it_means(error: Any, status: int) -> None:
    with pytest.raises(ErrorInBodyError) as caught:
        read(json.dumps(error).encode())
    assert caught.value.status == status


@pytest.mark.parametrize("body", [b"", b"<html>", b"[" * 100_000, b'{"choices": [{"mess', b"7", b"\x1f\x8bnot gzip"])
def test_what_nobody_was_paid_for_is_no_reply(body: bytes) -> None:
    with pytest.raises(NoCompletionError):
        read(body)


@pytest.mark.parametrize(
    "usage", [None, [], {"prompt_tokens": "x"}, {"prompt_tokens": -3}, {"prompt_tokens": float("nan")}]
)
def test_a_nonsensical_usage_counts_nothing(usage: Any) -> None:
    body = json.dumps({"choices": [{"message": {"content": "x"}}], "usage": usage}).encode()
    assert read(body).prompt_tokens == 0


@pytest.mark.parametrize("finish", ["abort", "error"])
def test_a_reply_that_was_broken_off_and_counted_is_an_outcome(finish: str) -> None:
    choice = {"message": {"content": '{"query": "half'}, "finish_reason": finish}
    body = {"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 4}}
    reply = read_completion(json.dumps(body).encode(), 10_000)
    assert reply.finish_reason == UNREADABLE
    assert (reply.prompt_tokens, reply.completion_tokens) == (9, 4)
    assert finish in reply.text
