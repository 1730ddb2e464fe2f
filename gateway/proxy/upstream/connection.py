"""One kept connection to an upstream: one exchange at a time, with back-pressure in both directions.

Data goes to the exchange's receiver as soon as it arrives. One exchange buffers less than 256 KiB in both
directions together. Of a response, the buffers hold one read and the client's write buffer, because the
gateway reads no more from the upstream until the client has taken that. Of a request, they hold one read and
`WRITE_HIGH_WATER`, for the same reason.
"""

import asyncio
import select
from functools import partial
from typing import Final, Protocol, cast

from gateway.core.reasons import UPSTREAM_PROTOCOL_ERROR, UPSTREAM_TIMEOUT, Denial
from gateway.proxy.upstream.early_answer import may_be_early
from gateway.proxy.upstream.parser import ResponseParser
from gateway.proxy.upstream.tls_end import TlsEnd
from gateway.proxy.upstream.unread import UnreadBytes

READ_BYTES: Final = 64 * 1024
"""The largest number of bytes in one read."""
WRITE_HIGH_WATER: Final = 4 * 1024
"""The gateway stops reading from the client while the upstream has not taken more bytes than this."""

# Linux reports a FIN with this flag. poll() always reports a reset.
_CLOSED: Final = getattr(select, "POLLRDHUP", 0)
# All connections read into the same buffer: the event loop fills it and passes it on in one step.
_ARRIVALS: Final = memoryview(bytearray(READ_BYTES))


class Receiver(Protocol):
    """Receives the response of an exchange: `gateway.proxy.exchanges.exchange.Exchange`."""

    def arrived(self, parser: ResponseParser, body: bytes) -> None:
        """Take the new part of the response: heads in `parser.heads`, and `body`, which may be empty."""

    def failed(self, denial: Denial) -> None:
        """Take the reason why the response will stay incomplete. Called once at most."""

    def writable(self) -> None:
        """Note that the upstream has taken enough data: more may be written."""


class Owner(Protocol):
    """Keeps a connection: `gateway.proxy.upstream.endpoints.endpoint.Endpoint`."""

    @property
    def host(self) -> bytes | None:
        """The Host that replaces the client's, if any."""

    def release(self, connection: "UpstreamConnection") -> None:
        """Take a connection back after its exchange."""

    def lost(self, connection: "UpstreamConnection") -> None:
        """Forget a connection that has ended."""


