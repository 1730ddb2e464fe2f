"""Upstreams for tests, and direct requests to them without a gateway."""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from gateway.core.reasons import Denial
from gateway.proxy.upstream.balancer import RetryReason, Upstream
from gateway.proxy.upstream.connection import UpstreamConnection
from gateway.proxy.upstream.parser import ResponseHead, ResponseParser
from tests.sockets import PATIENCE, RawUpstream

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class RecordingObserver:
    """`gateway.proxy.upstream.balancer.Observer`."""

    def __init__(self) -> None:
        self.retries: list[tuple[str, RetryReason]] = []

    def upstream_retried(self, upstream: str, reason: RetryReason) -> None:
        self.retries.append((upstream, reason))


class Receiver:
    """`gateway.proxy.upstream.connection.Receiver`: collects a response."""

    def __init__(self) -> None:
        self.heads: list[ResponseHead] = []
        self.body = b""
        self.batches: list[int] = []
        """The sizes of the pieces in which the body arrived."""
        self.times_writable = 0
        self.complete = False
        """True once the complete response has arrived."""
        self._denial: Denial | None = None
        self._change = asyncio.Event()

    def arrived(self, parser: ResponseParser, body: bytes) -> None:
        self.heads += parser.heads
        parser.heads.clear()
        self.body += body
        self.batches.append(len(body))
        self.complete = parser.complete
        self._change.set()

    def failed(self, denial: Denial) -> None:
        self._denial = denial
        self._change.set()

    def writable(self) -> None:
        self.times_writable += 1
        self._change.set()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition on the response. Raises the `Denial` that arrived instead."""
        while not condition():
            if self._denial is not None:
                raise self._denial
            self._change.clear()
            await self._change.wait()

    async def more(self) -> None:
        """Wait until more of the body has arrived, or its end."""
        await self.more_than(len(self.body))

    async def more_than(self, size: int) -> None:
        await self.until(lambda: self.complete or len(self.body) > size)

    async def head(self) -> ResponseHead:
        await self.until(lambda: self.heads)
        return self.heads[0]

    async def whole(self) -> bytes:
        await self.until(lambda: self.complete)
        return self.body


async def acquire(service: Upstream, *, fresh: bool = False) -> UpstreamConnection:
    """Get a connection as an exchange does."""
    connection = None if fresh else service.take()
    return connection or await service.open(fresh=fresh)


@dataclass
class Answer:
    head: ResponseHead
    body: bytes
    connection: UpstreamConnection


async def exchange(service: Upstream, *, fresh: bool = False) -> Answer:
    """Make one request on a connection, and release it."""
    connection = await acquire(service, fresh=fresh)
    receiver = Receiver()
    try:
        connection.begin(REQUEST, ResponseParser(bodiless=False), receiver)
        body = await receiver.whole()
    finally:
        connection.owner.release(connection)
    return Answer(receiver.heads[0], body, connection)


class TlsUpstream(RawUpstream):
    """A server that speaks TLS."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__()
        self._context = context
        self.names: list[str] = []
        """The server names in the clients' handshakes (SNI)."""
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
    """Several servers."""

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
    """Wait until the condition is true."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 -- it happens on sockets, which set no event
            await asyncio.sleep(0.005)
