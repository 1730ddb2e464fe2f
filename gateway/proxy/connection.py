"""One kept connection to an upstream: one exchange at a time, with back-pressure both ways.

What is buffered for one exchange stays below 256 KiB, both sides' write buffers included. Of a response:
64 KiB in the client's write buffer before a batch is written to it, a batch of at most `HIGH_WATER` +
`READ_BYTES`, and as much again that arrives meanwhile. Of a request: what the server has read in one go,
and `WRITE_HIGH_WATER`, since nothing more is read from the client before the upstream has taken it.
"""

import asyncio
from typing import Final, Protocol, cast

from gateway.core.reasons import UPSTREAM_PROTOCOL_ERROR, UPSTREAM_TIMEOUT, Denial
from gateway.proxy.response_parser import ResponseHead, ResponseParser

READ_BYTES: Final = 64 * 1024
"""The most that is read at once."""
HIGH_WATER: Final = 32 * 1024
"""Reading from the upstream stops above this many bytes that the client has not taken."""
WRITE_HIGH_WATER: Final = 4 * 1024
"""Reading from the client stops above this many bytes that the upstream has not taken."""

# Every connection reads into the same bytes: an event loop fills them and hands them over in one step.
_ARRIVALS: Final = memoryview(bytearray(READ_BYTES))


class Owner(Protocol):
    """Who keeps a connection: `gateway.proxy.endpoint.Endpoint`."""

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
        self._parser: ResponseParser | None = None
        self._body: list[bytes] = []
        self._buffered = 0
        self._reading_paused = False
        self._arrival: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self.owner = owner
        self.failure: Denial | None = None
        """Why the exchange failed, if it did."""
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

    def begin(self, head: bytes, parser: ResponseParser) -> None:
        """Write a request head; `parser` reads what comes back."""
        self._parser = parser
        self.answered = False
        self.write(head)

    def write(self, data: bytes) -> None:
        """Send a part of the request; what can no longer be sent is dropped, and `next_head` tells why."""
        if self._transport is not None and self.failure is None:
            self._transport.write(data)

    @property
    def writing_paused(self) -> bool:
        """True while the upstream has not taken enough of what was written."""
        return self._writable is not None

    async def drain(self) -> None:
        """Wait until the upstream has taken enough of what was written."""
        if self._writable is not None:
            await self._writable

    def sent(self) -> None:
        """Count the silence of both sides from here, where a part of the request went out."""
        if not self.complete:
            self._expect_by(self._loop.time() + self._idle_timeout)

    def allow(self, seconds: float) -> None:
        """Fail the exchange with `upstream_timeout` unless its final head arrives within `seconds`."""
        if self._parser is not None and not self._parser.begun:
            self._expect_by(self._loop.time() + seconds)

    async def next_head(self) -> ResponseHead:
        """Wait for the next head of the response: any interim ones come first.

        Raises `Denial`: `upstream_timeout` or `upstream_protocol_error`.
        """
        assert self._parser is not None  # noqa: S101 -- between begin and end
        while not self._parser.heads:
            await self._arrived()
        return self._parser.heads.pop(0)

    async def read(self) -> bytes:
        """Return what has arrived of the body since the last call, waiting for it; empty at its end.

        Raises `Denial` when the body breaks off, or nothing of it comes for the idle timeout.
        """
        while not self._body:
            if self.complete:
                return b""
            await self._arrived()
        return self.read_nowait()

    def read_nowait(self) -> bytes:
        """Return what has arrived of the body since the last call, which may be nothing."""
        body = self._body
        data = body[0] if len(body) == 1 else b"".join(body)
        body.clear()
        self._buffered = 0
        if self._reading_paused and self._transport is not None:
            self._reading_paused = False
            if not self.complete:
                # Whoever stopped it was the client; the upstream's silence counts from here.
                self._expect_by(self._loop.time() + self._idle_timeout)
            self._transport.resume_reading()
        return data

    @property
    def transport(self) -> asyncio.Transport | None:
        """The open transport, for a tunnel to take over after a 101; None once it is closing."""
        transport = self._transport
        return None if transport is None or transport.is_closing() else transport

    @property
    def complete(self) -> bool:
        """True when the response has arrived to its end, read or not."""
        return self._parser is not None and self._parser.complete

    def end(self) -> bool:
        """End the exchange; tells whether the connection can serve another one."""
        parser, self._parser = self._parser, None
        self._deadline = None
        reusable = (
            parser is not None and parser.complete and parser.reusable and not self._body and self.usable
        )
        if reusable:
            self.reused = True
            self.spare = parser if type(parser) is ResponseParser and parser.clean else None
            self.idle_since = self._loop.time()
        else:
            self.abort()
        return reusable

    @property
    def unread(self) -> bool:
        """True when something of the body has arrived and was not read."""
        return bool(self._body)

    def fail(self, denial: Denial) -> None:
        """End the exchange with a denial, which whoever reads it gets, and close the connection."""
        self.failure = denial
        self._wake()
        self.resume_writing()
        self.abort()

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing() and self.failure is None

    def abort(self) -> None:
        """Close at once: the upstream must not take the half of a message for a whole one."""
        if self._transport is not None:
            self._transport.abort()

    # What the transport tells --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, for uvloop's transports are none by inheritance.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 -- asyncio's signature
        return _ARRIVALS

    def buffer_updated(self, nbytes: int) -> None:
        parser = self._parser
        if parser is None:
            # Nobody asked: whatever this is, it answers no request of ours.
            self.abort()
            return
        self.answered = True
        try:
            body = parser.feed(bytes(_ARRIVALS[:nbytes]))
        except Denial as denial:
            self.fail(denial)
            return
        if parser.complete:
            self._deadline = None
        elif parser.begun:
            # A body may take its time, events and slow clients too: only silence ends it.
            self._expect_by(self._loop.time() + self._idle_timeout)
        if body:
            self._body.append(body)
            self._buffered += len(body)
            if self._buffered > HIGH_WATER and self._transport is not None and not self._reading_paused:
                self._reading_paused = True
                self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self._ended(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended(exc)
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.resume_writing()
        self.owner.lost(self)

    def pause_writing(self) -> None:
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

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
        except Denial as denial:
            self.fail(denial)
        else:
            self._wake()

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
            # Nothing is awaited, or the client is: `read_nowait` sets the next deadline.
            return
        if self._loop.time() < self._deadline:
            self._start_timer(self._deadline)
            return
        begun = self._parser is not None and self._parser.begun
        self.fail(Denial(UPSTREAM_TIMEOUT, "its response stands still" if begun else "no answer in time"))

    def _wake(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    async def _arrived(self) -> None:
        if self.failure is not None:
            raise self.failure
        self._arrival = self._loop.create_future()
        try:
            await self._arrival
        finally:
            self._arrival = None
