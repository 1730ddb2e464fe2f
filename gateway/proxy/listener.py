"""A listener for clients, which accepts connections and stops without losing one."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, Protocol, Self

from gateway import sockets
from gateway.proxy.certificate import Certificate
from gateway.proxy.downstream.proxy_protocol import Malformed, read_header
from gateway.proxy.server import ConnectionServer
from gateway.telemetry import logs

CONNECT_SECONDS: Final = 0.1
"""How long a TCP handshake in progress may take when a socket closes for ever."""
HANDSHAKE_SECONDS: Final = 1.0
"""How long a TLS handshake in progress may take then."""
# How long to accept nothing when the process has no more open files.
_OUT_OF_FILES_SECONDS: Final = 1.0


class _Accepting(Protocol):
    """Accepts connections on one socket."""

    def close(self) -> None: ...


class Listener:
    """A server on its sockets. On closing, it also serves the connections that wait in their queues."""

    def __init__(
        self,
        server: ConnectionServer,
        listeners: Sequence[socket.socket],
        certificate: Certificate | None,
        speaks_for_others: Callable[[str], bool] | None = None,
    ) -> None:
        self.server = server
        self._tls = None if certificate is None else certificate.context
        self._handshake_timeout = None if certificate is None else server.limits.header_timeout
        self._speaks_for_others = speaks_for_others
        # The event loop closes its sockets. These duplicates keep the queues open.
        self._queues = [listener.dup() for listener in listeners]
        self._accepting: list[_Accepting] = []
        self._greeting: set[asyncio.Task[None]] = set()
        """Connections whose PROXY header, or whose TLS handshake after it, is arriving."""

    @classmethod
    async def open(
        cls,
        server: ConnectionServer,
        listeners: Sequence[socket.socket],
        certificate: Certificate | None,
        speaks_for_others: Callable[[str], bool] | None = None,
    ) -> Self:
        """Start to accept connections.

        `speaks_for_others` returns whether connections of an address begin with a PROXY header; None: no
        connection does.
        """
        front = cls(server, listeners, certificate, speaks_for_others)
        loop = asyncio.get_running_loop()
        for listener in listeners:
            if speaks_for_others is not None:
                front._accepting.append(_AcceptLoop(listener, front._greet))
                continue
            accepting = await loop.create_server(
                server,
                sock=listener,
                ssl=front._tls,
                ssl_handshake_timeout=front._handshake_timeout,
                backlog=sockets.BACKLOG,
            )
            front._accepting.append(accepting)
        return front

    async def stop(self, seconds: float, *, last: bool) -> None:
        """Stop accepting, and finish the requests in flight for up to `seconds`.

        `last`: no other process takes over the sockets.
        """
        if last:
            await self.refuse()
        await self.close()
        await self.finish_handshakes()
        await self.server.drain(seconds)

    async def refuse(self) -> None:
        """Refuse new connections, and let handshakes in progress finish."""
        for queue in self._queues:
            sockets.refuse(queue)
        await asyncio.sleep(CONNECT_SECONDS)

    async def finish_handshakes(self) -> None:
        """Let TLS handshakes in progress finish: before that, the server does not know the connection."""
        if self._tls is not None:
            await asyncio.sleep(HANDSHAKE_SECONDS)

    async def close(self) -> None:
        """Stop accepting. Connections that were made before are served."""
        for accepting in self._accepting:
            accepting.close()
        waiting = [connection for queue in self._queues for connection in sockets.take_queue(queue)]
        for queue in self._queues:
            queue.close()
        self._accepting, self._queues = [], []
        self._handshake_timeout = None if self._tls is None else HANDSHAKE_SECONDS
        if self._speaks_for_others is None:
            await asyncio.gather(*(self._serve(sock, "") for sock in waiting), return_exceptions=True)
            return
        for sock in waiting:
            self._greet(sock)
        if self._greeting:
            _, late = await asyncio.wait(self._greeting, timeout=HANDSHAKE_SECONDS)
            for task in late:
                task.cancel()

    # The PROXY protocol --------------------------------------------------------------------------------

    def _greet(self, sock: socket.socket) -> None:
        """Read the header of a connection, if it has one, and serve it."""
        if len(self._greeting) >= self.server.limits.max_connections:
            sock.close()
            return
        task = asyncio.get_running_loop().create_task(self._read_header(sock))
        self._greeting.add(task)
        task.add_done_callback(self._greeting.discard)

    async def _read_header(self, sock: socket.socket) -> None:
        """Serve a connection for the address in its PROXY header. Without a good one, close it."""
        peer, speaks = "", self._speaks_for_others
        try:
            sock.setblocking(False)  # noqa: FBT003 -- the signature of sockets
            name = sock.getpeername()
            peer = name[0] if isinstance(name, tuple) else ""
            client: str | None = None
            if speaks is not None and speaks(peer):
                async with asyncio.timeout(self.server.limits.header_timeout):
                    client = await read_header(partial(_read_exactly, sock))
        except (Malformed, EOFError, OSError, TimeoutError) as error:
            sock.close()
            logs.proxy_header_refused(peer, str(error) or "its PROXY header did not arrive in time")
            return
        except asyncio.CancelledError:
            sock.close()
            raise
        await self._serve(sock, client or "")

    async def _serve(self, sock: socket.socket, client: str) -> None:
        """Hand an accepted connection to the server. `client` is its address, if another speaks for it."""
        # A client that left, or did not finish its TLS handshake.
        with suppress(OSError, TimeoutError):
            await asyncio.get_running_loop().connect_accepted_socket(
                partial(self.server, client),
                sock,
                ssl=self._tls,
                ssl_handshake_timeout=self._handshake_timeout,
            )


class _AcceptLoop:
    """Accepts the connections of a socket before a protocol reads from them."""

    def __init__(self, listener: socket.socket, accepted: Callable[[socket.socket], None]) -> None:
        listener.setblocking(False)  # noqa: FBT003 -- the signature of sockets
        listener.listen(sockets.BACKLOG)
        self._listener = listener
        self._accepted = accepted
        self._task = asyncio.get_running_loop().create_task(self._run())

    def close(self) -> None:
        self._task.cancel()
        self._listener.close()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(self._listener)
            except ConnectionAbortedError:
                continue
            except OSError as error:
                logs.accept_failed(str(error))
                await asyncio.sleep(_OUT_OF_FILES_SECONDS)
                continue
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._accepted(sock)
            # Many may wait: let the event loop have its turn.
            await asyncio.sleep(0)


async def _read_exactly(sock: socket.socket, number: int) -> bytes:
    """Read that many bytes. Raises EOFError."""
    loop, data = asyncio.get_running_loop(), b""
    while len(data) < number:
        piece = await loop.sock_recv(sock, number - len(data))
        if not piece:
            raise EOFError("it closed the connection within its PROXY header")
        data += piece
    return data
