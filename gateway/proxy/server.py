"""The server of one listener: all connections of clients, and answers to data that is not a request."""

import asyncio
import uuid
from collections.abc import Callable
from typing import Final, TypeAlias

from gateway.core.model import Credential, Request
from gateway.core.reasons import Denial
from gateway.memo import RECURRING_HEADS
from gateway.proxy.downstream.connection import ClientConnection
from gateway.proxy.downstream.head_cache import HeadCache
from gateway.proxy.downstream.incoming import AnyRequest, Exchange
from gateway.proxy.downstream.limits import ConnectionLimiter, DeadlineMonitor, LimitExceeded, Limits
from gateway.proxy.refusals import ListenerContext
from gateway.telemetry.metrics import UNMATCHED, Limit

# A client that just got a response may be sending its next request. So a connection is closed as idle only
# after this time. A request until then is answered with `Connection: close`.
LAST_REQUEST_SECONDS: Final = 1.0
_DRAIN_TICK_SECONDS: Final = 0.05
# Seconds that an exchange may take to clean up after it was cut.
_CUT_OFF_SECONDS: Final = 0.2


ExchangeFactory: TypeAlias = Callable[[ClientConnection, AnyRequest, Credential | None], Exchange]
"""Makes the exchange for one request, from its connection, its head and its bearer token."""


class ConnectionServer:
    """Accepts the connections of clients, counts them, and ends them."""

    def __init__(
        self,
        context: ListenerContext,
        exchange: ExchangeFactory,
        *,
        limits: Limits,
        exempt: Callable[[str], bool],
    ) -> None:
        """`exempt` returns whether an address may have any number of connections."""
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._connections: dict[ClientConnection, str] = {}
        self._limiter = ConnectionLimiter(limits, exempt)
        self.limits = limits
        self.deadlines = DeadlineMonitor(self._loop, limits.check_every)
        self.head_cache = HeadCache(
            context.pipeline.remembered,
            context.pipeline.heads,
            RECURRING_HEADS,
            min(limits.head_size, limits.field_size),
        )
        self.exchange = exchange
        self.draining = False
        """True once each connection closes after its next response."""
        context.metrics.client_connections.also((), lambda: self._limiter.total)
        context.metrics.in_flight.also((), lambda: sum(connection.busy for connection in self._connections))

    def __call__(self, client: str = "") -> ClientConnection:
        """Return the protocol of a new connection. `client`: its address, if the peer speaks for another."""
        return ClientConnection(self, self._loop, client)

    # Called by connections -----------------------------------------------------------------------

    def enter(self, connection: ClientConnection, transport: asyncio.Transport) -> bool:
        """Accept a connection. If there are too many, answer it without reading from it; return False."""
        try:
            self._connections[connection] = self._limiter.enter(connection.peer)
        except LimitExceeded as exceeded:
            self.refuse(connection, exceeded)
            transport.close()
            return False
        return True

    def leave(self, connection: ClientConnection) -> None:
        client = self._connections.pop(connection, None)
        if client is not None:
            self._limiter.leave(client)

    def refuse(self, connection: ClientConnection, denial: Denial, target: str = "") -> None:
        """Answer, count and log a denial of data that did not become a request.

        `target` is its target, if it was read; it is not logged.
        """
        request = Request("UNKNOWN", "", (), connection.peer, connection.scheme, uuid.uuid4().hex)
        status, response = self._context.deny_unread(request, denial, target)
        connection.write(response)
        self._context.metrics.finished(UNMATCHED, request.method, status, 0.0)
        sent = len(response.partition(b"\r\n\r\n")[2])
        self._context.log.finished(request, UNMATCHED, status, 0.0, sent=sent)

    def count(self, limit: Limit) -> None:
        self._context.metrics.limit_exceeded(limit)

    def cut_off(self, connection: ClientConnection, limit: Limit) -> None:
        """Reset a connection whose client does not read its response."""
        self.count(limit)
        self._context.log.limit_exceeded(limit, connection.peer)
        connection.break_off()

    # The end -------------------------------------------------------------------------------------

    async def drain(self, seconds: float, *, grace: float = LAST_REQUEST_SECONDS) -> None:
        """Finish the requests in flight for up to `seconds`, and close the connections.

        An idle connection is closed when no request has come for `grace` seconds. Requests until then are
        answered. Unfinished requests are cut at the end. The listener must have stopped accepting before.
        """
        self.draining = True
        started = self._loop.time()
        # Connections that were just accepted call `enter` in the next turns of the event loop.
        await asyncio.sleep(_DRAIN_TICK_SECONDS)
        while self._connections and (now := self._loop.time()) < started + seconds:
            if now >= started + grace:
                for connection in tuple(self._connections):
                    connection.close_when_idle(now - grace)
            await asyncio.sleep(_DRAIN_TICK_SECONDS)
        for connection in tuple(self._connections):
            connection.cut()
        until = self._loop.time() + _CUT_OFF_SECONDS
        while self._connections and self._loop.time() < until:  # noqa: ASYNC110 -- no event reports it
            await asyncio.sleep(_DRAIN_TICK_SECONDS / 10)
