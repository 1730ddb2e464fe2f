"""A switched connection: bytes, both ways, until either side ends (RFC 9110 §7.8).

The protocols that held the two transports give them up for the time of the tunnel: they are replaced by two
ends that know nothing of HTTP, and hear of it when their connection is lost.
"""

import asyncio
import secrets
from enum import StrEnum
from typing import Final

from gateway.proxy.websocket import FrameTracker, close_frame

# Reading from one side stops above this many bytes that the other has not taken.
_HIGH_WATER: Final = 64 * 1024
# Once one side has ended, how long the other may be silent before it is cut off, in seconds.
_WINDING_DOWN: Final = 60.0
# How long a client and an upstream that have been told that it is over may take to close, in seconds.
_FAREWELL: Final = 2.0
# All ends read into the same bytes: an event loop fills them and hands them over in one step.
_ARRIVALS: Final = memoryview(bytearray(64 * 1024))


class EndedBy(StrEnum):
    """What ended a tunnel first."""

    CLIENT = "client"
    UPSTREAM = "upstream"
    IDLE = "idle"
    SHUTDOWN = "shutdown"
    REVOCATION = "revocation"


class Tunnel:
    """Two connections that have become one, with back-pressure and half-close both ways."""

    def __init__(
        self, client: asyncio.Transport, upstream: asyncio.Transport, *, idle_timeout: float
    ) -> None:
        """`idle_timeout`: how many seconds both sides may be silent. The transports must not be paused."""
        self._loop = asyncio.get_running_loop()
        self._idle_timeout = idle_timeout
        self._ended_by: EndedBy | None = None
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._client = _End(self, EndedBy.CLIENT, client)
        self._upstream = _End(self, EndedBy.UPSTREAM, upstream)
        self._client.other, self._upstream.other = self._upstream, self._client
        self.heard_at = self._loop.time()
        """When either side last sent something, on the loop's clock."""

    def follow_frames(self) -> None:
        """Take what passes for frames of WebSocket, so that `dismiss` can find the end of one."""
        self._client.frames = FrameTracker()
        self._upstream.frames = FrameTracker()

    def dismiss(self, reason: str) -> bool:
        """Tell both sides with close frames that it is over, which is soon; False: break it off.

        A close frame can stand only between two frames (RFC 6455 §5.4), where there are frames at all. A
        client that cannot get one must not take the end for one that its service wanted.
        """
        self._ended_by = self._ended_by or EndedBy.REVOCATION
        if not self._client.may_be_told:
            self._watch()
            return False
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(_FAREWELL, self._cut)
        self._client.part(close_frame(reason))
        told = self._upstream.may_be_told
        self._upstream.part(close_frame(reason, secrets.token_bytes(4)) if told else b"")
        return True

    async def run(self, to_client: bytes, to_upstream: bytes, *, head: bytes = b"") -> EndedBy:
        """Carry bytes until both connections are closed, those given first. When cancelled, cut both.

        `head` goes to the client before anything that belongs to the other protocol.
        """
        try:
            self._client.begin(head)
            self._upstream.begin()
            self._client.send(to_client)
            self._upstream.send(to_upstream)
            self._watch()
            await self._done
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._client.give_back()
            self._upstream.give_back()
        return self._ended_by or EndedBy.IDLE

    def ended(self, by: EndedBy) -> None:
        """Hear that one side sends no more."""
        if self._ended_by is None:
            self._ended_by = by
            self._watch()
        if self._client.lost and self._upstream.lost and not self._done.done():
            self._done.set_result(None)

    def _watch(self) -> None:
        """Cut both sides off once they have been silent for too long."""
        if self._timer is not None:
            self._timer.cancel()
        limit = self._idle_timeout if self._ended_by is None else min(self._idle_timeout, _WINDING_DOWN)
        left = self.heard_at + limit - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._watch)
            return
        self._timer = None
        self._ended_by = self._ended_by or EndedBy.IDLE
        self._cut()

    def _cut(self) -> None:
        self._client.transport.abort()
        self._upstream.transport.abort()


