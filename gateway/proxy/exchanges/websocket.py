"""WebSocket frames for tunnels: where frames end, and close frames (RFC 6455 §5)."""

from typing import Final

POLICY_VIOLATION: Final = 1008
"""The status of a connection that is ended by re-authorization (RFC 6455 §7.4.1)."""

_CLOSE: Final = 0x8
_FINAL_CLOSE: Final = 0x80 | _CLOSE
_MASKED: Final = 0x80


class FrameTracker:
    """One direction of a WebSocket. Only the lengths in the heads of frames are read."""

    __slots__ = ("_head", "_left", "closed")

    def __init__(self) -> None:
        self._head = b""
        """The beginning of an incomplete head."""
        self._left = 0
        """The missing bytes of the current frame."""
        self.closed = False
        """True once a close frame has begun: nothing may follow it."""

    @property
    def between(self) -> bool:
        """True between two frames, even within a message."""
        return not self._left and not self._head

    def feed(self, data: bytes) -> None:
        """Parse the data."""
        if self._head:
            data, self._head = self._head + data, b""
        at, end = self._left, len(data)
        while at < end:
            head = at + 2
            size = data[at + 1] & 0x7F if head <= end else 0
            if size > 125:
                long = 2 if size == 126 else 8
                head += long
                size = int.from_bytes(data[head - long : head])
            if head > end:
                self._head, self._left = data[at:], 0
                return
            if data[at] & 0x0F == _CLOSE:
                self.closed = True
            at = head + size + (4 if data[at + 1] & _MASKED else 0)
        self._left = at - end


def close_frame(reason: str, mask: bytes | None = None) -> bytes:
    """Return a close frame with `POLICY_VIOLATION`. A client's frame has a mask of four random bytes."""
    payload = POLICY_VIOLATION.to_bytes(2) + reason.encode("ascii")
    if mask is None:
        return bytes((_FINAL_CLOSE, len(payload))) + payload
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return bytes((_FINAL_CLOSE, _MASKED | len(payload))) + mask + masked
