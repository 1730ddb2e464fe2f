"""One kept connection to an upstream: one exchange at a time, with back-pressure both ways.

What arrives is handed on where it arrives, to the receiver of the exchange. So what is buffered for one
exchange stays below 256 KiB, both sides together. Of a response: what was read in one go, and the client's
write buffer, since nothing more is read from the upstream before the client has taken that. Of a request:
what the server has read in one go, and `WRITE_HIGH_WATER`, by the same rule the other way round.
"""

import asyncio
import fcntl
import select
import sys
import termios
from functools import partial
from typing import Final, Protocol, cast

from gateway.core.reasons import UPSTREAM_PROTOCOL_ERROR, UPSTREAM_TIMEOUT, Denial
from gateway.proxy.upstream.parser import ResponseParser
from gateway.proxy.upstream.tls_end import TlsEnd
from gateway.proxy.upstream.unread import UnreadBytes

READ_BYTES: Final = 64 * 1024
"""The most that is read at once."""
WRITE_HIGH_WATER: Final = 4 * 1024
"""Reading from the client stops above this many bytes that the upstream has not taken."""
MOST_UNREAD: Final = 64 * 1024
"""So much of a body that its application did not read an upstream may be expected to read in its place.

It is gunicorn's bound.
"""
QUICK_SECONDS: Final = 1.0
"""An answer that comes so soon after a longer body tells nothing of whether that was read."""

# Linux tells of a FIN by it; of a reset poll() always tells.
_CLOSED: Final = getattr(select, "POLLRDHUP", 0)
# Every connection reads into the same bytes: an event loop fills them and hands them over in one step.
_ARRIVALS: Final = memoryview(bytearray(READ_BYTES))


class Receiver(Protocol):
    """Who makes an exchange: `gateway.proxy.exchange.Exchange`."""

    def arrived(self, parser: ResponseParser, body: bytes) -> None:
        """Take what has arrived of the response: heads wait in `parser`; `body` may be empty."""

    def failed(self, denial: Denial) -> None:
        """Hear, once, why the response will not arrive to its end."""

    def writable(self) -> None:
        """Hear that the upstream has taken enough of what was written for more to be sent."""


class Owner(Protocol):
    """Who keeps a connection: `gateway.proxy.upstream.endpoint.Endpoint`."""

    @property
    def host(self) -> bytes | None:
        """The Host to send in place of the client's, if any."""

    def release(self, connection: "UpstreamConnection") -> None:
        """Take a connection back after its exchange."""

    def lost(self, connection: "UpstreamConnection") -> None:
        """Hear that a connection has ended."""


