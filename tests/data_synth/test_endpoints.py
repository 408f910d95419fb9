"""The queue of requests: none is lost or overtaken, ejected servers come back."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from openai import AsyncOpenAI

from data_synth.teachers.concurrency import AdaptiveConcurrency
from data_synth.teachers.endpoints import Endpoint, EndpointPool
from data_synth.teachers.settings import TeacherConfig
from data_synth.teachers.teacher import TeacherGone


def in_pool(
    use: Callable[[EndpointPool], Awaitable[None]],
    *,
    room: int = 1,
    num_endpoints: int = 1,
    answers: bool = True,
    patience: float = 60.0,
) -> None:
    async def probe(endpoint: Endpoint) -> bool:
        return answers

    async def go() -> None:
        endpoints = [
            Endpoint(
                f"http://server-{number}",
                AsyncOpenAI(api_key="none", base_url="http://server"),
                AdaptiveConcurrency(room, room),
            )
            for number in range(num_endpoints)
        ]
        pool = EndpointPool(endpoints, TeacherConfig(backoff_seconds=0.02, patience_seconds=patience), probe)
        await use(pool)
        await pool.close()

    asyncio.run(go())


def test_first_come_first_served() -> None:
    async def use(pool: EndpointPool) -> None:
        served: list[int] = []

        async def work(number: int) -> None:
            endpoint = await pool.acquire("")
            served.append(number)
            await asyncio.sleep(0.001)
            pool.release(endpoint)

        await asyncio.gather(*(work(number) for number in range(30)))
        assert served == list(range(30))

    in_pool(use, room=3)


def test_a_turn_that_is_given_and_not_taken_goes_to_the_next() -> None:
    """The waiter is cancelled between the moment it gets its turn and the moment it runs."""

    async def use(pool: EndpointPool) -> None:
        endpoint = await pool.acquire("")
        first, second = asyncio.create_task(pool.acquire("")), asyncio.create_task(pool.acquire(""))
        await asyncio.sleep(0)
        pool.release(endpoint)
        first.cancel()
        assert await asyncio.wait_for(second, 1) is endpoint
        assert first.cancelled()
        assert endpoint.concurrency.in_flight == 1

    in_pool(use)


def test_one_cancelled_in_the_line_is_passed_over() -> None:
    async def use(pool: EndpointPool) -> None:
        endpoint = await pool.acquire("")
        first, second = asyncio.create_task(pool.acquire("")), asyncio.create_task(pool.acquire(""))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        pool.release(endpoint)
        assert await asyncio.wait_for(second, 1) is endpoint

    in_pool(use)


def test_a_pause_keeps_everybody_waiting_and_then_nobody() -> None:
    async def use(pool: EndpointPool) -> None:
        loop = asyncio.get_running_loop()
        endpoint = await pool.acquire("")
        pool.overloaded(endpoint, loop.time(), 0.1)
        pool.release(endpoint)
        started = loop.time()
        await asyncio.wait_for(pool.acquire(""), 1)
        assert loop.time() - started >= 0.099

    in_pool(use)


def test_failures_with_successes_between_them_leave_a_server_in_place(caplog: pytest.LogCaptureFixture) -> None:
    async def use(pool: EndpointPool) -> None:
        (endpoint,) = pool.endpoints
        for _ in range(3):
            pool.failed(endpoint, "oh")
            pool.failed(endpoint, "oh")
            pool.succeeded(endpoint)
        assert not endpoint.is_away
        for _ in range(3):
            pool.failed(endpoint, "oh")
        assert endpoint.is_away

    in_pool(use)
    assert len(caplog.records) == 1


def test_a_server_that_is_back_gets_one_request_first_and_goes_at_its_first_failure() -> None:
    async def use(pool: EndpointPool) -> None:
        (endpoint,) = pool.endpoints
        for _ in range(3):
            pool.failed(endpoint, "oh")
        assert await asyncio.wait_for(pool.acquire(""), 1) is endpoint
        assert endpoint.concurrency.limit == 1
        pool.failed(endpoint, "oh")
        assert endpoint.is_away

    in_pool(use, room=8)


def test_one_server_that_is_back_in_time_saves_the_run() -> None:
    async def use(pool: EndpointPool) -> None:
        for endpoint in pool.endpoints:
            for _ in range(3):
                pool.failed(endpoint, "oh")
        await asyncio.sleep(0.3)  # longer than the patience
        await asyncio.wait_for(pool.acquire(""), 1)

    in_pool(use, num_endpoints=2, patience=0.15)


def test_without_any_server_those_in_line_and_those_to_come_are_told() -> None:
    async def use(pool: EndpointPool) -> None:
        for endpoint in pool.endpoints:
            for _ in range(3):
                pool.failed(endpoint, "the plug was pulled")
        for _ in range(2):
            with pytest.raises(TeacherGone, match="plug"):
                await asyncio.wait_for(pool.acquire(""), 1)

    in_pool(use, num_endpoints=2, answers=False, patience=0.1)


def test_a_full_server_sends_its_documents_elsewhere_and_gets_them_back() -> None:
    async def use(pool: EndpointPool) -> None:
        home = await pool.acquire("document 1")
        other = await pool.acquire("document 1")
        assert other is not home
        pool.release(home)
        assert await pool.acquire("document 1") is home

    in_pool(use, num_endpoints=2)
