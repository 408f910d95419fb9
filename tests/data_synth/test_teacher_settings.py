"""Invalid settings are refused before any request."""

from typing import Any

import pytest

from data_synth.teachers.addresses import check_base_url, is_loopback
from data_synth.teachers.concurrency import AdaptiveConcurrency
from data_synth.teachers.openai_teacher import OpenAITeacher
from data_synth.teachers.settings import TeacherConfig


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/v1", "http://2852039166/v1", "http://0xA9FEA9FE/v1", "http://[::ffff:169.254.169.254]/v1",
        "http://[64:ff9b::a9fe:a9fe]/v1", "http://[2002:a9fe:a9fe::1]/v1", "http://[::169.254.169.254]/v1",
        "http://[64:ff9b:1::100.100.100.200]/v1", "http://[fe80::5efe:169.254.1.1]/v1", "http://[::ffff:0:a9fe:a9fe]/v1",
        "http://[fe80::1]/v1", "http://[fd00:ec2::254]/v1", "http://100.100.100.200", "http://169.254.0.1:8000/v1",
    ],
)  # fmt: skip
def test_metadata_and_link_local_addresses_are_refused_however_spelt(url: str) -> None:
    with pytest.raises(ValueError, match="link-local or metadata"):
        check_base_url(url)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/v1", "localhost:8000/v1", "", "http://", "//host"])
def test_only_http_and_https_with_a_host(url: str) -> None:
    with pytest.raises(ValueError, match="no http or https address"):
        check_base_url(url)


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="api_key_env") as caught:
        check_base_url("https://me:hunter2@example.invalid/v1")
    assert "hunter2" not in str(caught.value)


SECRET = "hunter2-hunter2-hunter2"


@pytest.mark.parametrize(
    "settings",
    [
        {"base_urls": [f"https://example.invalid/v1?api_key={SECRET}"]},
        {"base_urls": [f"https://example.invalid/v1#{SECRET}"]},
        {"base_urls": [f"https://me:{SECRET}@example.invalid/v1"]},
        {"base_urls": [f"https://example.invalid/{SECRET}/v1"], "api_key_env": "MY_KEY"},
        {"extra_body": f'{{"api_key": "{SECRET}"}}'},
        {"extra_body": f'{{"headers": [{{"X-Api-Key": "{SECRET}"}}]}}'},
        {"extra_body": f'{{"auth": {{"Authorization": "{SECRET}"}}}}'},
        {"extra_body": f'{{"user": "Bearer {SECRET}"}}'},
        {"extra_body": f'{{"user": "sk-{SECRET}"}}'},
        {"extra_body": f'{{"user": "{SECRET}"}}', "api_key_env": "MY_KEY"},
        {"extra_body": f"{{'user': '{SECRET}'"},
        {"api_key_env": f"sk-{SECRET}"},
        {"api_key_env": "hf_abcdefghijklmnopqrstuvwxyz"},
    ],
)
def test_a_key_in_the_settings_is_refused_and_not_repeated(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """run.json and the report hold the settings."""
    monkeypatch.setenv("MY_KEY", SECRET)
    with pytest.raises(ValueError, match=r"api_key_env|not JSON") as caught:
        TeacherConfig(model="m", **settings)
    assert SECRET not in str(caught.value)
    assert "hf_" not in str(caught.value)


def test_ordinary_extra_fields_are_not_taken_for_keys() -> None:
    extra = '{"max_tokens": 5, "skip_special_tokens": true, "stop": ["</s>"], "min_tokens": 1, "eos_token": "x"}'
    assert TeacherConfig(model="Qwen/Qwen3-32B", extra_body=extra).extra_fields()["max_tokens"] == 5


def test_private_and_not_yet_known_hosts_pass() -> None:
    assert check_base_url("http://10.0.0.7:8000/v1/") == "http://10.0.0.7:8000/v1"
    assert check_base_url("http://node.invalid:8000/v1") == "http://node.invalid:8000/v1"
    assert is_loopback("http://127.0.0.1:8000/v1")
    assert is_loopback("http://localhost:8000/v1")
    assert not is_loopback("http://10.0.0.7:8000/v1")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_attempts": 0}, "max_attempts=0"),
        ({"initial_concurrency": 0}, "initial_concurrency=0"),
        ({"max_concurrency": 0}, "max_concurrency=0"),
        ({"max_response_bytes": 0}, "max_response_bytes=0"),
        ({"request_seconds": 0.0}, "request_seconds"),
        ({"connect_seconds": float("inf")}, "finite"),
        ({"patience_seconds": float("nan")}, "patience_seconds"),
        ({"backoff_seconds": -1.0}, "backoff_seconds"),
        ({"extra_body": "{"}, "not JSON"),
        ({"extra_body": "[1]"}, "no JSON object"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TeacherConfig(model="m", **settings)  # type: ignore[arg-type]


def test_a_teacher_needs_a_model_a_server_and_the_key_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPTY_KEY", " ")
    with pytest.raises(ValueError, match="model and base_urls"):
        OpenAITeacher(TeacherConfig(model="m"))
    with pytest.raises(ValueError, match="model and base_urls"):
        OpenAITeacher(TeacherConfig(base_urls=["http://127.0.0.1:9/v1"]))
    for name in ("EMPTY_KEY", "NO_SUCH_KEY_4711"):
        with pytest.raises(ValueError, match=f"api_key_env={name}.*not set"):
            OpenAITeacher(TeacherConfig(model="m", base_urls=["http://127.0.0.1:9/v1"], api_key_env=name))


def test_the_limit_doubles_a_round_trip_then_halves_then_grows_by_one() -> None:
    concurrency = AdaptiveConcurrency(initial=4, maximum=1000)

    def round_trip() -> float:
        concurrency.in_flight = int(concurrency.limit)
        for _ in range(concurrency.in_flight):
            concurrency.in_flight = int(concurrency.limit)
            concurrency.succeeded()
        return concurrency.limit

    assert [round_trip() for _ in range(3)] == [8, 16, 32]
    assert concurrency.overloaded(started=1.0, now=2.0)
    assert concurrency.limit == 16
    assert round_trip() == pytest.approx(17, abs=0.1)


def test_one_burst_counts_once() -> None:
    concurrency = AdaptiveConcurrency(initial=64, maximum=64)
    assert [concurrency.overloaded(started=1.0, now=2.0 + number) for number in range(5)] == [True] + [False] * 4
    assert concurrency.limit == 32
    assert concurrency.overloaded(started=2.5, now=3.0)
    assert concurrency.limit == 16


def test_the_limit_stays_between_one_and_the_maximum_and_grows_only_under_pressure() -> None:
    concurrency = AdaptiveConcurrency(initial=100, maximum=10)
    assert concurrency.limit == 10
    concurrency.in_flight = 10
    concurrency.succeeded()
    assert concurrency.limit == 10
    for now in range(10):
        concurrency.overloaded(started=float(now), now=float(now))
    assert concurrency.limit == 1
    concurrency.in_flight = 0
    concurrency.succeeded()
    assert concurrency.limit == 1
    assert concurrency.has_room
    concurrency.in_flight = 1
    assert not concurrency.has_room