class UpstreamConnection(asyncio.BufferedProtocol):
    """A connection, and the response that is arriving on it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, owner: Owner, idle_timeout: float) -> None:
        self._loop = loop
        self._idle_timeout = idle_timeout
        self._transport: asyncio.Transport | None = None
        # The TCP transport below TLS; without TLS, the same as `_transport`.
        self._wire: asyncio.Transport | None = None
        self._tls: TlsEnd | None = None
        self._poll: select.poll | None = None
        self._remainder: UnreadBytes | None = None
        self._parser: ResponseParser | None = None
        self._receiver: Receiver | None = None
        self._reading_paused = False
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self.owner = owner
        self.writing_paused = False
        """True while the upstream has not taken enough of what was written."""
        self.deaf = False
        """True once the upstream takes nothing more of the request, though its answer may still be read."""
        self._written = 0
        self._written_at = 0.0
        # Whether the answer may have come before the body was read, once that has been looked at.
        self._looked_at = False
        self._early = False
        self.failure: Denial | None = None
        """Why the exchange failed, if it did."""
        self.cut_short = False
        """True where a reset has ended an answer, and may come of a request's body that was not read.

        A kernel that resets the connection for that throws away what it has not yet sent of the answer.
        """
        self.answered = False
        """True once any byte of the current response has arrived."""
        self.spare: ResponseParser | None = None
        """A parser that can read the next response, so that none need be made for it."""
        self.reused = False
        """True when the current exchange is not the connection's first."""
        self.opened_at = loop.time()
        """When it was opened, on the loop's clock."""
        self.idle_since = 0.0
        """When the last exchange ended, on the loop's clock."""

    # An exchange, in its order -------------------------------------------------------------------

    def begin(
        self, head: bytes, parser: ResponseParser, receiver: Receiver, body: bytes | None = None
    ) -> None:
        """Write a request head; `parser` reads what comes back, and `receiver` gets it.

        `body` is the whole body, where it goes out with the head.
        """
        self._parser = parser
        self._receiver = receiver
        self.answered, self._written, self._looked_at, self._early = False, 0, False, False
        if body is not None:
            head += body
            self._written, self._written_at = len(body), self._loop.time()
        if self._transport is not None and self.failure is None:
            self._transport.write(head)
        else:
            # It was closed while it was being handed over.
            self._loop.call_soon(self._ended, None)

    def write(self, data: bytes) -> None:
        """Send a part of the request's body; when it can no longer be sent, `failed` tells why.

        Not at once: first comes what the upstream has answered.
        """
        self._written += len(data)
        self._written_at = self._loop.time()
        if self._parser is not None and self._parser.begun:
            self._early = True
        if self._transport is not None and self.failure is None and not self.deaf:
            self._transport.write(data)

    def sent(self) -> None:
        """Count the silence of both sides from here, where a part of the request went out."""
        if self._parser is not None and not self._parser.complete:
            self._expect_by(self._loop.time() + self._idle_timeout)

    def allow(self, seconds: float) -> None:
        """Fail the exchange with `upstream_timeout` unless its final head arrives within `seconds`."""
        if self._parser is None or self._parser.begun:
            return
        # As `_expect_by`, without the call.
        self._deadline = deadline = self._loop.time() + seconds
        if self._timer is None or deadline < self._timer_at:
            self._start_timer(deadline)

    def pause_reading(self) -> None:
        """Read nothing until `resume_reading`: the client has not taken what was read."""
        transport, remainder = self._transport, self._remainder
        if self._reading_paused or transport is None:
            return
        closing = transport.is_closing()
        if closing and remainder is None and self._tls is None:
            return
        self._reading_paused = True
        if remainder is not None:
            remainder.pause()
        if self._tls is not None:
            self._tls.pause()
        if not closing:
            transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._reading_paused:
            return
        self._reading_paused = False
        if self._parser is not None and not self._parser.complete:
            # The client had stopped it; the upstream's silence counts from here.
            self._expect_by(self._loop.time() + self._idle_timeout)
        remainder = self._remainder
        if self._transport is not None and (remainder is not None or not self._transport.is_closing()):
            self._transport.resume_reading()
        if remainder is not None:
            remainder.resume()
        if self._tls is not None:
            self._tls.resume()

    @property
    def transport(self) -> asyncio.Transport | None:
        """The open transport, for a tunnel to take over after a 101; None once it is closing."""
        transport = self._transport
        return None if transport is None or transport.is_closing() else transport

    def is_closed(self) -> bool:
        """Tell whether either side has closed or reset it, of which the event loop may not know yet."""
        if self._wire is None or self._wire.is_closing() or self.transport is None:
            return True
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._wire.get_extra_info("socket").fileno(), _CLOSED)
        return bool(self._poll.poll(0))

    def end(self) -> bool:
        """End the exchange; tells whether the connection can serve another one."""
        parser, self._parser = self._parser, None
        self._receiver = None
        self._deadline = None
        if self._reading_paused:
            self.resume_reading()
        transport = self._transport
        whole = parser is not None and parser.complete and parser.reusable
        whole = whole and self.failure is None and not self._early
        if parser is None or not whole or transport is None or transport.is_closing():
            self.abort()
            return False
        self.reused = True
        self.spare = parser if type(parser) is ResponseParser and parser.clean else None
        self.idle_since = self._loop.time()
        return True

    def fail(self, denial: Denial) -> None:
        """End the exchange with a denial, of which its receiver hears, and close the connection."""
        if self.failure is not None:
            return
        self.failure = denial
        self.abort()
        if self._receiver is not None:
            self._receiver.failed(denial)

    def abort(self) -> None:
        """Close at once: the upstream must not take the half of a message for a whole one."""
        remainder, self._remainder = self._remainder, None
        lost = remainder is not None
        if remainder is not None:
            remainder.close()
        if self._tls is not None:
            lost |= self._tls.holds_loss
            self._tls.close()
        if lost:
            self._loop.call_soon(self._read_to_end, None)
        elif self._transport is not None:
            self._transport.abort()

    def _final_head_came(self) -> None:
        """Note whether the upstream may have answered without reading the request's body to its end.

        It will read the rest, or close the connection (RFC 9112 §9.3) and lose the request that came next.
        What its kernel has not acknowledged it has not read; of what its kernel holds nothing can be known.
        """
        self._looked_at = True
        quick = self._loop.time() - self._written_at < QUICK_SECONDS
        self._early |= self.deaf or self._unsent > 0 or (quick and self._written > MOST_UNREAD)

    @property
    def _unsent(self) -> int:
        """Bytes that have been written and have not arrived at the upstream's kernel (tcp(7), SIOCOUTQ)."""
        if self._wire is None:
            return 0
        queued = self._wire.get_write_buffer_size()
        if queued == 0:
            try:
                answer = fcntl.ioctl(self._wire.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
            except OSError:
                # Not on every system, and not of a socket that is closed.
                return 0
            queued = int.from_bytes(answer, sys.byteorder)
        return queued

    # What the transport tells --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, for uvloop's transports are none by inheritance.
        self._transport = self._wire = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        if self.answered:
            # It spoke before it was asked, within the handshake of TLS.
            self.abort()

    def secured(self, transport: asyncio.Transport, wire: asyncio.Transport) -> None:
        """Take a transport of TLS, and the one below it, whose protocol is TLS."""
        self.connection_made(transport)
        self._wire = wire
        secured = transport.get_extra_info("ssl_object")
        self._tls = TlsEnd(self._loop, self, secured, wire, self._wire_lost)
        wire.set_protocol(self._tls)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 -- asyncio's signature
        return _ARRIVALS

    def buffer_updated(self, nbytes: int) -> None:
        self.answered, parser = True, self._parser
        if parser is None:
            # There is no exchange: whatever this is, it answers no request of ours.
            self.abort()
            return
        try:
            body = parser.feed(bytes(_ARRIVALS[:nbytes]))
        except Denial as denial:
            self.fail(denial)
            return
        if self._written and parser.begun and not self._looked_at:
            self._final_head_came()
        if parser.complete:
            self._deadline = None
        elif parser.begun:
            # A body may take its time, events and slow clients too: only silence ends it.
            self._expect_by(self._loop.time() + self._idle_timeout)
        if self._receiver is not None:
            self._receiver.arrived(parser, body)

    def eof_received(self) -> None:
        self._ended(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._tls is None:
            self._wire_lost(exc)
        else:
            # What there was to read has been read, as `_wire_lost` came first.
            self._lost(exc)

    @property
    def receiving(self) -> bool:
        """True while more of a response is awaited."""
        parser = self._parser
        return parser is not None and not parser.complete and self.failure is None

    def _wire_lost(self, error: Exception | None) -> None:
        """Read what has come, where a request could not be sent to its end; then tell of the loss."""
        if isinstance(error, OSError) and self._wire is not None and self._awaits_answer:
            self.deaf = True
            try:
                self._remainder = UnreadBytes(
                    self._loop,
                    self._wire.get_extra_info("socket").fileno(),
                    self if self._tls is None else self._tls.tls,
                    partial(self._read_to_end, error),
                    paused=self._reading_paused,
                )
            except OSError:
                self._read_to_end(error)
            else:
                self.resume_writing()
        else:
            self._read_to_end(error)

    @property
    def _awaits_answer(self) -> bool:
        """True while an answer may have come that has not been read.

        On a kept connection it is none to a request of which not even the head could be sent.
        """
        return self.receiving and (self.answered or bool(self._written) or not self.reused)

    def _read_to_end(self, error: Exception | None, orderly: bool = False) -> None:  # noqa: FBT001, FBT002 -- by `UnreadBytes`
        self._remainder = None
        if self._tls is not None:
            # It tells us in its turn.
            self._tls.lose(error)
        elif orderly and self.answered and isinstance(error, BrokenPipeError):
            # The upstream had closed in order before it reset the connection: an end may be a body's.
            self._lost(None)
        else:
            self._lost(error)

    def _lost(self, error: Exception | None) -> None:
        self._ended(error)
        self._transport = self._wire = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.owner.lost(self)

    def pause_writing(self) -> None:
        self.writing_paused = True

    def resume_writing(self) -> None:
        self.writing_paused = False
        if self._receiver is not None:
            self._receiver.writable()

    # ---------------------------------------------------------------------------------------------

    def _ended(self, exc: Exception | None) -> None:
        """Take the end of the connection for the end of a body only where it is one."""
        parser = self._parser
        if parser is None or parser.complete or self.failure is not None:
            return
        try:
            if exc is not None:
                raise Denial(UPSTREAM_PROTOCOL_ERROR, f"it broke the connection: {exc}") from exc
            parser.eof()
            if self._tls is not None and not self._tls.orderly:
                raise Denial(UPSTREAM_PROTOCOL_ERROR, "it ended TLS without a close_notify")
        except Denial as denial:
            self.cut_short = self.deaf and bool(self._written) and parser.begun
            self.fail(denial)
        else:
            if self._receiver is not None:
                self._receiver.arrived(parser, b"")

    def _expect_by(self, deadline: float) -> None:
        """Set the deadline. The timer is started anew only for an earlier one: most never run out."""
        self._deadline = deadline
        if self._timer is None or deadline < self._timer_at:
            self._start_timer(deadline)

    def _start_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._loop.call_at(when, self._check_deadline)

    def _check_deadline(self) -> None:
        self._timer = None
        if self._deadline is None or self._reading_paused:
            # Nothing is awaited, or the client is: `resume_reading` sets the next deadline.
            return
        if self._loop.time() < self._deadline:
            self._start_timer(self._deadline)
            return
        begun = self._parser is not None and self._parser.begun
        self.fail(Denial(UPSTREAM_TIMEOUT, "its response stands still" if begun else "no answer in time"))
