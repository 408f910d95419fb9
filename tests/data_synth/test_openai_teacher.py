"""The teacher against a local HTTP server with injected faults."""

import asyncio
import gzip
import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from data_synth.teachers.completions import UNREADABLE
from data_synth.teachers.openai_teacher import OpenAITeacher
from data_synth.teachers.settings import Routing, StructuredOutput, TeacherConfig
from data_synth.teachers.teacher import Teacher, TeacherGone, TeacherRefusal, TeacherUnavailable
from data_synth.work import Message, Reply, Request, Sampling
from tests.data_synth.fake_server import Answer, Call, FakeServer, completion, error
from tests.data_synth.scripted import SCHEMA

Result = TypeVar("Result")
KEY = "sk-canary-4711"


def ask(text: str = "hello", *, schema: bool = False, affinity: str = "", sampling: Sampling | None = None) -> Request:
    messages = (Message("system", "be brief"), Message("user", text))
    return Request(messages, SCHEMA if schema else None, sampling or Sampling(), "test/ask@1", affinity)


def with_teacher(urls: list[str], use: Callable[[OpenAITeacher], Awaitable[Result]], **settings: Any) -> Result:
    quick = {"model": "m", "base_urls": urls, "backoff_seconds": 0.01, "request_seconds": 5.0, "connect_seconds": 1.0}

    async def go() -> Result:
        async with OpenAITeacher(TeacherConfig(**(quick | settings))) as teacher:
            return await use(teacher)

    return asyncio.run(go())


def complete(server: FakeServer, request: Request | None = None, **settings: Any) -> Reply:
    return with_teacher([server.url], lambda teacher: teacher.complete(request or ask()), **settings)


def then(*answers: Answer) -> Callable[[Call], Answer]:
    """Each in turn, the last for ever."""
    left = list(answers)
    return lambda call: left.pop(0) if len(left) > 1 else left[0]


def test_a_reply_comes_back_as_the_server_gave_it() -> None:
    with FakeServer(then(completion("hi", finish_reason="length", prompt_tokens=11, completion_tokens=5))) as server:
        assert complete(server) == Reply("hi", "length", 11, 5)
        (call,) = server.calls
        assert (call.method, call.path) == ("POST", "/v1/chat/completions")
        assert call.json == {
            "model": "m", "temperature": 0.7, "top_p": 0.95, "max_tokens": 512,
            "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}],
        }  # fmt: skip


def test_it_is_a_teacher_and_its_name_tells_what_changes_replies() -> None:
    config = TeacherConfig(model="m", base_urls=["http://127.0.0.1:9/v1"], extra_body='{"top_k": 5}')
    teacher = OpenAITeacher(config)
    assert isinstance(teacher, Teacher)
    assert teacher.model == 'm {"top_k": 5}'


def test_seed_and_extra_fields_are_sent() -> None:
    with FakeServer(then(completion("hi"))) as server:
        request = ask(sampling=Sampling(0.0, 1.0, 9, seed=4))
        complete(server, request, extra_body='{"chat_template_kwargs": {"enable_thinking": false}}')
        sent = server.calls[0].json
        assert (sent["seed"], sent["chat_template_kwargs"]) == (4, {"enable_thinking": False})


@pytest.mark.parametrize(
    "text", ['NUL \x00, emoji 🦊, עברית, {{ x }}, "quotes" and \'', "half a pair \ud83e", "x" * 100_000]
)
def test_any_text_goes_there_and_back(text: str) -> None:
    whole = text.replace("\ud83e", "\ufffd")
    with FakeServer(lambda call: completion(call.json["messages"][1]["content"])) as server:
        assert complete(server, ask(text)).text == whole
    with FakeServer(then(completion(text))) as server:
        assert complete(server).text == whole


def test_an_empty_reply_is_a_reply() -> None:
    body = b'{"choices": [{"message": {"content": null}}], "usage": null}'
    with FakeServer(then(Answer(body))) as server:
        assert complete(server) == Reply("", "stop", 0, 0)


