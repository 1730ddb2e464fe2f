"""Connections to one endpoint: those in use, those kept for later, and the requests that wait."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from gateway.core.reasons import OVERLOADED, Denial
from gateway.proxy.upstream.connection import UpstreamConnection
from gateway.proxy.upstream.options import UpstreamRules


class Pool:
    """At most `max_connections` connections, and at most `max_pending` waiting requests, in order."""

    def __init__(self, rules: UpstreamRules, dial: Callable[[], Awaitable[UpstreamConnection]]) -> None:
        """`dial` opens a connection, and may raise `Denial`."""
        self._rules = rules
        self._dial = dial
        # In the order in which they became idle.
        self._idle: dict[UpstreamConnection, None] = {}
        self._waiting: deque[asyncio.Future[UpstreamConnection | None]] = deque()
        self._reaper: asyncio.TimerHandle | None = None
        self._closed = False
        self.active = 0
        """Connections in an exchange, or being opened for one."""

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def pending(self) -> int:
        return len(self._waiting)

    @property
    def outstanding(self) -> int:
        """Requests in an exchange, or about to begin one."""
        return self.active + len(self._waiting)

    @property
    def full(self) -> bool:
        """True if a request would have to wait."""
        return self.active >= self._rules.max_connections

    def take(self, now: float, *, once: bool = False) -> UpstreamConnection | None:
        """Take the idle connection that was used last; None if there is none. `now`: the loop's clock.

        `once`: the request must not be sent a second time, so a connection that was just closed is not
        suitable.
        """
        oldest = now - self._rules.keep_alive
        while self._idle:
            connection, _ = self._idle.popitem()
            good = connection.idle_since >= oldest and connection.transport is not None
            if good and not (once and connection.is_closed()):
                self.active += 1
                return connection
            connection.abort()
        return None

    async def acquire(self, *, fresh: bool, once: bool = False) -> UpstreamConnection:
        """Take an idle connection, open one, or wait for one. `fresh`: it must be new.

        `once` is as in `take`.

        Raises `Denial`: `overloaded`, or the denial of a connection that cannot be opened.
        """
        if not fresh:
            connection = self.take(asyncio.get_running_loop().time(), once=once)
            if connection is not None:
                return connection
        if self.full:
            handed = await self._wait()
            if handed is not None:
                if not (fresh or (once and handed.is_closed())):
                    return handed
                handed.abort()
        else:
            self.active += 1
            self._make_room()
        try:
            return await self._dial()
        except BaseException:
            self._hand_on(None)
            raise

    def release(self, connection: UpstreamConnection) -> None:
        """Take a connection back after its exchange."""
        if not connection.end():
            self._hand_on(None)
        elif self._closed or connection.idle_since - connection.opened_at > self._rules.max_age:
            connection.abort()
            self._hand_on(None)
        else:
            self._hand_on(connection)

    def lost(self, connection: UpstreamConnection) -> None:
        """Forget an idle connection that has ended."""
        self._idle.pop(connection, None)

    def close(self) -> None:
        """Keep no more connections. Those in use are closed when they come back."""
        self._closed = True
        for connection in self._idle:
            connection.abort()
        self._idle.clear()
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None

    # ---------------------------------------------------------------------------------------------

    def _make_room(self) -> None:
        """Close the oldest idle connection, if there is one too many."""
        if self.active + len(self._idle) > self._rules.max_connections and self._idle:
            connection = next(iter(self._idle))
            del self._idle[connection]
            connection.abort()

    async def _wait(self) -> UpstreamConnection | None:
        """Wait for a place in `active`; with a connection, or with None to open one there."""
        rules = self._rules
        if len(self._waiting) >= rules.max_pending:
            raise Denial(OVERLOADED, f"{rules.max_pending} requests wait for a connection to {rules.name}")
        place: asyncio.Future[UpstreamConnection | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            async with asyncio.timeout(rules.connect_timeout):
                return await place
        except (TimeoutError, asyncio.CancelledError) as error:
            if place.done() and not place.cancelled():
                # The connection was given to this caller just when the caller was cancelled.
                self._hand_on(place.result())
            elif place in self._waiting:
                self._waiting.remove(place)
            if isinstance(error, asyncio.CancelledError):
                raise
            raise Denial(OVERLOADED, f"no connection to {rules.name} became free in time") from error

    def _hand_on(self, connection: UpstreamConnection | None) -> None:
        """Give a place in `active`, with its connection if any, to the request that waits longest."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(connection)
                return
        self.active -= 1
        if connection is None:
            return
        if self._closed:
            connection.abort()
            return
        self._idle[connection] = None
        if self._reaper is None:
            self._reap_in(self._rules.keep_alive)

    def _reap_in(self, seconds: float) -> None:
        self._reaper = asyncio.get_running_loop().call_later(seconds, self._reap)

    def _reap(self) -> None:
        """Close the connections that were idle for too long."""
        self._reaper = None
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = next(iter(self._idle))
            left = connection.idle_since + self._rules.keep_alive - now
            if left > 0:
                self._reap_in(left)
                return
            del self._idle[connection]
            connection.abort()
