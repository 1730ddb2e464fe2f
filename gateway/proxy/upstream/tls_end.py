"""The end of a TLS connection: the data before it is read first.

An event loop's TLS buffers up to 256 KiB that its application does not read at once. It drops that data when
the connection below ends. So this class reports the end to TLS only after all data has been read.
"""

import asyncio
import ssl
from collections.abc import Callable
from functools import partial
from typing import Protocol, cast


class Application(Protocol):
    """The application of TLS: `gateway.proxy.upstream.connection.UpstreamConnection`."""

    @property
    def receiving(self) -> bool:
        """True while more of a response is expected."""

    def get_buffer(self, sizehint: int) -> memoryview: ...

    def buffer_updated(self, nbytes: int) -> None: ...

    def eof_received(self) -> None: ...


class TlsEnd(asyncio.BufferedProtocol):
    """Stands between a TCP transport and its TLS."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        application: Application,
        secured: ssl.SSLObject,
        wire: asyncio.Transport,
        lost: Callable[[Exception | None], None],
    ) -> None:
        """`wire` is the transport below TLS. `lost` is called at its end, before `lose` informs TLS."""
        self._loop = loop
        self._application = application
        self._secured = secured
        self._wire = wire
        self._paused = False
        self._told = False
        self._handle: asyncio.Handle | None = None
        self._then: Callable[[], None] | None = None
        self.tls = tls = cast("asyncio.BufferedProtocol", wire.get_protocol())
        """The protocol of TLS."""
        self.holds_loss = False
        """True while the loss of the connection below is hidden from TLS."""
        self.connection_lost = lost  # type: ignore[method-assign,assignment]  # the name of the argument
        # Bound here, so that reading costs no additional call.
        self.get_buffer = tls.get_buffer  # type: ignore[method-assign]
        self.buffer_updated = tls.buffer_updated  # type: ignore[method-assign]
        self.pause_writing = tls.pause_writing  # type: ignore[method-assign]
        self.resume_writing = tls.resume_writing  # type: ignore[method-assign]

    def eof_received(self) -> bool | None:
        if not self._application.receiving:
            return self.tls.eof_received()
        self._drain(self._end)
        return True

    def lose(self, error: Exception | None) -> None:
        """Report the loss of the connection to TLS and its application, after reading expected data."""
        if self._application.receiving:
            self.holds_loss = True
            self._drain(partial(self._lose, error))
        else:
            self._lose(error)

    def pause(self) -> None:
        """Stop reading until `resume`."""
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._go_on()

    def close(self) -> None:
        """Stop reading for ever."""
        self._then, self.holds_loss = None, False
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    @property
    def orderly(self) -> bool:
        """False if TLS did not announce this end: an attacker may have caused it (RFC 9112 §9.8).

        The event loops report ends with and without a close_notify in the same way, so TLS itself is asked.
        """
        try:
            # Only a close_notify counts as an end.
            return not self._secured.read(1)
        except ssl.SSLZeroReturnError:
            return True
        except ssl.SSLError:
            return False

    def _drain(self, then: Callable[[], None]) -> None:
        self._then = then
        self._go_on()

    def _go_on(self) -> None:
        if self._then is not None and self._handle is None and not self._paused:
            self._handle = self._loop.call_soon(self._read)

    def _read(self) -> None:
        """Pass on one piece of the data in TLS, or the end after the last piece."""
        self._handle = None
        if self._paused:
            return
        buffer = self._application.get_buffer(-1)
        try:
            # With a buffer it returns a number, and takes any buffer.
            number = cast("int", self._secured.read(len(buffer), cast("bytearray", buffer)))
        except ssl.SSLZeroReturnError:
            number = 0
        except ssl.SSLError:
            # Only a part of a record is left.
            number = -1
        if number > 0:
            self._application.buffer_updated(number)
            self._go_on()
            return
        if number == 0:
            self._application.eof_received()
        # Unless it was closed while the application handled the end.
        then, self._then = self._then, None
        if then is not None:
            then()

    def _end(self) -> None:
        if not self.tls.eof_received():
            self._wire.close()

    def _lose(self, error: Exception | None) -> None:
        self.close()
        if not self._told:
            self._told = True
            self.tls.connection_lost(error)
