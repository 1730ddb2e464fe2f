"""A listener for clients, which accepts connections and stops without losing one."""

import asyncio
import socket
from collections.abc import Sequence
from typing import Final, Self

from gateway import sockets
from gateway.proxy.certificate import Certificate
from gateway.proxy.server import ConnectionServer

CONNECT_SECONDS: Final = 0.1
"""How long a TCP handshake in progress may take when a socket closes for ever."""
HANDSHAKE_SECONDS: Final = 1.0
"""How long a TLS handshake in progress may take then."""


class Listener:
    """A server on its sockets. On closing, it also serves the connections that wait in their queues."""

    def __init__(
        self, server: ConnectionServer, listeners: Sequence[socket.socket], certificate: Certificate | None
    ) -> None:
        self.server = server
        self._tls = None if certificate is None else certificate.context
        self._handshake_timeout = None if certificate is None else server.limits.header_timeout
        # The event loop closes its sockets. These duplicates keep the queues open.
        self._queues = [listener.dup() for listener in listeners]
        self._accepting: list[asyncio.Server] = []

    @classmethod
    async def open(
        cls, server: ConnectionServer, listeners: Sequence[socket.socket], certificate: Certificate | None
    ) -> Self:
        """Start to accept connections."""
        front = cls(server, listeners, certificate)
        loop = asyncio.get_running_loop()
        for listener in listeners:
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
        loop = asyncio.get_running_loop()
        handshake_timeout = None if self._tls is None else HANDSHAKE_SECONDS
        await asyncio.gather(
            *(
                loop.connect_accepted_socket(
                    self.server, sock, ssl=self._tls, ssl_handshake_timeout=handshake_timeout
                )
                for sock in waiting
            ),
            return_exceptions=True,  # a client that left, or did not finish its TLS handshake
        )
