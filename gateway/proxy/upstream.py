"""The services behind the gateway, and the pools of connections kept to each.

This is the seam of forwarding: whoever forwards takes a connection with `acquire`, runs one
exchange on it, and gives it back with `release`.
"""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from gateway.core.reasons import UPSTREAM_TIMEOUT, UPSTREAM_UNREACHABLE, Denial
from gateway.proxy.connection import UpstreamConnection

# Most servers close an idle connection after 5 s or more; ours are given up before that.
MAX_IDLE_SECONDS: Final = 4.0
MAX_IDLE_CONNECTIONS: Final = 256


@dataclass(frozen=True, slots=True)
class UpstreamRules:
    """Where an upstream is, and how long it may take."""

    name: str
    urls: tuple[str, ...]
    connect_timeout: float = 2.0
    response_timeout: float = 30.0
    """Seconds from the end of the request to the head of its response."""


@dataclass(frozen=True, slots=True)
class _Address:
    host: str
    port: int
    tls: bool


class Upstream:
    """One upstream: its addresses, used in turn, and its idle connections, the warmest first."""

    def __init__(self, rules: UpstreamRules) -> None:
        self.name = rules.name
        self.response_timeout = rules.response_timeout
        self._connect_timeout = rules.connect_timeout
        self._addresses = tuple(_address(url) for url in rules.urls)
        self._turn = 0
        self._idle: list[UpstreamConnection] = []
        self.active = 0
        """Connections in an exchange."""

    @property
    def idle(self) -> int:
        return len(self._idle)

    async def acquire(self, *, fresh: bool = False) -> UpstreamConnection:
        """Take an idle connection, or open one; `fresh` asks for one that was never used.

        Raises `Denial`: `upstream_unreachable` or `upstream_timeout`.
        """
        connection = None if fresh else self._take_idle()
        if connection is None:
            connection = await self._connect()
        self.active += 1
        return connection

    def release(self, connection: UpstreamConnection) -> None:
        """Give a connection back after its exchange, whatever became of it."""
        self.active -= 1
        if connection.end() and len(self._idle) < MAX_IDLE_CONNECTIONS:
            self._idle.append(connection)
        else:
            connection.abort()

    def close(self) -> None:
        for connection in self._idle:
            connection.abort()
        self._idle.clear()

    def _take_idle(self) -> UpstreamConnection | None:
        oldest = asyncio.get_running_loop().time() - MAX_IDLE_SECONDS
        while self._idle:
            connection = self._idle.pop()
            if connection.idle_since < oldest:
                # Those below it have waited longer still.
                connection.abort()
                self.close()
            elif connection.usable:
                return connection
        return None

    async def _connect(self) -> UpstreamConnection:
        """Open a connection to the next address; each is tried once before giving up."""
        loop = asyncio.get_running_loop()
        failure: Denial | None = None
        for _ in self._addresses:
            address = self._addresses[self._turn % len(self._addresses)]
            self._turn += 1
            try:
                async with asyncio.timeout(self._connect_timeout):
                    _, connection = await loop.create_connection(
                        lambda: UpstreamConnection(loop), address.host, address.port, ssl=address.tls or None
                    )
            except TimeoutError as error:
                failure = Denial(UPSTREAM_TIMEOUT, f"connecting to {self.name} took too long")
                failure.__cause__ = error
            except OSError as error:
                failure = Denial(UPSTREAM_UNREACHABLE, f"connecting to {self.name} failed: {error.strerror}")
                failure.__cause__ = error
            else:
                return connection
        assert failure is not None  # noqa: S101 -- an upstream has at least one address
        raise failure


class Upstreams:
    """Every upstream by its name."""

    def __init__(self, rules: Iterable[UpstreamRules]) -> None:
        self._upstreams = {rule.name: Upstream(rule) for rule in rules}

    def __getitem__(self, name: str) -> Upstream:
        return self._upstreams[name]

    def __iter__(self) -> Iterator[Upstream]:
        return iter(self._upstreams.values())

    def close(self) -> None:
        for upstream in self._upstreams.values():
            upstream.close()


def _address(url: str) -> _Address:
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    return _Address(parts.hostname or "", parts.port or (443 if tls else 80), tls)
