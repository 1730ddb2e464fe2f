"""The data in a socket's receive buffer after a failed write.

If a server answers and closes before it has read the request, its kernel resets the connection. Then the
gateway's next write fails, and the event loop drops the connection without reading more. The answer is still
in the receive buffer, because a reset does not remove earlier data (Linux, `tcp_reset`). A client should look
for such an answer (RFC 9112 §9.5).
"""

import asyncio
import os
from collections.abc import Callable
from typing import Final

PIECE_BYTES: Final = 64 * 1024
"""The largest number of bytes read in one turn of the event loop."""


class UnreadBytes:
    """Reads a socket to its end, piece by piece. No more data can arrive, so no read waits."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        descriptor: int,
        protocol: asyncio.BufferedProtocol,
        ended: Callable[[bool], None],
        *,
        paused: bool,
    ) -> None:
        """`protocol` gets the bytes of the socket `descriptor`, which the caller may now close.

        `ended` is called once with whether the socket ended normally. Raises OSError when there are no
        descriptors left.
        """
        self._loop = loop
        self._protocol = protocol
        self._ended = ended
        self._paused = paused
        self._handle: asyncio.Handle | None = None
        self._descriptor: int | None = os.dup(descriptor)
        if not paused:
            self._go_on()

    def pause(self) -> None:
        """Stop reading until `resume`."""
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._go_on()

    def close(self) -> None:
        """Stop reading for ever, without a call of `ended`."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _go_on(self) -> None:
        if self._handle is None:
            self._handle = self._loop.call_soon(self._read)

    def _read(self) -> None:
        self._handle = None
        if self._paused or self._descriptor is None:
            return
        buffer = memoryview(self._protocol.get_buffer(PIECE_BYTES))[:PIECE_BYTES]
        try:
            number = os.readv(self._descriptor, [buffer])
        except OSError:
            number = -1
        if number > 0:
            self._protocol.buffer_updated(number)
            if self._descriptor is not None:
                self._go_on()
            return
        self.close()
        self._ended(number == 0)
