"""One connection of a client: its requests in their order, its limits, and its end.

Each request is an `Exchange`; the next begins when it is over. What a client sends ahead is read no
further than one piece, and answered in its turn.

=========== =============================== =========== ====================================================
State       Event                           Next        What follows
=========== =============================== =========== ====================================================
waiting     a request has arrived           busy        its exchange begins
waiting     what arrived cannot be read     leaving     the error is answered
waiting     no head came in time            leaving
waiting     idle for too long, or draining  leaving
busy        the exchange is over, and may   waiting     the next request that has arrived begins
            be followed
busy        the exchange is over, and may   leaving
            not
busy        the client ends its direction   closed      the connection is reset
busy        another protocol takes over     tunnel      what has come already goes there
tunnel      the exchange is over            leaving
leaving     everything is sent, and what    closed
            may still come has come
any         the connection is lost, or cut  closed      the exchange hears of it
=========== =============================== =========== ====================================================

Reading pauses in `waiting` and `busy` while the upstream takes no more of the body, or while requests have
arrived that no exchange has begun.
"""

import asyncio
import socket
import struct
from typing import Final, Literal, Protocol, TypeAlias, cast

from gateway.core.model import Credential
from gateway.core.reasons import Denial
from gateway.proxy.downstream.head_cache import HeadCache
from gateway.proxy.downstream.incoming import AnyRequest, Incoming
from gateway.proxy.downstream.limits import DeadlineMonitor, LimitExceeded, Limits, TransferRate
from gateway.proxy.downstream.lingering_close import LingeringClose
from gateway.proxy.downstream.parser import RequestParser
from gateway.telemetry.metrics import Limit

# Of what may belong to another protocol, so much is kept until it is known whether it does.
_MOST_EARLY: Final = 64 * 1024
# So many pipelined requests that end at once are begun in one turn of the event loop.
_MOST_IN_A_ROW: Final = 16
# Closing discards what was not sent, and sends RST (`struct linger` of POSIX sockets).
_NO_LINGER: Final = struct.pack("ii", 1, 0)

State: TypeAlias = Literal["waiting", "busy", "tunnel", "leaving", "closed"]


class Exchange(Protocol):
    """One request's way: `gateway.proxy.exchange.Exchange`."""

    def begin(self) -> None: ...

    def body_arrived(self) -> None:
        """Hear that more of the request's body has come, its end, or its error."""

    def pause(self) -> None:
        """Hear that the client takes no more of the response for now."""

    def resume(self) -> None: ...

    def client_left(self) -> None: ...

    def cut(self) -> None:
        """End at once, because the gateway does."""


class Server(Protocol):
    """What all connections share: `gateway.proxy.server.ProxyServer`."""

    limits: Limits
    deadlines: DeadlineMonitor
    draining: bool
    head_cache: HeadCache

    def enter(self, connection: "ClientConnection", transport: asyncio.Transport) -> bool:
        """Take a connection in; False: it has been turned away."""

    def leave(self, connection: "ClientConnection") -> None: ...

    def exchange(
        self, connection: "ClientConnection", incoming: AnyRequest, credential: Credential | None
    ) -> Exchange: ...

    def refuse(self, connection: "ClientConnection", denial: Denial) -> None:
        """Answer what never became a request."""

    def count(self, limit: Limit) -> None: ...

    def cut_off(self, connection: "ClientConnection", limit: Limit) -> None:
        """Break a connection whose client does not take its response."""


