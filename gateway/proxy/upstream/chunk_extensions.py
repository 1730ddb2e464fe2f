"""Removes the extensions from the chunks of a response (RFC 9112 §7.1.1): they are for one connection only.

llhttp has accepted the bytes before, and alone decides where the response ends. This only finds the lines
with the sizes of chunks, to cut off what follows the size.
"""

import sys
from typing import Final

_NO_MORE: Final = sys.maxsize


class ChunkExtensions:
    """The chunks of one response."""

    __slots__ = ("_dropping", "_size", "_skip")

    def __init__(self) -> None:
        self._skip = 0
        """Bytes of the current chunk and its line end that are still to come."""
        self._size = b""
        """The beginning of the next size."""
        self._dropping = False
        """True within an extension."""

    def remove(self, data: bytes) -> bytes:
        """Return the next bytes of a chunked body without extensions."""
        at = self._skip
        if at >= len(data):
            self._skip = at - len(data)
            return data
        kept: list[bytes] = []
        begin = 0
        while at < len(data):
            end = data.find(b"\n", at) + 1
            stop = end or len(data)
            if not self._dropping:
                semicolon = data.find(b";", at, stop)
                self._size += data[at : stop if semicolon < 0 else semicolon]
                if semicolon >= 0:
                    kept.append(data[begin:semicolon])
                    self._dropping, begin = True, stop
            else:
                begin = stop
            if not end:
                self._skip = 0
                break
            if self._dropping:
                kept.append(b"\r\n")
                self._dropping = False
            size, self._size = int(self._size, 16), b""
            # The trailers are passed on as they are.
            at = end + size + 2 if size else _NO_MORE
            self._skip = at - len(data)
        return b"".join(kept) + data[begin:] if kept or begin else data
