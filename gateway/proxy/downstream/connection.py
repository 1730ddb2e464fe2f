"""One connection of a client: its requests in order, its limits, and its end.

Each request is an `Exchange`. The next one begins when it is over. Pipelined requests are answered in order;
while one waits, the connection reads no more than one piece ahead.

=========== =============================== =========== ====================================================
State       Event                           Next        What follows
=========== =============================== =========== ====================================================
waiting     a request has arrived           busy        its exchange begins
waiting     the data is not HTTP            leaving     the client gets the error
waiting     no head came in time            leaving
waiting     idle for too long, or draining  leaving
busy        the exchange is over            waiting     the next request that has arrived begins
busy        the last exchange is over       leaving
busy        the client ends its direction   closed      the connection is reset
busy        another protocol takes over     tunnel      it gets the data that has arrived
tunnel      the exchange is over            leaving
leaving     all is sent, and the rest of    closed
            the client's data has come
any         the connection is lost, or cut  closed      the exchange is told
=========== =============================== =========== ====================================================

In `waiting` and `busy`, reading pauses while the upstream takes no more of the body, and while requests wait
for their exchange.
"""

import asyncio
import socket
import struct
from typing import Final, Literal, Protocol, TypeAlias, cast

from gateway.core.model import Credential
from gateway.core.reasons import Denial
from gateway.proxy.downstream.head_cache import HeadCache
from gateway.proxy.downstream.incoming import AnyRequest, Exchange, Incoming
from gateway.proxy.downstream.limits import DeadlineMonitor, LimitExceeded, Limits
from gateway.proxy.downstream.lingering_close import LingeringClose
from gateway.proxy.downstream.pace import Pace
from gateway.proxy.downstream.parser import RequestParser
from gateway.telemetry.metrics import Limit

# The most data that is kept for another protocol until the upstream accepts or refuses that protocol.
_MOST_EARLY: Final = 64 * 1024
# The most pipelined requests that are answered in one turn of the event loop.
_MOST_IN_A_ROW: Final = 16
# With this option, closing drops unsent data and sends RST (`struct linger` of POSIX sockets).
_NO_LINGER: Final = struct.pack("ii", 1, 0)

State: TypeAlias = Literal["waiting", "busy", "tunnel", "leaving", "closed"]


class Server(Protocol):
    """The shared parts of all connections: `gateway.proxy.server.ConnectionServer`."""

    limits: Limits
    deadlines: DeadlineMonitor
    draining: bool
    head_cache: HeadCache

    def enter(self, connection: "ClientConnection", transport: asyncio.Transport) -> bool:
        """Accept a connection; return False if it was refused."""

    def leave(self, connection: "ClientConnection") -> None: ...

    def exchange(
        self, connection: "ClientConnection", incoming: AnyRequest, credential: Credential | None
    ) -> Exchange: ...

    def refuse(self, connection: "ClientConnection", denial: Denial, target: str) -> None:
        """Answer data that did not become a request. `target` is its target, if it was read."""

    def count(self, limit: Limit) -> None: ...

    def cut_off(self, connection: "ClientConnection", limit: Limit) -> None:
        """Reset a connection whose client does not read its response."""