class UpstreamConnection(asyncio.BufferedProtocol):
    """A connection, and the response of its current exchange."""

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
        self.write_failed = False
        """True once the upstream takes no more of the request. Its answer may still be read."""
        self._written = 0
        self._written_at = 0.0
        # Whether the answer may be early, and whether that was checked: see `early_answer`.
        self._early_checked = False
        self._early = False
        self.failure: Denial | None = None
        """Why the exchange failed, if it did."""
        self.cut_short = False
        """True if a reset ended the answer, perhaps because the upstream did not read the request's body.

        A kernel that resets a connection with unread data drops the part of the answer that it has not sent.
        """
        self.answered = False
        """True once any byte of the current response has arrived."""
        self.spare: ResponseParser | None = None
        """A parser that can be used for the next response."""
        self.reused = False
        """True when the current exchange is not the connection's first."""
        self.opened_at = loop.time()
        """When it was opened, on the loop's clock."""
        self.idle_since = 0.0
        """When the last exchange ended, on the loop's clock."""

    # An exchange, in order -------------------------------------------------------------------

    def begin(
        self, head: bytes, parser: ResponseParser, receiver: Receiver, body: bytes | None = None
    ) -> None:
        """Write a request head. `parser` parses the response, and `receiver` gets it.

        `body`: the complete body, if it is sent together with the head.
        """
        self._parser = parser
        self._receiver = receiver
        self.answered, self._written, self._early_checked, self._early = False, 0, False, False
        if body is not None:
            head += body
            self._written, self._written_at = len(body), self._loop.time()
        if self._transport is not None and self.failure is None:
            self._transport.write(head)
        else:
            # It was closed after the pool had checked it.
            self._loop.call_soon(self._ended, None)

    def write(self, data: bytes) -> None:
        """Send a part of the request's body. If that fails, the receiver's `failed` gets the reason.

        `failed` is called later, after the data that the upstream has already sent.
        """
        self._written += len(data)
        self._written_at = self._loop.time()
        if self._parser is not None and self._parser.begun:
            self._early = True
        if self._transport is not None and self.failure is None and not self.write_failed:
            self._transport.write(data)

    def sent(self) -> None:
        """Restart the idle timeout, after a part of the request was sent."""
        if self._parser is not None and not self._parser.complete:
            self._expect_by(self._loop.time() + self._idle_timeout)

    def allow(self, seconds: float) -> None:
        """Fail the exchange with `upstream_timeout` unless its final head arrives within `seconds`."""
        if self._parser is None or self._parser.begun:
            return
        # The body of `_expect_by`, to save a call.
        self._deadline = deadline = self._loop.time() + seconds
        if self._timer is None or deadline < self._timer_at:
            self._start_timer(deadline)

    def pause_reading(self) -> None:
        """Read nothing until `resume_reading`, because the client has not taken the earlier data."""
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
            # The client caused the pause, so the upstream's idle timeout starts again.
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
        """Return whether either side has closed or reset it, even if the event loop does not know yet."""
        if self._wire is None or self._wire.is_closing() or self.transport is None:
            return True
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._wire.get_extra_info("socket").fileno(), _CLOSED)
        return bool(self._poll.poll(0))

    def end(self) -> bool:
        """End the exchange; return whether the connection can serve another one."""
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
        """End the exchange with a denial, which goes to its receiver, and close the connection."""
        if self.failure is not None:
            return
        self.failure = denial
        self.abort()
        if self._receiver is not None:
            self._receiver.failed(denial)

    def abort(self) -> None:
        """Close at once: the upstream must not take half of a message for a complete one."""
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

    # Called by the transport --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, for uvloop's transports are none by inheritance.
        self._transport = self._wire = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        if self.answered:
            # It sent data during the TLS handshake, before any request.
            self.abort()

    def secured(self, transport: asyncio.Transport, wire: asyncio.Transport) -> None:
        """Take the transport of TLS, and `wire`, the TCP transport below it."""
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
            # There is no exchange, so this data answers no request.
            self.abort()
            return
        try:
            body = parser.feed(bytes(_ARRIVALS[:nbytes]))
        except Denial as denial:
            self.fail(denial)
            return
        if self._written and parser.begun and not self._early_checked:
            self._early_checked = True
            passed = self._loop.time() - self._written_at
            self._early |= self.write_failed or may_be_early(self._wire, self._written, passed)
        if parser.complete:
            self._deadline = None
        elif parser.begun:
            # A body may take any time, because of events or slow clients. Only silence ends it.
            self._expect_by(self._loop.time() + self._idle_timeout)
        if self._receiver is not None:
            self._receiver.arrived(parser, body)

    def eof_received(self) -> None:
        self._ended(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._tls is None:
            self._wire_lost(exc)
        else:
            # `_wire_lost` was called first, and has read all data.
            self._lost(exc)

    @property
    def receiving(self) -> bool:
        """True while more of a response is expected."""
        parser = self._parser
        return parser is not None and not parser.complete and self.failure is None

    def _wire_lost(self, error: Exception | None) -> None:
        """Handle the end of the connection. After a failed write, first read the data that has arrived."""
        if isinstance(error, OSError) and self._wire is not None and self._awaits_answer:
            self.write_failed = True
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
        """True if unread data may be an answer to the current request.

        It is not if the connection is a kept one, and not even the head of the request could be sent.
        """
        return self.receiving and (self.answered or bool(self._written) or not self.reused)

    def _read_to_end(self, error: Exception | None, orderly: bool = False) -> None:  # noqa: FBT001, FBT002 -- by `UnreadBytes`
        self._remainder = None
        if self._tls is not None:
            # It calls `connection_lost` later.
            self._tls.lose(error)
        elif orderly and self.answered and isinstance(error, BrokenPipeError):
            # The upstream closed in order before the reset, so this may be the end of a body.
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
        """Handle the end of the connection: the end of a body, or an error."""
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
            self.cut_short = self.write_failed and bool(self._written) and parser.begun
            self.fail(denial)
        else:
            if self._receiver is not None:
                self._receiver.arrived(parser, b"")

    def _expect_by(self, deadline: float) -> None:
        """Set the deadline. Only an earlier one restarts the timer, because few deadlines are reached."""
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
            # No data is expected, or the client is slow: then `resume_reading` sets the next deadline.
            return
        if self._loop.time() < self._deadline:
            self._start_timer(self._deadline)
            return
        begun = self._parser is not None and self._parser.begun
        self.fail(Denial(UPSTREAM_TIMEOUT, "its response stands still" if begun else "no answer in time"))
