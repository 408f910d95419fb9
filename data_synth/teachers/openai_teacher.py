"""A teacher behind one or several OpenAI-compatible servers, through the ``openai`` client.

One client per server, with limits and time-outs of its own; its retries are disabled, as this module and endpoints.py
have their own policy. The client provides transport, headers and key. Chat requests are sent over that transport
directly: the client's own preparation of a request costs more CPU time than everything else together. What comes back
is read in ``completions.py`` and ``troubles.py``.
"""

import asyncio
import json
import logging
import random
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import httpx2
from openai import AsyncOpenAI, DefaultAioHttpClient, Omit

from data_synth.teachers.addresses import address_of, check_base_url, is_loopback, other_base_urls
from data_synth.teachers.chat_body import chat_body, response_format
from data_synth.teachers.completions import ErrorInBodyError, NoCompletionError, inflate, read_completion
from data_synth.teachers.concurrency import AdaptiveConcurrency
from data_synth.teachers.endpoints import Endpoint, EndpointPool
from data_synth.teachers.settings import StructuredOutput, TeacherConfig
from data_synth.teachers.teacher import TeacherRefusal, TeacherSilent, TeacherUnavailable
from data_synth.teachers.transport import ENCODING, bound_to
from data_synth.teachers.troubles import FailureError, OverloadedError, trouble_of, words_of
from data_synth.work import Reply, Request

log = logging.getLogger(__name__)

_CHAT = "/chat/completions"
_REFUSALS_AS_BUSY = 20  # of one request, while as many others are answered: the server means this request
_REFUSALS_AT_FRONT = 3  # of one request, before it goes to the end of the line
_FAILURES_WITH_SCHEMA = 2  # of a prompt or of a request, before it is asked without
_KEEP_ALIVE_SECONDS = 4.0  # below the 5 s after which uvicorn (vLLM, SGLang) closes an idle connection
_TELEMETRY = (
    "Lang", "Package-Version", "OS", "Arch", "Runtime", "Runtime-Version", "Async", "Retry-Count", "Read-Timeout",
)  # fmt: skip
_MAX_MESSAGE = 500  # characters of a server's error message that are repeated
_SHORTEST_SECRET = 8  # characters; a shorter key ("EMPTY" of a local server) is an ordinary word of replies