class ClientConnection(asyncio.Protocol):
    """A connection of a client. The table above has its states."""

    __slots__ = (
        "_exchange", "_idle_timer", "_incoming", "_lingering", "_loop", "_pace", "_parser",
        "_reading_paused", "_served", "_server", "_starting", "_state", "_transport", "_upstream_full",
        "idle_since", "peer", "scheme", "writing_paused",
    )  # fmt: skip

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop, client: str = "") -> None:
        """`client`: its address, if the peer speaks for another by the PROXY protocol."""
        self._server = server
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser = RequestParser(server.limits, server.head_cache)
        self._state: State = "waiting"
        self._exchange: Exchange | None = None
        """The current request, in `busy` and `tunnel`."""
        self._incoming: AnyRequest | None = None
        self._starting = False
        """True while `_start` runs: a request that is over at once must not call it again."""
        self._lingering: LingeringClose | None = None
        self._upstream_full = False
        """True while the upstream takes no more of the body."""
        self._reading_paused = False
        self._served = 0
        self._idle_timer: asyncio.TimerHandle | None = None
        self._pace = Pace()
        self.peer = client
        """The address of the client, or of the proxy that it uses; empty on a Unix socket."""
        self.scheme: Literal["http", "https"] = "http"
        self.idle_since = loop.time()
        """When it last began to wait for a request, on the loop's clock."""
        self.writing_paused = False
        """True while the client has not taken enough of the written data."""

    # Connections ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, because uvloop's transports do not inherit from asyncio's.
        self._transport = opened = cast("asyncio.Transport", transport)
        peername = opened.get_extra_info("peername")
        self.peer = self.peer or (peername[0] if isinstance(peername, tuple) else "")
        self.scheme = "http" if opened.get_extra_info("sslcontext") is None else "https"
        if self._server.enter(self, opened):
            self._server.deadlines.watch(self)
        else:
            self._state = "leaving"

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        self._state, self._transport = "closed", None
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if self._lingering is not None:
            self._lingering.cancel()
        self._server.leave(self)
        self._server.deadlines.forget(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_left()

    def eof_received(self) -> None:
        """Treat the end of one direction as the end of both, because a client that leaves looks the same."""
        if self._exchange is not None:
            self.break_off()

    @property
    def transport(self) -> asyncio.Transport | None:
        """The open transport; None once it is closing."""
        transport = self._transport
        return None if transport is None or transport.is_closing() else transport

    @property
    def busy(self) -> bool:
        """True while there is a current request."""
        return self._exchange is not None

    # Requests ------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        if self._state == "waiting":
            if not self.writing_paused and (known := parser.recall(data)) is not None:
                self._begin(*known)
                return
        elif self._state == "leaving":
            if self._lingering is not None:
                self._lingering.received(data)
            return
        incoming = self._incoming
        arriving = incoming is not None and not incoming.complete
        parser.feed(data)
        if self._exchange is None:
            self._start()
        elif arriving:
            self._exchange.body_arrived()
        if parser.arrived or parser.rest is not None:
            self._pause_or_resume()
        if parser.pending or parser.current is not None:
            self._server.deadlines.watch(self)

    def _start(self) -> None:
        """Begin the next request, and after each request that is over at once the one after it."""
        arrived = self._parser.arrived
        if self._starting or not arrived:
            return
        self._starting = True
        begun = 0
        while arrived and self._state == "waiting" and not self.writing_paused:
            if begun == _MOST_IN_A_ROW:
                # Each may have verified a token, so let other connections have their turn.
                self._loop.call_soon(self._start)
                break
            begun += 1
            incoming = arrived.popleft()
            if not arrived and self._parser.ahead:
                self._parser.read_on()
            if not incoming.method and incoming.error is not None:
                self._server.refuse(self, incoming.error, incoming.target)
                self._leave()
                break
            self._begin(incoming, None)
        self._starting = False

    def _begin(self, incoming: AnyRequest, credential: Credential | None) -> None:
        """Begin a request. `credential` is its bearer token, if that differs from the one in `incoming`."""
        self._served += 1
        if self._served == self._server.limits.keepalive_requests:
            self._server.count("keepalive_requests")
        if not incoming.complete:
            self._pace.body.rest()
        self._state, self._incoming = "busy", incoming
        self._exchange = exchange = self._server.exchange(self, incoming, credential)
        exchange.begin()

    def finished(self, *, keep_alive: bool) -> None:
        """Continue after an exchange. `keep_alive`: another request may follow."""
        self._exchange = self._incoming = None
        self._upstream_full = False
        transport = self._transport
        if transport is not None and transport.get_write_buffer_size():
            # Some of the response has not been sent.
            self._server.deadlines.watch(self)
        if not keep_alive or transport is None:
            self._leave()
            return
        self._state = "waiting"
        parser = self._parser
        if parser.rest is not None and not parser.arrived:
            parser.resume()
        self.idle_since = self._loop.time()
        if parser.arrived:
            self._start()
        if self._reading_paused:
            self._pause_or_resume()
        if self._idle_timer is None:
            self._wait_until(self.idle_since + self._server.limits.keepalive_timeout)

    def keeps_alive(self, incoming: AnyRequest) -> bool:
        """Return whether the connection may serve another request after this one."""
        if not (incoming.keep_alive and incoming.complete):
            return False
        return not self._server.draining and self._served < self._server.limits.keepalive_requests

    def write(self, data: bytes) -> None:
        """Send a part of a response; drop it if the client has left."""
        if self._transport is not None:
            self._transport.write(data)

    # Back-pressure -------------------------------------------------------------------------------

    def stop_reading(self) -> None:
        """Read no more of the body until the upstream has taken the earlier part."""
        self._upstream_full = True
        self._pause_or_resume()

    def go_on_reading(self) -> None:
        self._upstream_full = False
        self._pause_or_resume()

    def _pause_or_resume(self) -> None:
        pause = self._state in {"waiting", "busy"} and (self._upstream_full or self._has_much_unhandled)
        if pause != self._reading_paused and self._transport is not None and not self._transport.is_closing():
            self._reading_paused = pause
            if pause:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    @property
    def _has_much_unhandled(self) -> bool:
        """True if requests wait for their exchange, or much data may belong to another protocol."""
        rest = self._parser.rest
        return bool(self._parser.arrived) or (rest is not None and len(rest) > _MOST_EARLY)

    def hand_over(self) -> bytes:
        """Give the connection to another protocol; return the data that has already arrived for it."""
        self._state = "tunnel"
        self._pause_or_resume()
        return bytes(self._parser.rest or b"")

    # Ends ----------------------------------------------------------------------------------------

    def _leave(self) -> None:
        """Close the connection once everything is sent. If more data may come, read and drop it first."""
        if self._state == "closed":
            return
        self._state = "leaving"
        transport, parser = self._transport, self._parser
        if transport is None or transport.is_closing():
            return
        if parser.current is not None or parser.broken or parser.arrived or parser.rest:
            self._pause_or_resume()
            if self._idle_timer is not None:
                self._idle_timer.cancel()
                self._idle_timer = None
            if self._lingering is None:
                self._lingering = LingeringClose(self._loop, transport, parser)
        else:
            transport.close()

    def close_when_idle(self, before: float) -> None:
        """Close the connection if it has been idle since `before`, on the loop's clock."""
        # A head that has begun to arrive is answered; it has its own time limit.
        if self._is_idle and self.idle_since <= before:
            self._leave()

    def cut(self) -> None:
        """End at once, even in the middle of a request."""
        if self._exchange is not None:
            self._exchange.cut()
        else:
            self.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def break_off(self) -> None:
        """Reset the connection, so that the client does not take half a body for a complete one."""
        transport = self._transport
        if transport is None:
            return
        connection = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        transport.abort()

    @property
    def _is_idle(self) -> bool:
        return self._state == "waiting" and not self._parser.pending

    def _wait_until(self, when: float) -> None:
        self._idle_timer = self._loop.call_at(when, self._check_idle)

    def _check_idle(self) -> None:
        """Close the connection if it was idle for too long. While it is busy, it has no timer."""
        self._idle_timer = None
        if not self._is_idle:
            return
        until = self.idle_since + self._server.limits.keepalive_timeout
        if self._loop.time() < until:
            self._wait_until(until)
        else:
            self._leave()

    # Times and rates -----------------------------------------------------------------------------

    def check(self, elapsed: float) -> bool:
        """Act if the client is too slow, `elapsed` seconds after the last call.

        Return False if nothing is expected of the client.
        """
        transport, parser = self._transport, self._parser
        if transport is None:
            return False
        pace, limits = self._pace, self._server.limits
        in_head = bool(parser.pending) or not self._served
        if not in_head or self._state != "waiting" or self._reading_paused:
            pace.rest_head()
        elif pace.head_is_late(elapsed, limits):
            self._end_late_head()
        incoming = self._incoming
        # Only the client's own slowness counts: not the upstream's, and not the wait for a 100.
        if parser.current is not None and isinstance(incoming, Incoming):
            waits = self._reading_paused or incoming.awaits_continue
            if not waits and pace.body_is_late(incoming.received, elapsed, limits):
                parser.fail(LimitExceeded("body_min_rate", f"{incoming.received} bytes so far"))
                if self._exchange is not None:
                    self._exchange.body_arrived()
        unsent = transport.get_write_buffer_size()
        more_may_come = self._exchange is not None and not self.writing_paused
        if pace.response_is_late(unsent, elapsed, limits, more_may_come=more_may_come):
            self._server.cut_off(self, "response_min_rate")
        return in_head or parser.current is not None or unsent > 0

    def _end_late_head(self) -> None:
        if self._parser.pending:
            self._parser.fail(LimitExceeded("header_timeout"))
            self._start()
        else:
            # Browsers open connections in advance. They would take an answer for one to their next request.
            self._server.count("header_timeout")
            self._leave()

    def pause_writing(self) -> None:
        self.writing_paused = True
        self._server.deadlines.watch(self)
        if self._exchange is not None:
            self._exchange.pause()

    def resume_writing(self) -> None:
        self.writing_paused = False
        self._pace.relieved = True
        if self._exchange is not None:
            self._exchange.resume()
        else:
            self._start()
            if self._reading_paused:
                self._pause_or_resume()
