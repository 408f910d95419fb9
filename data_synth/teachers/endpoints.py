"""A pool of servers with one model: routing, back-off, and ejection of failed servers until they recover.

A server is *busy* (it answered 429 or 503: fewer requests, after the pause it asked for), or *away* (several failures
in a row: no requests until a probe succeeds). Waiting requests are served first come, first served, so that a
document's requests stay together; one that a busy server turned away keeps its place.
"""

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

from openai import AsyncOpenAI

from data_synth.teachers.concurrency import AdaptiveConcurrency
from data_synth.teachers.settings import Routing, TeacherConfig
from data_synth.teachers.teacher import TeacherGone

log = logging.getLogger(__name__)

_FAILURES_TO_EJECT = 3
_LONGEST_WAIT = 30.0  # seconds, of pauses that the server did not ask for, and between probes
_LONGEST_RETRY_AFTER = 300.0


@dataclass(eq=False)
class Endpoint:
    """One server.

    Attributes:
        refused_schemas, proven_schemas: prompts whose schema this server refused, or has followed once.
        failed_schemas: how often this server failed with a prompt's schema and answered without it.
        has_answered: whether it ever sent a chat completion.
        paused_until: loop time before which it gets no request.
        num_overloads, num_failures: in a row.
    """

    url: str
    client: AsyncOpenAI
    concurrency: AdaptiveConcurrency
    refused_schemas: set[str] = field(default_factory=set)
    proven_schemas: set[str] = field(default_factory=set)
    failed_schemas: Counter[str] = field(default_factory=Counter)
    has_answered: bool = False
    paused_until: float = float("-inf")
    num_overloads: int = 0
    num_failures: int = 0
    is_away: bool = False


