"""Limits on what a server may send, as a hook of the HTTP client."""

from collections.abc import AsyncIterator, Awaitable, Callable

import httpx2

ENCODING = "content_encoding"
"""Key of a response's ``Content-Encoding`` in its extensions."""


class _BoundedStream(httpx2.AsyncByteStream):
    """The body of a response, which ends with the chunk that exceeds ``max_bytes``."""

    def __init__(self, stream: httpx2.AsyncByteStream, max_bytes: int) -> None:
        self._stream, self._max_bytes = stream, max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        num_bytes = 0
        async for chunk in self._stream:
            num_bytes += len(chunk)
            yield chunk
            if num_bytes > self._max_bytes:
                return

    async def aclose(self) -> None:
        await self._stream.aclose()


def bound_to(max_bytes: int) -> Callable[[httpx2.Response], Awaitable[None]]:
    """A hook that bounds a response's body, and leaves its compression to ``inflate``."""

    async def hook(response: httpx2.Response) -> None:
        # Compression was not requested. It is undone by ``inflate``, which has a limit, and not by the transport.
        response.extensions[ENCODING] = response.headers.pop("content-encoding", "").strip()
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _BoundedStream(response.stream, max_bytes)

    return hook
