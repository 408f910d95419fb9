"""A scripted local HTTP server with the chat completions API and injected faults.

Runs in a thread of the test. The answer is a function of the call, given by the test; it can also refuse, hang, reset,
send a wrong length and truncate replies.
"""

import asyncio
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any


@dataclass
class Call:
    """One request as it came in; ``attempt`` counts equal bodies from 0."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    attempt: int

    @cached_property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.body).hexdigest()


@dataclass
class Answer:
    """What is sent back.

    Attributes:
        delay: seconds before the first byte.
        cut: bytes of the whole response after which the connection is reset; None sends all.
        hangs: nothing is sent at all.
        drips: seconds between single bytes, so that no pause is ever long.
        raw: sent as it is instead of a response made of the other fields.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: int | None = None
    hangs: bool = False
    drips: float = 0.0
    raw: bytes | None = None

    def to_bytes(self) -> bytes:
        if self.raw is not None:
            return self.raw
        headers = {"Content-Type": "application/json", "Content-Length": str(len(self.body)), **self.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"HTTP/1.1 {self.status} Scripted\r\n{lines}\r\n".encode() + self.body


def completion(
    text: str | None, *, finish_reason: str = "stop", prompt_tokens: int = 7, completion_tokens: int = 3
) -> Answer:
    """A chat completion with one choice."""
    body = {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens},
    }
    return Answer(json.dumps(body).encode())


def error(status: int, message: str, **headers: str) -> Answer:
    """An error as OpenAI-compatible servers word it."""
    return Answer(json.dumps({"error": {"message": message}}).encode(), status, dict(headers))


class FakeServer:
    """``with FakeServer(script) as server: ... server.url``.

    Args:
        script: Call -> Answer, for POST /v1/chat/completions. GET /v1/models is answered by ``models``.
        models: status of GET /v1/models.
        keeps_calls: whether ``calls`` holds every call; ``num_requests`` counts them in any case.
    """

    def __init__(self, script: Callable[[Call], Answer], *, models: int = 200, keeps_calls: bool = True) -> None:
        self.script, self.models, self._keeps_calls = script, models, keeps_calls
        self.calls: list[Call] = []
        self.num_requests = self.num_in_flight = self.most_in_flight = self.num_probes = 0
        self.num_connections = 0
        self._attempts: Counter[bytes] = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._transports: set[asyncio.BaseTransport] = set()
        self._started = threading.Event()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> "FakeServer":
        self._thread.start()
        self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def stop_listening(self) -> None:
        """The server dies: no new connections, and the old ones are reset."""
        asyncio.run_coroutine_threadsafe(self._stop_listening(), self._loop).result(10)

    def listen_again(self) -> None:
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        self._started.set()
        self._loop.run_forever()
        for transport in self._transports:
            transport.close()
        self._server.close()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _listen(self) -> None:
        self._server = await self._loop.create_server(lambda: _Connection(self), "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop_listening(self) -> None:
        self._server.close()
        for transport in list(self._transports):
            transport.abort()  # type: ignore[attr-defined]

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        if method == "GET":
            self.num_probes += 1
            return Answer(b"{}", self.models)
        call = Call(method, path, headers, body, self._attempts[body])
        self._attempts[body] += 1
        self.num_requests += 1
        if self._keeps_calls:
            self.calls.append(call)
        return self.script(call)


class _Connection(asyncio.Protocol):
    def __init__(self, server: FakeServer) -> None:
        self._server, self._buffer = server, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server._transports.add(transport)
        self._server.num_connections += 1

    def connection_lost(self, error: Exception | None) -> None:
        self._server._transports.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        method, path, _ = first.split(" ")
        answer = self._server.answer(method, path, headers, rest[:length])
        self._server.num_in_flight += 1
        self._server.most_in_flight = max(self._server.most_in_flight, self._server.num_in_flight)
        asyncio.get_running_loop().call_later(answer.delay, self._send, answer)

    def _send(self, answer: Answer) -> None:
        self._server.num_in_flight -= 1
        if answer.hangs or self._transport.is_closing():
            return
        data = answer.to_bytes()
        if answer.drips:
            self._drip(data, answer.drips)
            return
        self._transport.write(data if answer.cut is None else data[: answer.cut])
        if answer.cut is not None:
            self._transport.abort() if answer.cut == 0 else self._transport.close()

    def _drip(self, data: bytes, seconds: float) -> None:
        if data and not self._transport.is_closing():
            self._transport.write(data[:1])
            asyncio.get_running_loop().call_later(seconds, self._drip, data[1:], seconds)
