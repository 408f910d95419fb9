"""Settings of a teacher behind an OpenAI-compatible server."""

import json
import os
import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from data_synth.teachers.addresses import refuse_secrets

_KEY_NAME = re.compile(
    r"(.*[-_])?(api[-_]?key|authorization|bearer|secret|password|passwd|credentials?)|((access|auth|api|session)[-_])?token",
    re.IGNORECASE,
)
_KEY = re.compile(r"\b(sk-[\w-]{16,}|hf_\w{20,}|gh[a-z]_\w{20,}|xox[a-z]-[\w-]{10,}|AKIA[A-Z0-9]{16}|Bearer \S{8,})")
_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")  # fields with the limit of a reply


class Routing(str, Enum):
    """``by_group``: a document's requests go to one server (prefix cache). ``least_loaded``: fewest in flight."""

    by_group = "by_group"  # another server if that one is at its limit
    least_loaded = "least_loaded"


class StructuredOutput(str, Enum):
    """``auto``: until a server refuses it, or fails with it and not without. ``always``: a refusal is an error.
    ``never``: only the prompt asks."""

    auto = "auto"
    always = "always"
    never = "never"


@dataclass
class TeacherConfig:
    """An OpenAI-compatible server (vLLM, SGLang, llama.cpp, TGI, a vendor), or several with the same model.

    Attributes:
        model: name of the model on the server, e.g. Qwen/Qwen3-32B.
        base_urls: addresses of the servers, as they document them, mostly with ``/v1`` and perhaps with a query:
            [http://node1:8000/v1, http://node2:8000/v1].
        api_key_env: NAME of the environment variable with the key; null if the server needs none.
        extra_body: JSON object of further fields of every request, e.g.
            '{"chat_template_kwargs": {"enable_thinking": false}}'. A field that is null is not sent at all, also one of
            ours: '{"seed": null, "max_tokens": null, "max_completion_tokens": 2000}'. Part of the requests' identity,
            except seed and the limits of a reply.
        routing: which of several servers gets a request.
        structured_output: whether the server is asked to enforce the reply's JSON schema (``response_format``).
        initial_concurrency: requests in flight per server at the start; grows until the server answers 429 or 503.
        max_concurrency: requests in flight per server at most.
        connect_seconds: time limit for a connection.
        request_seconds: time limit from sending a request to the last byte of its reply.
        max_attempts: failures (no connection, time-out, 5xx, a page instead of a reply) after which a request is given
            up. A busy server (429, 503) is not a failure: the request waits. A reply that was paid for is never one.
        patience_seconds: how long the servers may answer nobody, busy or away, until the run ends.
        backoff_seconds: first wait after a failure; it doubles, up to 30 s.
        max_response_bytes: a longer reply cannot be read.
    """

    model: str = ""
    base_urls: list[str] = field(default_factory=list)
    api_key_env: str | None = None
    extra_body: str = ""
    routing: Routing = Routing.by_group
    structured_output: StructuredOutput = StructuredOutput.auto
    initial_concurrency: int = 16
    max_concurrency: int = 256
    connect_seconds: float = 10.0
    request_seconds: float = 600.0
    max_attempts: int = 6
    patience_seconds: float = 900.0
    backoff_seconds: float = 0.5
    max_response_bytes: int = 4 * 1024 * 1024

    def __post_init__(self) -> None:
        for name in ("initial_concurrency", "max_concurrency", "max_attempts", "max_response_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1 is needed. Raise it.")
        for name in ("connect_seconds", "request_seconds", "patience_seconds", "backoff_seconds"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)}: a finite time above 0 is needed. Set one.")
        for url in self.base_urls:
            refuse_secrets(url)
        if self.api_key_env is not None and (not self.api_key_env.isidentifier() or _KEY.search(self.api_key_env)):
            raise ValueError(
                "api_key_env: this is no name of an environment variable, perhaps the key itself (it is not repeated "
                "here). Export the key, e.g. as TEACHER_KEY, and set api_key_env=TEACHER_KEY."
            )
        key = None if self.api_key_env is None else os.environ.get(self.api_key_env, "").strip()
        given = json.dumps([self.model, *self.base_urls])
        if _holds_key(self.extra_fields(), key) or _KEY.search(given) or (key and key in given):
            raise ValueError(
                "teacher: a key stands in extra_body, base_urls or model, and the files of a run would hold it. Export "
                "it, and name the variable in api_key_env."
            )

    def extra_fields(self) -> dict[str, Any]:
        """``extra_body`` as a dictionary.

        Raises:
            ValueError: it is not a JSON object.
        """
        try:
            fields = json.loads(self.extra_body or "{}")
        except (ValueError, RecursionError) as error:
            raise ValueError(f"extra_body: not JSON ({error}). Write an object, or nothing.") from None
        if not isinstance(fields, dict):
            raise ValueError("extra_body: no JSON object. Write one in braces, or nothing.")
        return fields

    def limit_of(self, max_tokens: int | None) -> int | None:
        """The limit of a reply that a request with ``max_tokens`` is sent with; None if it is sent without."""
        given = {name: value for name, value in self.extra_fields().items() if name in _LIMITS}
        limits = {"max_tokens": max_tokens, **given}.values()
        return min((limit for limit in limits if isinstance(limit, int)), default=None)

    def identity(self) -> str:
        """The model, and the extra fields if there are any: what the replies depend on.

        Not the limits of a reply, which only decide whether it was cut, and not the seed.
        """
        extra = {name: value for name, value in self.extra_fields().items() if name not in ("seed", *_LIMITS)}
        return f"{self.model} {json.dumps(extra, sort_keys=True)}" if extra else self.model

    def api_key(self) -> str | None:
        """The key's value.

        Raises:
            ValueError: the variable is named but not set.
        """
        if self.api_key_env is None:
            return None
        value = os.environ.get(self.api_key_env, "").strip()
        if not value:
            raise ValueError(
                f"api_key_env={self.api_key_env}: this environment variable is not set. Export it, or set "
                "api_key_env=null for a server without a key."
            )
        return value


def _holds_key(value: Any, key: str | None) -> bool:
    """Whether a field is named like a key, or a text looks like one or is the one in the environment."""
    if isinstance(value, dict):
        return any(_KEY_NAME.fullmatch(name) or _holds_key(child, key) for name, child in value.items())
    if isinstance(value, list):
        return any(_holds_key(child, key) for child in value)
    return isinstance(value, str) and bool(_KEY.search(value) or (key and key in value))
