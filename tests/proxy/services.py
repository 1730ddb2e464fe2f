"""Upstreams of a test's own, and one request to them without a gateway in front."""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from gateway.proxy.connection import UpstreamConnection
from gateway.proxy.response_parser import ResponseHead, ResponseParser
from gateway.proxy.upstream import RetryReason, Upstream
from tests.sockets import PATIENCE, RawUpstream

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class RecordingObserver:
    """`gateway.proxy.upstream.Observer`."""

    def __init__(self) -> None:
        self.retries: list[tuple[str, RetryReason]] = []

    def upstream_retried(self, upstream: str, reason: RetryReason) -> None:
        self.retries.append((upstream, reason))


@dataclass
class Answer:
    head: ResponseHead
    body: bytes
    connection: UpstreamConnection


async def exchange(service: Upstream, *, fresh: bool = False) -> Answer:
    """Make one request on a connection, and give it back."""
    connection = await service.acquire(fresh=fresh)
    try:
        connection.begin(REQUEST, ResponseParser(bodiless=False))
        head = await connection.next_head()
        body = b""
        while data := await connection.read():
            body += data
    finally:
        service.release(connection)
    return Answer(head, body, connection)


class TlsUpstream(RawUpstream):
    """A server that speaks TLS."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__()
        self._context = context
        self.names: list[str] = []
        """The server names that clients asked for (SNI)."""
        context.sni_callback = lambda _, name, __: self.names.append(name)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", 0, ssl=self._context, limit=2**16
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self


class UnixUpstream(RawUpstream):
    """A server on a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @property
    def url(self) -> str:
        return f"unix:{self.path}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._accept, self.path, limit=2**16)
        return self


class ManyUpstreams(AbstractAsyncContextManager["ManyUpstreams"]):
    """Several servers at once."""

    def __init__(self, number: int) -> None:
        self.servers = [RawUpstream() for _ in range(number)]

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(server.url for server in self.servers)

    @property
    def requests(self) -> list[int]:
        return [len(server.requests) for server in self.servers]

    async def __aenter__(self) -> Self:
        for server in self.servers:
            await server.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self.servers:
            await server.__aexit__(kind, error, trace)


async def settled(condition: Callable[[], object]) -> None:
    """Wait until something is true."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 -- it happens on sockets, which set no event
            await asyncio.sleep(0.005)
