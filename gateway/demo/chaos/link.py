"""A link between the gateway and a store, which can be pulled, frozen, or lose what tells of changes."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Literal, Self
from urllib.parse import urlsplit

_SSL_REQUEST: Final = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
_NOTIFICATION: Final = b"A"
"""NotificationResponse (PostgreSQL manual, §55.7)."""
_PUSH: Final = b">2\r\n$10\r\ninvalidate"
"""A push about a changed key (RESP3)."""


class Link:
    """Forwards bytes to the store in `url`; `self.url` is the same store, reached through here.

    Connections must not be encrypted.
    """

    def __init__(self, url: str, kind: Literal["postgres", "redis"]) -> None:
        self._parts = urlsplit(url)
        self._kind = kind
        self._port = 0
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.deaf = False
        """While true, what tells of changes vanishes, and all else passes."""

    async def __aenter__(self) -> Self:
        await self.plug()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.thaw()
        await self.pull()

    @property
    def url(self) -> str:
        """The store's URL, with the address of this link."""
        login = self._parts.netloc.rpartition("@")[0]
        return self._parts._replace(netloc=f"{login}@127.0.0.1:{self._port}".lstrip("@")).geturl()

    async def plug(self) -> None:
        """Accept connections."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def pull(self) -> None:
        """Refuse new connections, and cut those there are."""
        if self._server is not None:
            self._server.close()
            self._server = None
        there = tuple(self._connections)
        for each in there:
            each.cancel()
        await asyncio.gather(*there, return_exceptions=True)

    def freeze(self) -> None:
        """Keep all connections, accept new ones, and let nothing through."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Let everything through again."""
        self._flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a server's callback runs in a task")
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        # A store that is away, or a link that is pulled: the connection ends, as without the link.
        with suppress(asyncio.CancelledError, OSError):
            try:
                await self._connect(reader, writer)
            finally:
                writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._parts.hostname, self._parts.port)
        ear = _Ear(self) if self._kind == "postgres" else None
        there = self._copy(reader, far_writer, ear.sent if ear is not None else None)
        back = self._copy(far_reader, writer, ear.heard if ear is not None else self._unless_pushed)
        ways = [asyncio.create_task(there), asyncio.create_task(back)]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            far_writer.transport.abort()

    async def _copy(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        passed: Callable[[bytes], bytes] | None,
    ) -> None:
        while data := await source.read(65536):
            await self._flowing.wait()
            target.write(data if passed is None else passed(data))
            await target.drain()

    def _unless_pushed(self, data: bytes) -> bytes:
        return b"" if self.deaf and data.startswith(_PUSH) else data


class _Ear:
    """Tells the messages of Postgres apart, and leaves out notifications while the link is deaf."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._letter_expected = False
        self._buffer = bytearray()

    def sent(self, data: bytes) -> bytes:
        """Pass on what the client sent."""
        self._letter_expected = self._letter_expected or data.startswith(_SSL_REQUEST)
        return data

    def heard(self, data: bytes) -> bytes:
        """Pass on the whole messages of what the server sent."""
        self._buffer += data
        passed, at = bytearray(), 0
        if self._letter_expected and self._buffer:
            # The answer to SSLRequest is one letter, and no message.
            self._letter_expected = False
            passed += self._buffer[:1]
            at = 1
        while len(self._buffer) >= at + 5:
            end = at + 1 + int.from_bytes(self._buffer[at + 1 : at + 5])
            if end > len(self._buffer):
                break
            if not (self._link.deaf and self._buffer[at : at + 1] == _NOTIFICATION):
                passed += self._buffer[at:end]
            at = end
        del self._buffer[:at]
        return bytes(passed)