class _End(asyncio.BufferedProtocol):
    """One side of a tunnel: what arrives here leaves at the other."""

    other: "_End"

    def __init__(self, tunnel: Tunnel, side: EndedBy, transport: asyncio.Transport) -> None:
        self._tunnel = tunnel
        self._side = side
        self._keeper = transport.get_protocol()
        self._finished = False
        self._error: Exception | None = None
        self._parting = False
        self.transport = transport
        self.lost = False
        self.frames: FrameTracker | None = None
        """What was sent to this side, if it is to be followed."""

    def begin(self, head: bytes = b"") -> None:
        """Take the transport over."""
        self.transport.set_protocol(self)
        self.transport.set_write_buffer_limits(high=_HIGH_WATER)
        if head and not self.transport.is_closing():
            self.transport.write(head)

    def give_back(self) -> None:
        """Let the protocol that held the transport hear of its end; cut it off if it has not come yet."""
        if self.lost:
            # Not at once: it may cancel the very task that waits for the tunnel, which is about to end.
            asyncio.get_running_loop().call_soon(self._keeper.connection_lost, self._error)
        else:
            self.transport.set_protocol(self._keeper)
            self.transport.abort()

    def send(self, data: bytes) -> None:
        if data and not (self._parting or self.transport.is_closing()):
            if self.frames is not None:
                self.frames.feed(data)
            self.transport.write(data)

    @property
    def may_be_told(self) -> bool:
        """True while a frame of ours can follow what was sent to this side."""
        frames = self.frames
        if frames is None or frames.closed or not frames.between:
            return False
        return not (self.other._finished or self.transport.is_closing())  # noqa: SLF001 -- of the same class

    def part(self, last_word: bytes) -> None:
        """Send no more than this, and wait for this side to close, whatever it says."""
        if self.transport.is_closing():
            return
        self._parting = True
        if last_word:
            self.transport.write(last_word)
        if not self._finished:
            self.transport.resume_reading()
        if self.transport.can_write_eof() or not last_word or self._answered:
            self.finish()

    @property
    def _answered(self) -> bool:
        """True once a close frame has come from this side."""
        return self.other.frames is not None and self.other.frames.closed

    def finish(self) -> None:
        """Tell this side that the other has finished sending; close it if it has finished as well."""
        if self._finished or not self.transport.can_write_eof():
            self.transport.close()
        elif not self.transport.is_closing():
            try:
                self.transport.write_eof()
            except OSError:
                # It was reset a moment ago.
                self.transport.abort()

    # What the transport tells --------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 -- asyncio's signature
        return _ARRIVALS

    def buffer_updated(self, nbytes: int) -> None:
        self._tunnel.heard_at = asyncio.get_running_loop().time()
        data = bytes(_ARRIVALS[:nbytes])
        if not self._parting:
            self.other.send(data)
        elif self.other.frames is not None and not self.transport.can_write_eof():
            # TLS ends both directions at once, and with a reset if more arrives: not before the answer.
            self.other.frames.feed(data)
            if self._answered:
                self.transport.close()

    def eof_received(self) -> bool:
        """Pass the end of one direction on; the other stays open, which TLS does not offer."""
        self._finished = True
        self._tunnel.ended(self._side)
        if self._parting:
            return False
        self.other.finish()
        stays = self.transport.can_write_eof() and not self.other.lost
        if self.other._finished:  # noqa: SLF001 -- of the same class
            self.transport.close()
        return stays

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._error = exc
        if not self._parting:
            if exc is None:
                self.other.transport.close()
            else:
                self.other.transport.abort()
        self._tunnel.ended(self._side)

    def pause_writing(self) -> None:
        if not (self._parting or self.other._finished or self.other.transport.is_closing()):  # noqa: SLF001 -- as above
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if not (self.other._finished or self.other.transport.is_closing()):  # noqa: SLF001
            self.other.transport.resume_reading()