class EndpointPool:
    """Assigns requests to servers and adapts to their outcomes.

    Args:
        endpoints: the servers.
        config: routing, waiting times.
        probe: returns whether a server responds.

    Attributes:
        num_answers: of all servers.
        last_answer: loop time of the latest; minus infinity before the first.
    """

    def __init__(
        self, endpoints: list[Endpoint], config: TeacherConfig, probe: Callable[[Endpoint], Awaitable[bool]]
    ) -> None:
        self.endpoints = endpoints
        self._config = config
        self._probe = probe
        self._waiting: list[tuple[int, int, asyncio.Future[Endpoint], str]] = []  # a heap
        self._tickets = count()
        self._probes: set[asyncio.Task[None]] = set()
        self._giving_up: asyncio.TimerHandle | None = None
        self._gone: TeacherGone | None = None
        self.num_answers = 0
        self.last_answer = float("-inf")

    def ticket(self) -> int:
        """A place in the line, behind all places given before."""
        return next(self._tickets)

    async def acquire(self, affinity: str, ticket: int | None = None) -> Endpoint:
        """Waits for a server with capacity; the caller passes it to ``release`` afterwards.

        Args:
            affinity: see ``Request``.
            ticket: the place in the line; a new one by default.

        Raises:
            TeacherGone: all servers have been away for ``patience_seconds``.
        """
        if self._gone is not None:
            raise self._gone
        endpoint = self._take(affinity) if not self._waiting else None
        if endpoint is not None:
            return endpoint
        turn: asyncio.Future[Endpoint] = asyncio.get_running_loop().create_future()
        place = self.ticket()
        heappush(self._waiting, (place if ticket is None else ticket, place, turn, affinity))
        self._wake()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.release(turn.result())  # assigned just before the cancellation: pass it on
            raise

    def release(self, endpoint: Endpoint) -> None:
        """Frees the capacity that ``acquire`` took."""
        endpoint.concurrency.in_flight -= 1
        self._wake()

    def succeeded(self, endpoint: Endpoint) -> None:
        """Records that the server answered, be it with a refusal."""
        self.num_answers += 1
        self.last_answer = asyncio.get_running_loop().time()
        endpoint.concurrency.succeeded()
        endpoint.num_failures = endpoint.num_overloads = 0

    def overloaded(self, endpoint: Endpoint, started: float, retry_after: float | None) -> None:
        """Records that the server refused a request as overloaded (429, 503, 529), and pauses it.

        Args:
            endpoint: the server.
            started: loop time at which the request was sent.
            retry_after: seconds that the server asked for; None if it did not.
        """
        loop = asyncio.get_running_loop()
        if endpoint.concurrency.overloaded(started, loop.time()):
            endpoint.num_overloads += 1
        wait = min(self._config.backoff_seconds * 2.0 ** min(endpoint.num_overloads - 1, 16), _LONGEST_WAIT)
        pause = wait if retry_after is None else min(retry_after, _LONGEST_RETRY_AFTER)
        pause = min(pause, self._config.patience_seconds)  # a request that gives up must not wait for the pause to end
        endpoint.paused_until = max(endpoint.paused_until, loop.time() + pause)
        loop.call_at(endpoint.paused_until, self._wake)

    def failed(self, endpoint: Endpoint, reason: str) -> None:
        """Records that a request got no usable answer; several in a row eject the server."""
        endpoint.num_failures += 1
        if endpoint.num_failures < _FAILURES_TO_EJECT or endpoint.is_away:
            return
        log.warning("%s: no requests for now, after %d failures: %s", endpoint.url, endpoint.num_failures, reason)
        endpoint.is_away = True
        loop = asyncio.get_running_loop()
        if all(other.is_away for other in self.endpoints):
            self._giving_up = loop.call_later(self._config.patience_seconds, self._give_up, reason)
        probe = loop.create_task(self._probe_until_back(endpoint))
        self._probes.add(probe)
        probe.add_done_callback(self._probes.discard)

    async def close(self) -> None:
        """Stops all probes."""
        for probe in self._probes:
            probe.cancel()
        if self._giving_up is not None:
            self._giving_up.cancel()

    def _take(self, affinity: str) -> Endpoint | None:
        now = asyncio.get_running_loop().time()
        free = [
            endpoint
            for endpoint in self.endpoints
            if not endpoint.is_away and endpoint.paused_until <= now and endpoint.concurrency.has_room
        ]
        if not free:
            return None
        if affinity and len(free) > 1 and self._config.routing is Routing.by_group:
            # Rendezvous hashing: when a server is ejected, only its own documents move.
            chosen = max(free, key=lambda endpoint: _rank(endpoint.url, affinity))
        else:
            chosen = min(free, key=lambda endpoint: endpoint.concurrency.in_flight)
        chosen.concurrency.in_flight += 1
        return chosen

    def _wake(self) -> None:
        """Assigns waiting requests while servers have capacity."""
        while self._waiting:
            _, _, turn, affinity = self._waiting[0]
            if not turn.done():
                endpoint = self._take(affinity)
                if endpoint is None:
                    return
                turn.set_result(endpoint)
            heappop(self._waiting)

    def _give_up(self, reason: str) -> None:
        seconds = self._config.patience_seconds
        self._gone = TeacherGone(f"no server has answered for {seconds:g} s; the last failure: {reason}")
        for _, _, turn, _ in self._waiting:
            if not turn.done():
                turn.set_exception(self._gone)
        self._waiting.clear()

    async def _probe_until_back(self, endpoint: Endpoint) -> None:
        wait = self._config.backoff_seconds
        while True:
            await asyncio.sleep(wait)
            if await self._probe(endpoint):
                break
            wait = min(wait * 2, _LONGEST_WAIT)
        log.warning("%s: responds again", endpoint.url)
        endpoint.is_away = False
        endpoint.num_failures = _FAILURES_TO_EJECT - 1  # one more failure, and it is away again
        endpoint.concurrency.restart()
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None
        self._wake()


def _rank(url: str, affinity: str) -> bytes:
    return hashlib.blake2b(f"{url}\0{affinity}".encode(errors="replace"), digest_size=8).digest()
