"""A cable between a test and a real server, which can be unplugged and plugged in again."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TypeAlias
from urllib.parse import urlsplit

Way: TypeAlias = Callable[[bytes], Awaitable[bytes]]
"""What came → what goes on. One for each direction of a connection."""


async def _as_it_is(data: bytes) -> bytes:
    return data


class Cable:
    """Forwards bytes to the server in `url`; `self.url` is the same server, reached through here.

    It listens on `host`, an IPv4 address of this machine.
    """

    def __init__(self, url: str, port: int = 0, *, host: str = "127.0.0.1") -> None:
        parts = urlsplit(url)
        self._host = host
        self._target = (parts.hostname or "127.0.0.1", parts.port)
        self._url = parts
        self._server: asyncio.Server | None = None
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.delay = 0.0
        """The delay of all data in both directions, in seconds."""
        self.swallows: Callable[[bytes], bool] = lambda _: False
        """Tells of a piece of what the server says whether it vanishes; all else goes through."""

    async def __aenter__(self) -> Self:
        await self.plug()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.pull()

    @property
    def url(self) -> str:
        login = self._url.netloc.rpartition("@")[0]
        return self._url._replace(netloc=f"{login}@{self._host}:{self._port}".lstrip("@")).geturl()

    async def plug(self) -> None:
        self._server = await asyncio.start_server(self._serve, self._host, self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def pull(self) -> None:
        """Refuse new connections and cut those there are."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.cut()

    async def cut(self) -> None:
        """Cut the connections there are; new ones are welcome."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def freeze(self) -> None:
        """Keep all connections, accept new ones, and let nothing through, as a broken router does."""
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

    def deafen(self) -> None:
        """From now on, swallow the data of the server; pass on the data of the client."""
        self.swallows = lambda _: True

    @contextmanager
    def _copying(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> Iterator[tuple[Coroutine[None, None, None], Coroutine[None, None, None]]]:
        """Give what copies the bytes of one connection: to the server, and from it."""
        yield self._copy(reader, far_writer), self._copy(far_reader, writer, back=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            try:
                with self._copying(reader, writer, far_reader, far_writer) as copying:
                    ways = list(map(asyncio.create_task, copying))
                    try:
                        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        for way in ways:
                            way.cancel()
                        await asyncio.gather(*ways, return_exceptions=True)
            finally:
                far_writer.transport.abort()
        except (asyncio.CancelledError, OSError):
            pass  # cut, or no server: asyncio's own callback would report it as an error
        finally:
            writer.transport.abort()

    async def _copy(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, back: bool = False
    ) -> None:
        await self._pass_on(source, target, self._unless_swallowed if back else _as_it_is)

    async def _unless_swallowed(self, data: bytes) -> bytes:
        return b"" if self.swallows(data) else data

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, way: Way) -> None:
        while data := await source.read(65536):
            await self._flowing.wait()
            if self.delay:
                await asyncio.sleep(self.delay)
            target.write(await way(data))
            await target.drain()


class Pushless(Cable):
    """Lets everything through but Redis's pushes (RESP3)."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.swallows = lambda data: data.startswith(b">2\r\n$10\r\ninvalidate")