@pytest.mark.parametrize(
    ("given", "counted"),
    [("9" * 4000, 10**9), ("1e400", 10**9), ("-5", 0), ("7.0", 7), ("true", 0), ('"9"', 0), ("NaN", 0)],
)
def test_usage_is_a_number_that_can_be_added_up(given: str, counted: int) -> None:
    """One reply with 4,000 digits killed every later start."""
    body = f'{{"choices": [{{"message": {{"content": "x"}}}}], "usage": {{"prompt_tokens": {given}}}}}'
    with FakeServer(then(Answer(body.encode()))) as server:
        assert complete(server) == Reply("x", "stop", counted, 0)


def test_a_key_that_the_server_repeats_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in a reply, which becomes training data, nor in the message about an unreadable one."""
    monkeypatch.setenv("CANARY", KEY)
    with FakeServer(then(completion(f"your key is {KEY}."))) as server:
        assert complete(server, api_key_env="CANARY").text == "your key is ***."
    unreadable = Answer(f'{{"detail": "{"x" * 55} {KEY}"}}'.encode())
    with FakeServer(then(unreadable)) as server, pytest.raises(TeacherUnavailable) as caught:
        complete(server, api_key_env="CANARY", max_attempts=1)
    assert KEY[:6] not in str(caught.value)


def test_a_pause_ends_with_the_patience() -> None:
    """A server asked for 300 s of an owner who waits for 0.2 s."""
    busy = FakeServer(then(error(429, "busy", **{"Retry-After": "300"})))
    with busy as server, pytest.raises(TeacherUnavailable, match="was busy and answered nobody"):
        complete(server, patience_seconds=0.2)


def test_a_reply_that_was_paid_for_is_not_asked_for_again_however_odd() -> None:
    odd = [
        b'{"choices": [], "usage": {"prompt_tokens": 9}}', b'{"object": "chat.completion"}',
        b'{"choices": [{"message": {"content": 7}}]}', gzip.compress(completion("x").body),
        completion("x" * 20_000).body, b'{"choices": [{"message": {"content": "\xff"}}]}',
    ]  # fmt: skip
    for body in odd:
        for headers in ({}, {"Content-Encoding": "gzip"}) if body[:1] == b"\x1f" else ({},):
            with FakeServer(then(Answer(body, headers=dict(headers)))) as server:
                complete(server, max_response_bytes=10_000)
                assert server.num_requests == 1, body[:60]
    bomb = Answer(gzip.compress(b" " * 5_000_000 + completion("x").body), headers={"Content-Encoding": "gzip"})
    with FakeServer(then(bomb)) as server, pytest.raises(TeacherUnavailable, match="max_response_bytes=10000"):
        complete(server, max_response_bytes=10_000, max_attempts=1)
    with FakeServer(then(Answer(b"\x0b\x02\x80", headers={"Content-Encoding": "br"}))) as server:
        assert complete(server).finish_reason == UNREADABLE


@pytest.mark.parametrize("code", [429, "429", 503, "rate_limit_exceeded"])
def test_a_busy_provider_behind_a_200_is_waited_for(code: int | str) -> None:
    body = {"choices": None, "error": {"message": "Provider returned error", "code": code}}
    busy = Answer(json.dumps(body).encode(), headers={"Retry-After": "0.3"})
    with FakeServer(then(busy, completion("hi"))) as server:
        started = time.monotonic()
        assert complete(server, max_attempts=1).text == "hi"
        assert time.monotonic() - started >= 0.3


def test_an_error_behind_a_200_is_what_its_code_says() -> None:
    for code, expected in ((502, TeacherUnavailable), (403, TeacherRefusal), (None, TeacherUnavailable)):
        body = json.dumps({"error": {"message": "flagged", "code": code}}).encode()
        with FakeServer(then(Answer(body))) as server, pytest.raises(expected, match="flagged"):
            complete(server, max_attempts=2)


WRONG = {
    "500": error(500, "engine died"),
    "502": error(502, "bad gateway"),
    "408": error(408, "slow"),
    "hang": Answer(hangs=True),
    "slow-loris": Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"),
    "reset": Answer(cut=0),
    "cut": Answer(completion("x").body, cut=150),
    "no HTTP": Answer(raw=b"\x00\x01 nonsense\r\n\r\n"),
    "HTML": Answer(b"<html>"),
    "truncated": Answer(completion("x").body[:50]),
    "an error in disguise": Answer(b'{"error": {"message": "oom"}}'),
    "a list": Answer(b"[1]"),
    "deep": Answer(b"[" * 100_000),
    "broken off, not counted": completion("half", finish_reason="abort", completion_tokens=0),
    "compressed and damaged": Answer(gzip.compress(completion("x").body)[:40]),
    "long": Answer(b"<html>" + b"x" * 20_000),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_failure_is_tried_again_and_then_given_up(kind: str) -> None:
    """S5, G6: in bounded time and memory."""
    settings = {"request_seconds": 0.2, "max_response_bytes": 10_000}
    with FakeServer(then(WRONG[kind], WRONG[kind], completion("at last"))) as server:
        assert complete(server, **settings).text == "at last"
        assert server.num_requests == 3
    with FakeServer(then(WRONG[kind])) as server:
        with pytest.raises(TeacherUnavailable, match="4 attempts"):
            complete(server, max_attempts=4, **settings)
        assert server.num_requests == 4


def test_a_reply_that_drips_in_is_not_waited_for() -> None:
    """G6: each byte comes in time, the reply as a whole does not."""
    dripping = completion("x" * 300)
    dripping.drips = 0.02
    started = time.monotonic()
    with FakeServer(then(dripping)) as server, pytest.raises(TeacherUnavailable, match=r"no reply within 0\.3 s"):
        complete(server, max_attempts=1, request_seconds=0.3)
    assert time.monotonic() - started < 5


def test_a_reply_without_end_is_cut_at_the_limit() -> None:
    """G6: a body of any length costs no more memory than the limit."""
    endless = Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n" + b" " * 3_000_000)
    started = time.monotonic()
    with FakeServer(then(endless)) as server, pytest.raises(TeacherUnavailable, match="max_response_bytes=100000"):
        complete(server, max_attempts=1, max_response_bytes=100_000)
    assert time.monotonic() - started < 4


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422])
def test_a_refusal_is_told_at_once_in_the_servers_words(status: int) -> None:
    with FakeServer(then(error(status, "the model `m` does not exist"))) as server:
        with pytest.raises(TeacherRefusal, match=f"{status}.*the model `m` does not exist") as caught:
            complete(server)
        # 400, 403, 404: these words are about the model. Others may be about this document only.
        assert (caught.value.status, caught.value.is_fatal) == (status, status in (400, 401, 402, 403, 404))
        assert server.num_requests == (2 if status == 404 else 1), "a 404 is looked into at another address"


@pytest.mark.parametrize("status", [400, 403, 404, 413, 422, 451])
def test_a_refusal_that_may_be_about_the_document_is_not_fatal(status: int) -> None:
    with FakeServer(then(error(status, "your input was flagged"))) as server:
        with pytest.raises(TeacherRefusal, match="flagged") as caught:
            complete(server)
        assert not caught.value.is_fatal
    with (
        FakeServer(then(error(429, "Request too large for m: the input must be reduced"))) as server,
        pytest.raises(TeacherRefusal, match="too large"),
    ):
        complete(server)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("Unsupported parameter: 'max_tokens' is not supported with this model.", "max_tokens"),
        ("Unsupported value: 'temperature' does not support 0.7 with this model.", "temperature"),
        ("Unrecognized request argument supplied: seed", "seed"),
        ("`temperature` and `top_p` cannot both be specified for this model.", "temperature"),
        ('Invalid JSON payload received. Unknown name "seed": Cannot find field.', "seed"),
        ([{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}], "seed"),
        ("This document on seed oils is not supported", None),
        ("'max_tokens' is too large: 512. This model's maximum context length is 400 tokens", None),
    ],
)
def test_a_field_that_the_server_does_not_take_is_named_and_can_be_left_out(message: Any, field: str | None) -> None:
    def script(call: Call) -> Answer:
        is_refused = field is None or field in call.json
        return Answer(json.dumps({"error": {"message": message}}).encode(), 400) if is_refused else completion("hi")

    with FakeServer(script) as server:
        request = ask(sampling=Sampling(seed=4))
        with pytest.raises(TeacherRefusal) as caught:
            complete(server, request)
        assert caught.value.is_fatal == (field is not None)
        if field is not None:
            assert f"teacher.extra_body='{{\"{field}\": null}}'" in str(caught.value)
            assert complete(server, request, extra_body=f'{{"{field}": null}}').text == "hi"


def test_what_is_null_is_not_sent_and_the_limit_is_no_part_of_the_identity() -> None:
    with FakeServer(then(completion("hi"))) as server:
        extra = '{"temperature": null, "max_tokens": null, "max_completion_tokens": 90, "top_k": 5, "stop": null}'
        complete(server, ask(sampling=Sampling(top_p=None, seed=3)), extra_body=extra)
        assert server.calls[0].json.keys() == {"model", "messages", "seed", "max_completion_tokens", "top_k"}
    config = TeacherConfig(model="m", extra_body=extra)
    assert config.limit_of(512) == 90
    assert TeacherConfig(model="m", extra_body='{"max_tokens": null}').limit_of(512) is None
    assert TeacherConfig(model="m").limit_of(512) == 512
    more = extra.replace("90", "900").replace('"top_k"', '"seed": null, "top_k"')
    assert TeacherConfig(model="m", extra_body=more).identity() == config.identity()
    assert TeacherConfig(model="m", extra_body=extra.replace("5", "6")).identity() != config.identity()


@pytest.mark.parametrize(
    ("base", "served"),
    [
        ("/v1", "/v1/chat/completions"),
        ("/v1/", "/v1/chat/completions"),
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("", "/v1/chat/completions"),
        ("", "/openai/v1/chat/completions"),
        ("/v1", "/chat/completions"),
        (
            "/openai/deployments/m?api-version=2024-10-21",
            "/openai/deployments/m/chat/completions?api-version=2024-10-21",
        ),
    ],
)
def test_base_urls_as_people_write_them_reach_the_chat(base: str, served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)

    def script(call: Call) -> Answer:
        return completion("hi") if call.path == served else error(404, "Resource not found")

    async def use(teacher: OpenAITeacher) -> list[Reply]:
        return [
            *await asyncio.gather(*(teacher.complete(ask(str(each))) for each in range(8))),
            await teacher.complete(ask()),
        ]

    with FakeServer(script) as server:
        replies = with_teacher([server.url.removesuffix("/v1") + base], use, api_key_env="MY_KEY")
        assert {reply.text for reply in replies} == {"hi"}
        assert server.calls[-1].path == served, "found once, it is used"
        assert server.calls[0].headers.get("api-key") == (KEY if "api-version" in base else None)


def test_without_a_chat_anywhere_the_addresses_are_named() -> None:
    with (
        FakeServer(then(error(404, "Not Found"))) as server,
        pytest.raises(TeacherRefusal, match=r"no chat completions at http://.*/api/chat/completions, nor below http"),
    ):
        with_teacher([server.url.replace("/v1", "/api")], lambda teacher: teacher.complete(ask()))


@pytest.mark.parametrize(
    "body",
    [
        b"plain words",
        b'{"object": "error", "message": "plain words"}',
        b'{"error": "plain words"}',
        b'{"detail": "plain words"}',
    ],
)
def test_the_words_are_found_in_every_shape_of_error(body: bytes) -> None:
    with FakeServer(then(Answer(body, 400))) as server, pytest.raises(TeacherRefusal, match="plain words"):
        complete(server)


def test_no_money_left_is_no_overload() -> None:
    body = b'{"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}'
    with (
        FakeServer(then(Answer(body, 429))) as server,
        pytest.raises(TeacherRefusal, match="exceeded your quota") as caught,
    ):
        complete(server)
    assert caught.value.is_fatal


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(status: int) -> None:
    """G3: the key reaches no other address."""
    with FakeServer(then(completion("stolen"))) as thief:
        redirect = Answer(b"", status, {"Location": f"{thief.url}/chat/completions"})
        with FakeServer(then(redirect)) as server, pytest.raises(TeacherRefusal, match="redirects are not followed"):
            complete(server)
        assert thief.num_requests == 0


@pytest.mark.parametrize("status", [429, 503, 529])
def test_a_busy_server_is_waited_for_as_long_as_it_says(status: int) -> None:
    with FakeServer(then(error(status, "busy", **{"Retry-After": "0.3"}), completion("hi"))) as server:
        started = time.monotonic()
        assert complete(server, max_attempts=1).text == "hi"
        assert time.monotonic() - started >= 0.3
        assert server.num_requests == 2


@pytest.mark.parametrize(
    "header", [{}, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, {"Retry-After": "-1"}, {"Retry-After": "nan"}]
)
def test_a_busy_server_without_a_time_gets_growing_pauses(header: dict[str, str]) -> None:
    with FakeServer(then(*[error(429, "busy", **header)] * 4, completion("hi"))) as server:
        started = time.monotonic()
        assert complete(server, backoff_seconds=0.02).text == "hi"
        assert 0.02 * (1 + 2 + 4 + 8) <= time.monotonic() - started < 3


def test_a_server_that_stays_busy_is_given_up_in_bounded_time() -> None:
    with (
        FakeServer(then(error(503, "loading the model"))) as server,
        pytest.raises(TeacherUnavailable, match="loading the model"),
    ):
        complete(server, patience_seconds=0.2)


def test_concurrency_finds_what_the_server_takes() -> None:
    """S5: a server with room for 8 is pressed to about 8, every request is answered, few are turned away."""
    turned_away = 0

    def script(call: Call) -> Answer:
        nonlocal turned_away
        if server.num_in_flight >= 8:
            turned_away += 1
            return error(429, "full")
        answer = completion("hi")
        answer.delay = 0.05
        return answer

    async def use(teacher: OpenAITeacher) -> list[Reply]:
        return await asyncio.gather(*(teacher.complete(ask(str(number))) for number in range(200)))

    with FakeServer(script) as server:
        replies = with_teacher([server.url], use, initial_concurrency=2, max_concurrency=64, patience_seconds=60.0)
        assert len(replies) == 200
        assert 6 <= server.most_in_flight <= 24
        assert 0 < turned_away < 60


def test_concurrency_grows_to_the_maximum_where_nothing_is_turned_away_and_not_above() -> None:
    def script(call: Call) -> Answer:
        answer = completion("hi")
        answer.delay = 0.02
        return answer

    async def use(teacher: OpenAITeacher) -> float:
        await asyncio.gather(*(teacher.complete(ask(str(number))) for number in range(200)))
        return teacher._pool.endpoints[0].concurrency.limit

    with FakeServer(script) as server:
        assert with_teacher([server.url], use, initial_concurrency=1, max_concurrency=20) == 20
        assert 1 < server.most_in_flight <= 20
        assert max(call.attempt for call in server.calls) == 0


def test_documents_stay_with_their_server_and_all_servers_work() -> None:
    async def use(teacher: OpenAITeacher) -> None:
        for _ in range(3):
            await asyncio.gather(
                *(teacher.complete(ask(f"{number}", affinity=f"document {number}")) for number in range(30))
            )

    with FakeServer(then(completion("a"))) as one, FakeServer(then(completion("b"))) as two:
        with_teacher([one.url, two.url], use, initial_concurrency=64)
        seen = [{call.json["messages"][1]["content"] for call in server.calls} for server in (one, two)]
        assert not seen[0] & seen[1]
        assert min(len(seen[0]), len(seen[1])) > 5
        assert {call.attempt for call in (*one.calls, *two.calls)} == {0, 1, 2}


def test_the_least_loaded_server_is_next_where_asked() -> None:
    def slow(call: Call) -> Answer:
        answer = completion("a")
        answer.delay = 0.1
        return answer

    async def use(teacher: OpenAITeacher) -> None:
        await asyncio.gather(*(teacher.complete(ask(f"{number}", affinity="same")) for number in range(16)))

    with FakeServer(slow) as one, FakeServer(slow) as two:
        with_teacher([one.url, two.url], use, routing=Routing.least_loaded, initial_concurrency=32)
        assert (one.num_requests, two.num_requests) == (8, 8)


def test_a_dead_server_is_left_alone_and_taken_back_when_it_lives(caplog: pytest.LogCaptureFixture) -> None:
    """S5: no request is lost meanwhile."""

    async def rounds(teacher: OpenAITeacher, number: int) -> None:
        await asyncio.gather(*(teacher.complete(ask(f"{number} {each}", affinity=str(each))) for each in range(20)))

    async def use(teacher: OpenAITeacher) -> None:
        await rounds(teacher, 0)
        assert two.num_requests > 3
        two.stop_listening()
        await rounds(teacher, 1)
        before = one.num_requests
        await rounds(teacher, 2)
        assert one.num_requests == before + 20
        two.listen_again()
        await asyncio.sleep(0.5)
        before = two.num_requests
        await rounds(teacher, 3)
        assert two.num_requests > before

    with FakeServer(then(completion("a"))) as one, FakeServer(then(completion("b"))) as two:
        with caplog.at_level(logging.WARNING):
            with_teacher([one.url, two.url], use, connect_seconds=0.3, backoff_seconds=0.05)
        assert [record.message.split(": ")[1][:10] for record in caplog.records] == ["no request", "responds a"]


def test_a_server_whose_probe_fails_stays_away() -> None:
    with FakeServer(then(error(500, "dead")), models=500) as server:
        with pytest.raises(TeacherGone, match=r"no server has answered for 0\.3 s.*dead"):
            complete(server, patience_seconds=0.3, max_attempts=100)
        assert server.num_requests == 3
        assert server.num_probes >= 3


def test_when_all_servers_are_away_everybody_waiting_is_told() -> None:
    async def use(teacher: OpenAITeacher) -> list[object]:
        return await asyncio.gather(
            *(teacher.complete(ask(str(number))) for number in range(50)), return_exceptions=True
        )

    outcomes = with_teacher(["http://127.0.0.1:9/v1"], use, patience_seconds=0.3, max_attempts=100)
    assert {type(outcome) for outcome in outcomes} == {TeacherGone}


def test_a_cancelled_request_gives_its_place_back() -> None:
    def script(call: Call) -> Answer:
        return Answer(hangs=True) if "hang" in call.json["messages"][1]["content"] else completion("hi")

    async def use(teacher: OpenAITeacher) -> Reply:
        tasks = [asyncio.create_task(teacher.complete(ask(f"hang {number}"))) for number in range(6)]
        await asyncio.sleep(0.1)
        waiting = asyncio.create_task(teacher.complete(ask("hello")))
        await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        return await asyncio.wait_for(waiting, 2)

    with FakeServer(script) as server:
        assert with_teacher([server.url], use, initial_concurrency=2, max_concurrency=2).text == "hi"


def test_a_request_that_waits_in_our_own_line_is_not_given_up() -> None:
    """The server answers all the time, one at a time; the last in line waits much longer than the patience."""

    def script(call: Call) -> Answer:
        if server.num_in_flight:
            return error(429, "busy", **{"Retry-After": "0.01"})
        answer = completion("hi")
        answer.delay = 0.05
        return answer

    async def use(teacher: OpenAITeacher) -> list[Reply]:
        return await asyncio.gather(*(teacher.complete(ask(str(number))) for number in range(30)))

    with FakeServer(script) as server:
        assert len(with_teacher([server.url], use, patience_seconds=0.6)) == 30


def test_a_request_that_is_always_too_much_is_refused_while_others_are_answered() -> None:
    def script(call: Call) -> Answer:
        if "large" in call.json["messages"][1]["content"]:
            return error(429, "tokens per minute", **{"Retry-After": "0"})
        return completion("hi")

    async def use(teacher: OpenAITeacher) -> list[Any]:
        texts = ["large", *map(str, range(100))]
        return await asyncio.gather(*(teacher.complete(ask(text)) for text in texts), return_exceptions=True)

    with FakeServer(script) as server:
        first, *others = with_teacher([server.url], use, initial_concurrency=1, max_concurrency=2)
        assert isinstance(first, TeacherRefusal)
        assert not first.is_fatal
        assert all(isinstance(other, Reply) for other in others)


@pytest.mark.parametrize("status", [400, 500])
def test_a_schema_that_the_server_cannot_do_is_dropped(status: int) -> None:
    def script(call: Call) -> Answer:
        return error(status, "grammar") if "response_format" in call.json else completion("plain")

    async def use(teacher: OpenAITeacher) -> list[str]:
        return [(await teacher.complete(ask(str(number), schema=True))).text for number in range(6)]

    with FakeServer(script) as server:
        assert with_teacher([server.url], use) == ["plain"] * 6
        assert server.num_requests == (7 if status == 400 else 8)
        with pytest.raises((TeacherRefusal, TeacherUnavailable), match="grammar"):
            complete(server, ask(schema=True), structured_output=StructuredOutput.always, max_attempts=2)


def test_a_schema_that_fails_for_one_document_only_is_kept_for_the_others() -> None:
    def script(call: Call) -> Answer:
        is_hard = "hard" in call.json["messages"][1]["content"]
        return error(500, "grammar") if is_hard and "response_format" in call.json else completion("{}")

    async def use(teacher: OpenAITeacher) -> None:
        for text in ("easy", "hard", "easy again"):
            await teacher.complete(ask(text, schema=True))

    with FakeServer(script) as server:
        with_teacher([server.url], use)
        assert ["response_format" in call.json for call in server.calls] == [True, True, True, False, True]


def schema_refused(call: Call) -> Answer:
    return error(400, "response_format is not supported") if "response_format" in call.json else completion("plain")


def test_the_schema_is_sent_where_the_server_has_it() -> None:
    with FakeServer(then(completion("{}"))) as server:
        complete(server, ask(schema=True))
        sent = server.calls[0].json["response_format"]
        assert sent == {"type": "json_schema", "json_schema": {"name": "reply", "schema": SCHEMA, "strict": True}}
        complete(server, ask(schema=True), structured_output=StructuredOutput.never)
        complete(server, ask())
        assert ["response_format" in call.json for call in server.calls] == [True, False, False]


def test_a_server_that_refuses_the_schema_is_asked_without_it_from_then_on() -> None:
    async def use(teacher: OpenAITeacher) -> list[Reply]:
        return [await teacher.complete(ask(str(number), schema=True)) for number in range(3)]

    with FakeServer(schema_refused) as server:
        assert {reply.text for reply in with_teacher([server.url], use)} == {"plain"}
        assert ["response_format" in call.json for call in server.calls] == [True, False, False, False]
        with pytest.raises(TeacherRefusal, match="response_format is not supported"):
            complete(server, ask(schema=True), structured_output=StructuredOutput.always)


def test_a_refusal_for_another_reason_is_no_reason_to_drop_the_schema() -> None:
    def script(call: Call) -> Answer:
        return error(400, "too long") if "long" in call.json["messages"][1]["content"] else completion("{}")

    async def use(teacher: OpenAITeacher) -> None:
        for text in ("long", "short", "long", "short again"):
            if text == "long":
                with pytest.raises(TeacherRefusal, match="too long"):
                    await teacher.complete(ask(text, schema=True))
            else:
                await teacher.complete(ask(text, schema=True))

    with FakeServer(script) as server:
        with_teacher([server.url], use)
        # Before the schema was proven, the first refusal is looked into; afterwards it is taken at its word.
        assert ["response_format" in call.json for call in server.calls] == [True, False, True, True, True]


def test_the_key_goes_to_its_server_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """G3: servers repeat keys in their errors; no message, log or notes of ours do."""
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    leaks = [error(status, f"Incorrect API key {KEY}") for status in (401, 400, 500, 503)]
    with caplog.at_level(logging.DEBUG):
        for leak in leaks:
            with FakeServer(then(leak)) as server:
                with pytest.raises((TeacherRefusal, TeacherUnavailable)) as caught:
                    complete(server, api_key_env="MY_KEY", max_attempts=4, patience_seconds=0.1)
                assert server.calls[0].headers["authorization"] == f"Bearer {KEY}"
                assert "Incorrect API key ***" in str(caught.value)
                assert caught.value.__cause__ is None
                assert caught.value.__suppress_context__
    assert KEY not in caplog.text


def test_without_a_name_no_key_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, KEY)
    with FakeServer(then(completion("hi"))) as server:
        complete(server)
        assert KEY not in json.dumps(server.calls[0].headers)


def test_servers_are_not_told_about_this_machine() -> None:
    with FakeServer(then(completion("hi"))) as server:
        complete(server)
        told = {name for name in server.calls[0].headers if name.startswith("x-stainless")}
        assert told <= {"x-stainless-retry-count", "x-stainless-read-timeout"}


def test_connections_are_used_again() -> None:
    async def use(teacher: OpenAITeacher) -> None:
        for number in range(20):
            await teacher.complete(ask(str(number)))

    with FakeServer(then(completion("hi"))) as server:
        with_teacher([server.url], use)
        assert server.num_connections == 1
