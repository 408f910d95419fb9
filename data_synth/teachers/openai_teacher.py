"""A teacher behind one or several OpenAI-compatible servers, through the ``openai`` client.

One client per server, with limits and time-outs of its own; its retries are disabled, as this module and endpoints.py
have their own policy. The client provides transport, headers and key. Chat requests are sent over that transport
directly: the client's own preparation of a request costs more CPU time than everything else together. A reply that is
not a chat completion counts as a failure.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import httpx2
from openai import APIConnectionError, APIStatusError, AsyncOpenAI, DefaultAioHttpClient, Omit

from data_synth.teachers.addresses import check_base_url, is_loopback
from data_synth.teachers.concurrency import AdaptiveConcurrency
from data_synth.teachers.endpoints import Endpoint, EndpointPool
from data_synth.teachers.settings import StructuredOutput, TeacherConfig
from data_synth.teachers.teacher import TeacherRefusal, TeacherUnavailable
from data_synth.work import Reply, Request

_OVERLOADED = (429, 503, 529)
_RETRIED = (408, 409, 425)  # besides all of 5xx
_FATAL = (401, 402, 403, 404)
_KEEP_ALIVE_SECONDS = 4.0  # below the 5 s after which uvicorn (vLLM, SGLang) closes an idle connection
_TELEMETRY = (
    "Lang", "Package-Version", "OS", "Arch", "Runtime", "Runtime-Version", "Async", "Retry-Count", "Read-Timeout",
)  # fmt: skip
_MAX_MESSAGE = 500  # characters of a server's error message that are repeated
_SHORTEST_SECRET = 8  # characters; a shorter key ("EMPTY" of a local server) is an ordinary word of replies
_MOST_TOKENS = 10**9  # that a reply is believed to have taken
# The client's telemetry about this machine costs a fifth of a request's time and is not wanted.
_HEADERS: Any = {
    **dict.fromkeys((f"X-Stainless-{name}" for name in _TELEMETRY), Omit()),
    "Content-Type": "application/json",
    "Accept-Encoding": "identity",
}


class _OverloadedError(Exception):
    def __init__(self, words: str, retry_after: float | None) -> None:
        super().__init__(words)
        self.retry_after = retry_after


class _FailureError(Exception):
    pass


@dataclass(frozen=True)
class _Line:
    """What requests to one server have in common."""

    transport: httpx2.AsyncClient
    address: httpx2.URL
    headers: httpx2.Headers
    extensions: dict[str, Any]


class OpenAITeacher:
    """See ``TeacherConfig``. Lives in one event loop; ``async with`` closes its connections."""

    def __init__(self, config: TeacherConfig) -> None:
        if not config.model or not config.base_urls:
            raise ValueError(
                "teacher: model and base_urls are needed. Set both, e.g. base_urls=[http://localhost:8000/v1]."
            )
        self.model = config.identity()
        self._lines: dict[str, _Line] = {}  # by base URL
        self._config = config
        self._key = config.api_key()
        self._extra = config.extra_fields()
        urls = dict.fromkeys(check_base_url(url) for url in config.base_urls)
        self._pool = EndpointPool([self._endpoint(url) for url in urls], config, self._answers)

    async def __aenter__(self) -> "OpenAITeacher":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._pool.close()
        for endpoint in self._pool.endpoints:
            await endpoint.client.close()

    async def complete(self, request: Request) -> Reply:
        """The reply of a server with capacity, with retries as configured.

        Raises:
            TeacherRefusal: with the server's message.
            TeacherUnavailable: attempts or patience are exhausted; ``TeacherGone`` if all servers are away.
        """
        loop = asyncio.get_running_loop()
        out_of_patience = loop.time() + self._config.patience_seconds
        num_failures = 0
        while True:
            endpoint = await self._pool.acquire(request.affinity)
            started = loop.time()
            try:
                reply = await self._ask(endpoint, request)
                self._pool.succeeded(endpoint)
                return reply
            except TeacherRefusal:
                self._pool.succeeded(endpoint)  # the server works
                raise
            except _OverloadedError as busy:
                self._pool.overloaded(endpoint, started, busy.retry_after)
                if loop.time() > out_of_patience:
                    raise TeacherUnavailable(f"{endpoint.url} was busy too long: {busy}") from None
            except _FailureError as failure:
                self._pool.failed(endpoint, str(failure))
                num_failures += 1
                if num_failures >= self._config.max_attempts:
                    raise TeacherUnavailable(f"{num_failures} attempts; the last, {endpoint.url}: {failure}") from None
            finally:
                self._pool.release(endpoint)
            if num_failures:
                wait = min(self._config.backoff_seconds * 2.0 ** (num_failures - 1), 30.0)
                await asyncio.sleep(wait * random.uniform(0.5, 1.0))

    async def _ask(self, endpoint: Endpoint, request: Request) -> Reply:
        """One request, with the schema if the server accepts it."""
        mode, prompt = self._config.structured_output, request.prompt
        if request.schema is None or mode is StructuredOutput.never or prompt in endpoint.refused_schemas:
            return await self._post(endpoint, self._body(request))
        try:
            reply = await self._post(endpoint, self._body(request) | {"response_format": _response_format(request)})
        except TeacherRefusal as refusal:
            if refusal.is_fatal or mode is StructuredOutput.always or prompt in endpoint.proven_schemas:
                raise
            reply = await self._post(endpoint, self._body(request))  # refused again: it was not the schema
            endpoint.refused_schemas.add(prompt)
            return reply
        endpoint.proven_schemas.add(prompt)
        return reply

    def _body(self, request: Request) -> dict[str, Any]:
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": self._config.model,
            "messages": [{"role": message.role, "content": _whole(message.content)} for message in request.messages],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
        }
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        return body | self._extra

    async def _post(self, endpoint: Endpoint, body: dict[str, Any]) -> Reply:
        try:
            async with asyncio.timeout(self._config.request_seconds):
                line = self._lines[endpoint.url]
                content = json.dumps(body).encode()
                response = await line.transport.send(
                    httpx2.Request(
                        "POST", line.address, headers=line.headers, content=content, extensions=line.extensions
                    )
                )
        except TimeoutError:
            raise _FailureError(f"no reply within {self._config.request_seconds:g} s") from None
        except (httpx2.HTTPError, aiohttp.ClientError) as error:
            raise _FailureError(self._scrubbed(str(error) or type(error).__name__)) from None
        if response.status_code != 200:
            raise self._status_error(endpoint, _as_error(response)) from None
        return _read_reply(response.content, self._without_key)

    def _status_error(self, endpoint: Endpoint, error: APIStatusError) -> Exception:
        status, headers = error.status_code, error.response.headers
        words = self._scrubbed(_words_of(error))
        is_out_of_money = status == 429 and error.code == "insufficient_quota"
        if status in _OVERLOADED and not is_out_of_money:
            return _OverloadedError(f"{status} {words}", _retry_after(headers.get("retry-after")))
        if status >= 500 or status in _RETRIED:
            return _FailureError(f"{status} {words}")
        if status < 400:
            words = "it redirects, and redirects are not followed. Give its final address as base_url"
        message = f"{endpoint.url} refuses ({status}): {words}"
        return TeacherRefusal(message, status, is_fatal=status < 400 or status in _FATAL or is_out_of_money)

    async def _answers(self, endpoint: Endpoint) -> bool:
        """Whether the server responds: any status below 500 counts, as not every server lists its models."""
        try:
            async with asyncio.timeout(self._config.connect_seconds):
                await endpoint.client.get("/models", cast_to=httpx2.Response)
        except APIStatusError as error:
            return error.status_code < 500
        except (TimeoutError, APIConnectionError, httpx2.HTTPError, aiohttp.ClientError):
            return False
        return True

    def _endpoint(self, url: str) -> Endpoint:
        config = self._config
        timeout = httpx2.Timeout(config.request_seconds, connect=config.connect_seconds)
        limits = httpx2.Limits(
            max_connections=config.max_concurrency + 1,  # one more for the probe
            max_keepalive_connections=config.max_concurrency,
            keepalive_expiry=_KEEP_ALIVE_SECONDS,
        )
        http_client = DefaultAioHttpClient(
            timeout=timeout,
            limits=limits,
            follow_redirects=False,
            trust_env=not is_loopback(url),  # a proxy cannot reach this machine's own servers
            event_hooks={"response": [_bound_to(config.max_response_bytes)]},
        )
        # A key is always given, so that the client does not read one from the environment.
        client = AsyncOpenAI(
            base_url=url,
            api_key=self._key or "none",
            max_retries=0,
            timeout=timeout,
            http_client=http_client,
            default_headers=_HEADERS,
        )
        given = {**client.auth_headers, **client.default_headers}
        headers = {name: value for name, value in given.items() if isinstance(value, str)}
        address = httpx2.URL(f"{url}/chat/completions")
        self._lines[url] = _Line(http_client, address, httpx2.Headers(headers), {"timeout": timeout.as_dict()})
        return Endpoint(url, client, AdaptiveConcurrency(config.initial_concurrency, config.max_concurrency))

    def _scrubbed(self, words: str) -> str:
        """Truncated and without the key, which some servers repeat in their errors."""
        return (words.replace(self._key, "***") if self._key else words)[:_MAX_MESSAGE]

    def _without_key(self, text: str) -> str:
        """A reply as it may be stored: what a server repeats of a request's header would go into the training data."""
        return text.replace(self._key, "***") if self._key and len(self._key) >= _SHORTEST_SECRET else text


