"""A tunnel: bytes in both directions, until one side ends (RFC 9110 §7.8).

During the tunnel, two ends without HTTP replace the protocols of the two transports. The protocols are
notified when their connection is lost.
"""

import asyncio
import secrets
from enum import StrEnum
from typing import Final

from gateway.proxy.exchanges.websocket import FrameTracker, close_frame
from gateway.telemetry.series import Traffic

# Reading from one side stops when the other side has more unread bytes than this.
_HIGH_WATER: Final = 64 * 1024
# After the end of one side, seconds of silence until the other side is cut off.
_HALF_CLOSED_SECONDS: Final = 60.0
# Seconds that client and upstream may take to close after their close frames.
_CLOSE_SECONDS: Final = 2.0
# All ends read into the same buffer: the event loop fills it and passes it on in one step.
_ARRIVALS: Final = memoryview(bytearray(64 * 1024))


class EndedBy(StrEnum):
    """The first cause of a tunnel's end."""

    CLIENT = "client"
    UPSTREAM = "upstream"
    IDLE = "idle"
    SHUTDOWN = "shutdown"
    REVOCATION = "revocation"


class Tunnel:
    """Two connections as one, with back-pressure and half-close in both directions."""

    def __init__(
        self,
        client: asyncio.Transport,
        upstream: asyncio.Transport,
        *,
        idle_timeout: float,
        traffic: Traffic | None = None,
    ) -> None:
        """`idle_timeout`: seconds that both sides may be silent. The transports must not be paused.

        `traffic` counts the bytes that pass.
        """
        self._loop = asyncio.get_running_loop()
        self._idle_timeout = idle_timeout
        self._ended_by: EndedBy | None = None
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._client = _End(self, EndedBy.CLIENT, client)
        self._upstream = _End(self, EndedBy.UPSTREAM, upstream)
        self._client.other, self._upstream.other = self._upstream, self._client
        self.traffic = Traffic() if traffic is None else traffic
        self.passed = Traffic()
        """What has passed in this tunnel."""
        self.heard_at = self._loop.time()
        """When either side last sent something, on the loop's clock."""

    def follow_frames(self) -> None:
        """Parse the data as WebSocket frames, so that `dismiss` can find the end of one."""
        self._client.frames = FrameTracker()
        self._upstream.frames = FrameTracker()

    def dismiss(self, reason: str) -> bool:
        """End the tunnel with close frames to both sides. Return False if that is not possible: break it off.

        A close frame is only possible between two frames (RFC 6455 §5.4), and only in a WebSocket. A client
        without a close frame must not take this end for an end by the service.
        """
        self._ended_by = self._ended_by or EndedBy.REVOCATION
        if not self._client.takes_close_frame:
            self._watch()
            return False
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(_CLOSE_SECONDS, self._cut)
        self._client.send_last(close_frame(reason))
        closes = self._upstream.takes_close_frame
        self._upstream.send_last(close_frame(reason, secrets.token_bytes(4)) if closes else b"")
        return True

    async def run(self, to_client: bytes, to_upstream: bytes, *, head: bytes = b"") -> EndedBy:
        """Copy bytes until both connections are closed, the given bytes first. When cancelled, cut both.

        `head` goes to the client before any data of the new protocol.
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
            self._client.restore_protocol()
            self._upstream.restore_protocol()
        return self._ended_by or EndedBy.IDLE

    def ended(self, by: EndedBy) -> None:
        """Note that one side sends no more."""
        if self._ended_by is None:
            self._ended_by = by
            self._watch()
        if self._client.lost and self._upstream.lost and not self._done.done():
            self._done.set_result(None)

    def _watch(self) -> None:
        """Cut both sides off once they have been silent for too long."""
        if self._timer is not None:
            self._timer.cancel()
        limit = (
            self._idle_timeout if self._ended_by is None else min(self._idle_timeout, _HALF_CLOSED_SECONDS)
        )
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
    """One side of a tunnel: data that arrives here leaves at the other side."""

    other: "_End"

    def __init__(self, tunnel: Tunnel, side: EndedBy, transport: asyncio.Transport) -> None:
        self._tunnel = tunnel
        self._side = side
        self._former = transport.get_protocol()
        self._finished = False
        self._error: Exception | None = None
        self._sent_last = False
        self.transport = transport
        self.lost = False
        self.frames: FrameTracker | None = None
        """The frames that were sent to this side, if they are parsed."""

    def begin(self, head: bytes = b"") -> None:
        """Take over the transport."""
        self.transport.set_protocol(self)
        self.transport.set_write_buffer_limits(high=_HIGH_WATER)
        if head and not self.transport.is_closing():
            self.transport.write(head)

    def restore_protocol(self) -> None:
        """Notify the transport's former protocol of its end; cut the connection if it is still open."""
        if self.lost:
            # Later: it may cancel the task that waits for the tunnel, which is about to end.
            asyncio.get_running_loop().call_soon(self._former.connection_lost, self._error)
        else:
            self.transport.set_protocol(self._former)
            self.transport.abort()

    def send(self, data: bytes) -> None:
        if data and not (self._sent_last or self.transport.is_closing()):
            if self.frames is not None:
                self.frames.feed(data)
            self.transport.write(data)

    @property
    def takes_close_frame(self) -> bool:
        """True while the gateway can send a frame to this side."""
        frames = self.frames
        if frames is None or frames.closed or not frames.between:
            return False
        return not (self.other._finished or self.transport.is_closing())  # noqa: SLF001 -- of the same class

    def send_last(self, data: bytes) -> None:
        """Send this and nothing more, and wait for this side to close; ignore its data."""
        if self.transport.is_closing():
            return
        self._sent_last = True
        if data:
            self.transport.write(data)
        if not self._finished:
            self.transport.resume_reading()
        if self.transport.can_write_eof() or not data or self._answered:
            self.finish()

    @property
    def _answered(self) -> bool:
        """True once a close frame has come from this side."""
        return self.other.frames is not None and self.other.frames.closed

    def finish(self) -> None:
        """Pass on that the other side has finished sending; close this side if it has finished, too."""
        if self._finished or not self.transport.can_write_eof():
            self.transport.close()
        elif not self.transport.is_closing():
            try:
                self.transport.write_eof()
            except OSError:
                # It was just reset.
                self.transport.abort()

    # Called by the transport --------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 -- asyncio's signature
        return _ARRIVALS

    def buffer_updated(self, nbytes: int) -> None:
        self._tunnel.heard_at = asyncio.get_running_loop().time()
        data = bytes(_ARRIVALS[:nbytes])
        if not self._sent_last:
            tunnel = self._tunnel
            if self._side is EndedBy.CLIENT:
                tunnel.traffic.received += nbytes
                tunnel.passed.received += nbytes
            else:
                tunnel.traffic.sent += nbytes
                tunnel.passed.sent += nbytes
            self.other.send(data)
        elif self.other.frames is not None and not self.transport.can_write_eof():
            # TLS ends both directions at once, with a reset if more data arrives. So wait for the answer.
            self.other.frames.feed(data)
            if self._answered:
                self.transport.close()

    def eof_received(self) -> bool:
        """Pass on the end of one direction. The other stays open, except with TLS."""
        self._finished = True
        self._tunnel.ended(self._side)
        if self._sent_last:
            return False
        self.other.finish()
        stays = self.transport.can_write_eof() and not self.other.lost
        if self.other._finished:  # noqa: SLF001 -- of the same class
            self.transport.close()
        return stays

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._error = exc
        if not self._sent_last:
            if exc is None:
                self.other.transport.close()
            else:
                self.other.transport.abort()
        self._tunnel.ended(self._side)

    def pause_writing(self) -> None:
        if not (self._sent_last or self.other._finished or self.other.transport.is_closing()):  # noqa: SLF001 -- as above
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if not (self.other._finished or self.other.transport.is_closing()):  # noqa: SLF001
            self.other.transport.resume_reading()
