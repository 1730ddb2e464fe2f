"""What a socket still holds when writing to it has failed.

A server that answers before it has read the request, and closes, makes its kernel reset the connection.
Our next write fails then. An event loop gives the connection up with that, and reads nothing more. The
answer is in our receive buffer all the same, because a reset leaves there what came before it (Linux,
`tcp_reset`). A client should look for such an answer (RFC 9112 §9.5).
"""

import asyncio
import os
from collections.abc import Callable
from typing import Final

PIECE_BYTES: Final = 64 * 1024
"""The most that is read in one turn of the event loop."""


class UnreadBytes:
    """Reads a socket to its end, piece by piece. Nothing more can arrive on it, so no read waits."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        descriptor: int,
        protocol: asyncio.BufferedProtocol,
        ended: Callable[[bool], None],
        *,
        paused: bool,
    ) -> None:
        """`protocol` gets the bytes of the socket `descriptor`, which may be closed from now on.

        `ended` hears, once, whether the socket came to an end like an orderly one. Raises OSError when there
        are no descriptors left.
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
        """Read nothing until `resume`."""
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._go_on()

    def close(self) -> None:
        """Read no more; `ended` is not told."""
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