class ClientConnection(asyncio.Protocol):
    """A connection, from its first byte to its last."""

    __slots__ = (
        "_body_rate", "_exchange", "_head_age", "_idle_timer", "_incoming", "_lingering", "_loop", "_parser",
        "_reading_paused", "_relieved", "_response_rate", "_served", "_server", "_starting", "_state",
        "_transport", "_unsent", "_upstream_full", "idle_since", "peer", "scheme", "writing_paused",
    )  # fmt: skip

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser = RequestParser(server.limits, server.head_cache)
        self._state: State = "waiting"
        self._exchange: Exchange | None = None
        """The request that is being handled, in `busy` and `tunnel`."""
        self._incoming: AnyRequest | None = None
        self._starting = False
        """True while `_start` begins requests: one that is over at once must not call it again."""
        self._lingering: LingeringClose | None = None
        self._upstream_full = False
        """True while the upstream takes no more of the body."""
        self._reading_paused = False
        self._served = 0
        self._idle_timer: asyncio.TimerHandle | None = None
        self._head_age: float | None = None
        self._body_rate = TransferRate()
        self._response_rate = TransferRate()
        self._unsent = 0
        self._relieved = False
        self.peer = ""
        """The address of the other end; empty on a Unix socket."""
        self.scheme: Literal["http", "https"] = "http"
        self.idle_since = loop.time()
        """When it last began to wait for a request, on the loop's clock."""
        self.writing_paused = False
        """True while the client has not taken enough of what was written."""

    # Connections ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, for uvloop's transports are none by inheritance.
        self._transport = opened = cast("asyncio.Transport", transport)
        peername = opened.get_extra_info("peername")
        self.peer = peername[0] if isinstance(peername, tuple) else ""
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
        """Take the end of one direction for the end of both, as a client's leaving looks the same."""
        if self._exchange is not None:
            self.break_off()

    @property
    def transport(self) -> asyncio.Transport | None:
        """The open transport; None once it is closing."""
        transport = self._transport
        return None if transport is None or transport.is_closing() else transport

    @property
    def busy(self) -> bool:
        """True while a request is being handled."""
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
            self._read_or_not()
        if parser.pending or parser.current is not None:
            self._server.deadlines.watch(self)

    def _start(self) -> None:
        """Begin the next request, and the ones behind it as far as they end at once."""
        arrived = self._parser.arrived
        if self._starting or not arrived:
            return
        self._starting = True
        begun = 0
        while arrived and self._state == "waiting" and not self.writing_paused:
            if begun == _MOST_IN_A_ROW:
                # Each may have cost a verification: other connections have their turn.
                self._loop.call_soon(self._start)
                break
            begun += 1
            incoming = arrived.popleft()
            if not arrived and self._parser.ahead:
                self._parser.read_on()
            if not incoming.method and incoming.error is not None:
                self._server.refuse(self, incoming.error)
                self._leave()
                break
            self._begin(incoming, None)
        self._starting = False

    def _begin(self, incoming: AnyRequest, credential: Credential | None) -> None:
        """Begin a request; `credential` is its bearer token, where that is another one than in its head."""
        self._served += 1
        if self._served == self._server.limits.keepalive_requests:
            self._server.count("keepalive_requests")
        if not incoming.complete:
            self._body_rate.rest()
        self._state, self._incoming = "busy", incoming
        self._exchange = exchange = self._server.exchange(self, incoming, credential)
        exchange.begin()

    def finished(self, *, keep_alive: bool) -> None:
        """Hear from an exchange that it is over; `keep_alive` tells whether another may follow."""
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
            self._read_or_not()
        if self._idle_timer is None:
            self._wait_until(self.idle_since + self._server.limits.keepalive_timeout)

    def stays(self, incoming: AnyRequest) -> bool:
        """Tell whether the connection may serve another request behind this one."""
        if not (incoming.keep_alive and incoming.complete):
            return False
        return not self._server.draining and self._served < self._server.limits.keepalive_requests

    def write(self, data: bytes) -> None:
        """Send a part of a response; it is dropped when the client has gone."""
        if self._transport is not None:
            self._transport.write(data)

    # Reading, or not ------------------------------------------------------------------------------

    def stop_reading(self) -> None:
        """Read nothing more of the body until the upstream has taken what was read."""
        self._upstream_full = True
        self._read_or_not()

    def go_on_reading(self) -> None:
        self._upstream_full = False
        self._read_or_not()

    def _read_or_not(self) -> None:
        pause = self._state in {"waiting", "busy"} and (self._upstream_full or self._much_has_arrived)
        if pause != self._reading_paused and self._transport is not None and not self._transport.is_closing():
            self._reading_paused = pause
            if pause:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    @property
    def _much_has_arrived(self) -> bool:
        """True when requests have arrived that no exchange has begun, or much that may not be HTTP."""
        rest = self._parser.rest
        return bool(self._parser.arrived) or (rest is not None and len(rest) > _MOST_EARLY)

    def surrender(self) -> bytes:
        """Give the connection up to another protocol; returns what of it has come already."""
        self._state = "tunnel"
        self._read_or_not()
        return bytes(self._parser.rest or b"")

    # Ends ----------------------------------------------------------------------------------------

    def _leave(self) -> None:
        """Close the connection once everything is sent, after a while where something may still come."""
        if self._state == "closed":
            return
        self._state = "leaving"
        transport, parser = self._transport, self._parser
        if transport is None or transport.is_closing():
            return
        if parser.current is not None or parser.broken or parser.arrived or parser.rest:
            self._read_or_not()
            if self._idle_timer is not None:
                self._idle_timer.cancel()
                self._idle_timer = None
            if self._lingering is None:
                self._lingering = LingeringClose(self._loop, transport, parser)
        else:
            transport.close()

    def close_when_idle(self, before: float) -> None:
        """Close the connection if it has waited for a request since before that time of the event loop."""
        # A head that has begun to arrive is answered; it has a time of its own.
        if self._is_idle and self.idle_since <= before:
            self._leave()

    def cut(self) -> None:
        """End at once whatever is going on."""
        if self._exchange is not None:
            self._exchange.cut()
        else:
            self.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def break_off(self) -> None:
        """Reset the connection: an orderly end may be taken for the body's, and half of it for the whole."""
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
        """Close the connection when it has waited long enough. While it is busy there is no timer."""
        self._idle_timer = None
        if not self._is_idle:
            return
        until = self.idle_since + self._server.limits.keepalive_timeout
        if self._loop.time() < until:
            self._wait_until(until)
        else:
            self._leave()

    # Times and rates -----------------------------------------------------------------------------

    def look(self, elapsed: float) -> bool:
        """Find what has become too slow, so many seconds after the last look; False: there is nothing."""
        transport, parser = self._transport, self._parser
        if transport is None:
            return False
        in_head = bool(parser.pending) or not self._served
        if in_head and self._state == "waiting" and not self._reading_paused:
            self._look_at_head(elapsed)
        else:
            self._head_age = None
        if parser.current is not None:
            self._look_at_body(elapsed)
        unsent = transport.get_write_buffer_size()
        if unsent or self._unsent:
            self._look_at_response(unsent, elapsed)
        return in_head or parser.current is not None or unsent > 0

    def _look_at_head(self, elapsed: float) -> None:
        self._head_age = 0.0 if self._head_age is None else self._head_age + elapsed
        if self._head_age <= self._server.limits.header_timeout:
            return
        if self._parser.pending:
            self._parser.fail(LimitExceeded("header_timeout"))
            self._start()
        else:
            # Browsers open connections ahead, and would take an answer for one to their next request.
            self._server.count("header_timeout")
            self._leave()

    def _look_at_body(self, elapsed: float) -> None:
        incoming, limits = self._incoming, self._server.limits
        # Only the client's own slowness counts, not that of the upstream, nor of its 100.
        if not isinstance(incoming, Incoming) or self._reading_paused or incoming.awaits_continue:
            return
        if self._body_rate.too_slow(incoming.received, elapsed, limits.body_min_rate, limits.rate_grace):
            self._parser.fail(LimitExceeded("body_min_rate", f"{incoming.received} bytes so far"))
            if self._exchange is not None:
                self._exchange.body_arrived()

    def _look_at_response(self, unsent: int, elapsed: float) -> None:
        limits = self._server.limits
        grown, self._unsent = unsent > self._unsent, unsent
        relieved, self._relieved = self._relieved, False
        # While more may be written, what is sent shows only when writing is paused.
        if not unsent or grown or relieved or (self._exchange is not None and not self.writing_paused):
            self._response_rate.rest()
        if self._response_rate.too_slow(-unsent, elapsed, limits.response_min_rate, limits.rate_grace):
            self._server.cut_off(self, "response_min_rate")

    def pause_writing(self) -> None:
        self.writing_paused = True
        self._server.deadlines.watch(self)
        if self._exchange is not None:
            self._exchange.pause()

    def resume_writing(self) -> None:
        self.writing_paused = False
        self._relieved = True
        if self._exchange is not None:
            self._exchange.resume()
        else:
            self._start()
            if self._reading_paused:
                self._read_or_not()