# The client's telemetry about this machine costs a fifth of a request's time and is not wanted.
_HEADERS: Any = {
    **dict.fromkeys((f"X-Stainless-{name}" for name in _TELEMETRY), Omit()),
    "Content-Type": "application/json",
    "Accept-Encoding": "identity",
}


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
        self._searching = asyncio.Lock()
        self._searched: set[str] = set()  # base URLs of servers whose API was looked for elsewhere
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

    def limit_of(self, request: Request) -> int | None:
        """The limit of a reply that the request is sent with; None if it is sent without."""
        return self._config.limit_of(request.sampling.max_tokens)

    async def complete(self, request: Request) -> Reply:
        """The reply of a server with capacity, with retries as configured.

        Raises:
            TeacherRefusal: with the server's message.
            TeacherUnavailable: the attempts are exhausted; ``TeacherSilent`` if the servers were busy and answered
                nobody for too long, ``TeacherGone`` if all are away.
        """
        loop = asyncio.get_running_loop()
        num_failures = num_refusals = answers_before = 0
        busy_since = float("inf")
        ticket = self._pool.ticket()
        while True:
            endpoint = await self._pool.acquire(request.affinity, ticket)
            started = loop.time()
            try:
                reply = await self._ask(endpoint, request, num_failures)
                self._pool.succeeded(endpoint)
                return reply
            except TeacherRefusal:
                self._pool.succeeded(endpoint)  # the server works
                raise
            except OverloadedError as busy:
                self._pool.overloaded(endpoint, started, busy.retry_after)
                if not num_refusals:
                    busy_since, answers_before = started, self._pool.num_answers
                num_refusals += 1
                if num_refusals % _REFUSALS_AT_FRONT == 0:
                    ticket = self._pool.ticket()  # perhaps the server means this request: let others pass
                # Time in our own line is not the server's: what counts is how long it answered nobody.
                silence = loop.time() - max(busy_since, self._pool.last_answer)
                if silence > self._config.patience_seconds:
                    raise TeacherSilent(
                        f"{endpoint.url} was busy and answered nobody for {silence:.0f} s: {busy}"
                    ) from None
                num_others = self._pool.num_answers - answers_before
                if min(num_refusals, num_others) >= _REFUSALS_AS_BUSY:
                    told = f"{endpoint.url} answered {num_others} others and was busy {num_refusals} times for this"
                    raise TeacherRefusal(f"{told}: {busy}", 429) from None
            except FailureError as failure:
                self._pool.failed(endpoint, str(failure))
                num_failures += 1
                if num_failures >= self._config.max_attempts:
                    raise TeacherUnavailable(f"{num_failures} attempts; the last, {endpoint.url}: {failure}") from None
            finally:
                self._pool.release(endpoint)
            if num_failures:
                wait = min(self._config.backoff_seconds * 2.0 ** (num_failures - 1), 30.0)
                await asyncio.sleep(wait * random.uniform(0.5, 1.0))

    async def _ask(self, endpoint: Endpoint, request: Request, num_failures: int) -> Reply:
        """One request, with the schema if the server accepts it."""
        mode, prompt, body = self._config.structured_output, request.prompt, chat_body(self._config, request)
        if request.schema is None or mode is StructuredOutput.never or prompt in endpoint.refused_schemas:
            return await self._post(endpoint, body)
        is_auto = mode is StructuredOutput.auto
        if is_auto and num_failures >= _FAILURES_WITH_SCHEMA:
            return await self._post(endpoint, body)  # perhaps only this item's grammar is too much for the server
        try:
            reply = await self._post(endpoint, body | {"response_format": response_format(request)})
        except (TeacherRefusal, FailureError) as error:
            is_refusal = isinstance(error, TeacherRefusal)
            is_other = error.is_fatal if isinstance(error, TeacherRefusal) else error.status is None
            if is_other or not is_auto or prompt in endpoint.proven_schemas:
                raise
            reply = await self._post(endpoint, body)  # in trouble again: it was not the schema
            endpoint.failed_schemas[prompt] += 1
            is_enough = is_refusal or endpoint.failed_schemas[prompt] >= _FAILURES_WITH_SCHEMA
            if is_enough and prompt not in endpoint.refused_schemas:
                endpoint.refused_schemas.add(prompt)
                log.warning("%s: asked without structured output from now on: %s", endpoint.url, error)
            return reply
        endpoint.proven_schemas.add(prompt)
        return reply

    async def _post(self, endpoint: Endpoint, body: dict[str, Any]) -> Reply:
        line = self._lines[endpoint.url]
        response = await self._send(line, body)
        if not endpoint.has_answered and _is_no_chat(response, endpoint.url):
            response = await self._elsewhere(endpoint, line, body) or response
        max_bytes, encoding = self._config.max_response_bytes, response.extensions.get(ENCODING, "")
        try:
            if not 200 <= response.status_code < 300:
                error = inflate(response.content, max_bytes, encoding)
                raise self._trouble(endpoint, response.status_code, error or b"", response.headers) from None
            reply = read_completion(response.content, max_bytes, encoding)
        except ErrorInBodyError as error:
            content = json.dumps(error.body).encode()
            raise self._trouble(endpoint, error.status, content, response.headers) from None
        except NoCompletionError as error:
            raise FailureError(self._scrubbed(f"the reply is {error}")) from None
        endpoint.has_answered = True
        return self._without_key(reply)

    async def _send(self, line: _Line, body: dict[str, Any]) -> httpx2.Response:
        try:
            async with asyncio.timeout(self._config.request_seconds):
                # A stream, not content: that copies and decodes all headers to add Host and Content-Length, which the
                # transport sets as well.
                stream = httpx2.ByteStream(json.dumps(body).encode())
                request = httpx2.Request(
                    "POST", line.address, headers=line.headers, stream=stream, extensions=line.extensions
                )
                request.read()
                return await line.transport.send(request)
        except TimeoutError:
            raise FailureError(f"no reply within {self._config.request_seconds:g} s") from None
        except (httpx2.HTTPError, aiohttp.ClientError) as error:
            raise FailureError(self._scrubbed(str(error) or type(error).__name__)) from None

    async def _elsewhere(self, endpoint: Endpoint, tried: _Line, body: dict[str, Any]) -> httpx2.Response | None:
        """The response of another address of a server that has no chat completions at ``tried``; None if there is none.

        Raises:
            TeacherRefusal: the server has no API at the base URL at all.
        """
        async with self._searching:
            line = self._lines[endpoint.url]
            if line.address != tried.address:
                return await self._send(line, body)  # found while this request was waiting
            if endpoint.url in self._searched:
                return None
            for base in other_base_urls(endpoint.url):
                other = replace(line, address=httpx2.URL(address_of(base, _CHAT)))
                response = await self._send(other, body)
                if not _is_no_chat(response, base):
                    log.warning("base_urls: %s has no chat completions, %s has. Write that one.", endpoint.url, base)
                    self._lines[endpoint.url] = other
                    return response
            self._searched.add(endpoint.url)
            return None

    def _trouble(self, endpoint: Endpoint, status: int, content: bytes, headers: httpx2.Headers) -> Exception:
        text = content[: self._config.max_response_bytes].decode("utf-8-sig", "replace")
        try:
            body = json.loads(text)
        except (ValueError, RecursionError):
            body = None
        words = self._scrubbed(words_of(body, text)) or f"error {status} without a word"
        if status in (404, 405) and not endpoint.has_answered and "model" not in words.lower():
            others = " or ".join(other_base_urls(endpoint.url))
            words += f" (no chat completions at {address_of(endpoint.url, _CHAT)}, nor below {others}: see base_urls)"
        return trouble_of(endpoint.url, status, body, words, headers)

    async def _answers(self, endpoint: Endpoint) -> bool:
        """Whether the server responds: any status below 500 counts, as not every server lists its models."""
        line = self._lines[endpoint.url]
        address = httpx2.URL(address_of(endpoint.url, "/models"))
        request = httpx2.Request("GET", address, headers=line.headers, extensions=line.extensions)
        try:
            async with asyncio.timeout(self._config.connect_seconds):
                return (await line.transport.send(request)).status_code < 500
        except (TimeoutError, httpx2.HTTPError, aiohttp.ClientError):
            return False

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
            event_hooks={"response": [bound_to(config.max_response_bytes)]},
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
        if self._key and "api-version=" in url:
            headers["api-key"] = self._key  # where Azure looks for it
        address = httpx2.URL(address_of(url, _CHAT))
        self._lines[url] = _Line(http_client, address, httpx2.Headers(headers), {"timeout": timeout.as_dict()})
        return Endpoint(url, client, AdaptiveConcurrency(config.initial_concurrency, config.max_concurrency))

    def _scrubbed(self, words: str) -> str:
        """Truncated and without the key, which some servers repeat in their errors."""
        return (words.replace(self._key, "***") if self._key else words)[:_MAX_MESSAGE]

    def _without_key(self, reply: Reply) -> Reply:
        """As it may be stored: what a server repeats of a request's header would go into the training data."""
        key = self._key
        if not key or len(key) < _SHORTEST_SECRET or (key not in reply.text and key not in reply.finish_reason):
            return reply
        return replace(
            reply, text=reply.text.replace(key, "***"), finish_reason=reply.finish_reason.replace(key, "***")
        )


def _is_no_chat(response: httpx2.Response, base_url: str) -> bool:
    """Whether an address serves something other than the API: nothing, or the page of a site."""
    is_page = response.status_code == 200 and response.content[:200].lstrip()[:1] == b"<"
    return response.status_code in (404, 405) or (is_page and "/v1" not in base_url)
