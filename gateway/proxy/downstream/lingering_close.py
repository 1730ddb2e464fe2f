"""Closes a client's connection on which data may still arrive (RFC 9112 §9.6).

Closing at once would reset the connection, and the client would lose the response. So the gateway reads for a
while, and drops the data.
"""

import asyncio
from contextlib import suppress
from typing import Final

from gateway.proxy.downstream.parser import RequestParser

SILENCE_SECONDS: Final = 5.0
"""The connection ends after this time without data."""
MOST_SECONDS: Final = 30.0
"""The connection ends after this time in any case."""


class LingeringClose:
    """Reads the rest of a client's data, so that the client gets its response."""

    __slots__ = ("_loop", "_parser", "_received", "_timer", "_transport", "_until")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, parser: RequestParser
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._parser = parser
        self._received = False
        self._until = loop.time() + MOST_SECONDS
        self._timer = loop.call_later(SILENCE_SECONDS, self._check)
        if transport.can_write_eof():
            # If the connection was just reset, reading reports it.
            with suppress(OSError):
                transport.write_eof()

    def received(self, data: bytes) -> None:
        """Drop the data that has arrived, up to the end of the body."""
        self._received = True
        if self._parser.swallow(data):
            self._transport.close()

    def cancel(self) -> None:
        """Note that the connection has ended."""
        self._timer.cancel()

    def _check(self) -> None:
        """Close the connection, unless its client still sends, or is busy with the response."""
        received, self._received = self._received and self._loop.time() < self._until, False
        if received or self._transport.get_write_buffer_size():
            self._timer = self._loop.call_later(SILENCE_SECONDS, self._check)
        else:
            self._transport.abort()