class _BoundedStream(httpx2.AsyncByteStream):
    """The body of a response; raises if it exceeds ``max_bytes``."""

    def __init__(self, stream: httpx2.AsyncByteStream, max_bytes: int) -> None:
        self._stream, self._max_bytes = stream, max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        num_bytes = 0
        async for chunk in self._stream:
            num_bytes += len(chunk)
            if num_bytes > self._max_bytes:
                raise httpx2.ReadError(f"the reply is longer than max_response_bytes={self._max_bytes}")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


def _bound_to(max_bytes: int) -> Any:
    async def hook(response: httpx2.Response) -> None:
        if response.headers.get("content-encoding", "identity") != "identity":
            # Not requested; a few compressed bytes could expand to gigabytes.
            raise httpx2.ReadError("the reply is compressed though identity was requested", request=response.request)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _BoundedStream(response.stream, max_bytes)

    return hook


def _response_format(request: Request) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "reply", "schema": request.schema, "strict": True}}


def _read_reply(content: bytes, without_key: Callable[[str], str]) -> Reply:
    try:
        body = json.loads(content)
        choice = body["choices"][0]
        text, finish_reason = choice["message"]["content"] or "", choice.get("finish_reason") or "stop"
        usage = body.get("usage") or {}
        reply = Reply(
            without_key(_whole(text)),
            without_key(str(finish_reason)),
            _count(usage.get("prompt_tokens")),
            _count(usage.get("completion_tokens")),
        )
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        shown = without_key(content.decode(errors="replace"))[:80]
        raise _FailureError(f"the reply is no chat completion ({type(error).__name__}): {shown!r}") from None
    if finish_reason in ("abort", "error"):
        raise _FailureError(f"the server broke off: finish_reason {finish_reason}")
    return reply


def _count(value: Any) -> int:
    """A number of tokens that the ledger can add up, whatever the server wrote."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return int(max(0, min(value, _MOST_TOKENS))) if is_number and value == value else 0


def _as_error(response: httpx2.Response) -> APIStatusError:
    """The client's own error, which parses code and message from a vendor's JSON."""
    try:
        body = json.loads(response.content)
    except (ValueError, RecursionError):
        body = None
    words = response.text or f"Error code: {response.status_code}"
    return APIStatusError(words, response=response, body=body.get("error", body) if isinstance(body, dict) else body)


def _words_of(error: APIStatusError) -> str:
    body = error.body
    if isinstance(body, dict):
        inner = body.get("error", body)
        body = inner.get("message", inner) if isinstance(inner, dict) else inner
    return str(body or error.message).strip()


def _retry_after(value: str | None) -> float | None:
    """Seconds; the date form is ignored."""
    try:
        seconds = float(value) if value is not None else None
    except ValueError:
        return None
    return seconds if seconds is not None and 0 <= seconds < float("inf") else None


def _whole(text: str) -> str:
    """The text with unpaired surrogates, which UTF-8 cannot represent, replaced."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
