"""The health path of the data plane: 200 or 503, without a token. It is never forwarded."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Final

from gateway.core.model import Credential
from gateway.proxy.downstream.connection import ClientConnection
from gateway.proxy.downstream.incoming import AnyRequest, Exchange
from gateway.proxy.errors import date_line
from gateway.proxy.server import ExchangeFactory
from gateway.telemetry.metrics import Metrics

ROUTE: Final = "health_path"
"""The label of these requests in metrics."""
_METHODS: Final = frozenset({"GET", "HEAD"})
# Any client may ask. So the dependencies are asked once in this time at most.
_FRESH_SECONDS: Final = 1.0


class HealthPath:
    """The path, and the answer that all requests of the next moment get."""

    def __init__(
        self,
        path: str,
        *,
        serves: Callable[[], Awaitable[bool]],
        draining: Callable[[], bool],
        metrics: Metrics,
    ) -> None:
        """Know no answer yet.

        `serves` asks whether requests are taken, `draining` returns whether the gateway stops.
        """
        self._path = path
        self._serves = serves
        self._draining = draining
        self.metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._known = False
        self._known_until = 0.0

    def before(self, otherwise: ExchangeFactory) -> ExchangeFactory:
        """Return a factory that handles requests for this path here, and all others by `otherwise`."""

        def exchange(
            connection: ClientConnection, incoming: AnyRequest, credential: Credential | None
        ) -> Exchange:
            if self.takes(incoming):
                return HealthExchange(self, connection, incoming)
            return otherwise(connection, incoming, credential)

        return exchange

    def takes(self, incoming: AnyRequest) -> bool:
        """Return whether a request is for this path. Any other spelling of it is not: it has no route."""
        return incoming.target.partition("?")[0] == self._path and incoming.method in _METHODS

    def recall(self) -> bool | None:
        """Return whether requests are taken, if that is known."""
        if self._draining():
            return False
        return self._known if self._loop.time() < self._known_until else None

    async def ask(self) -> bool:
        """Return whether requests are taken."""
        self._known = await self._serves()
        self._known_until = self._loop.time() + _FRESH_SECONDS
        return self._known and not self._draining()


class HealthExchange:
    """One request for the health path. An `Exchange`."""

    __slots__ = ("_client", "_health", "_incoming", "_started", "_task")

    def __init__(self, health: HealthPath, client: ClientConnection, incoming: AnyRequest) -> None:
        self._health = health
        self._client = client
        self._incoming = incoming
        self._started = perf_counter()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        known = self._health.recall()
        if known is None:
            self._task = asyncio.get_running_loop().create_task(self._ask())
        else:
            self._answer(known)

    async def _ask(self) -> None:
        self._answer(await self._health.ask())

    def _answer(self, healthy: bool) -> None:  # noqa: FBT001 -- the answer itself
        incoming, client = self._incoming, self._client
        status, reason = (200, "OK") if healthy else (503, "Service Unavailable")
        body = b'{"status":"%b"}' % (b"ready" if healthy else b"not_ready")
        keep_alive = client.keeps_alive(incoming)
        ending = "" if keep_alive else "Connection: close\r\n"
        head = (
            f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"Cache-Control: no-store\r\n{date_line()}X-Request-Id: {random.getrandbits(128):032x}\r\n"
            f"{ending}\r\n"
        ).encode("ascii")
        client.write(head if incoming.method == "HEAD" else head + body)
        self._health.metrics.finished(ROUTE, incoming.method, status, perf_counter() - self._started)
        client.finished(keep_alive=keep_alive)

    def body_arrived(self) -> None:
        self._client.stop_reading()

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def client_left(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def cut(self) -> None:
        self.client_left()
        self._client.abort()
