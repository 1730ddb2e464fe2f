"""A program that terminates TLS in front of a Redis without TLS."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

_HANDSHAKE: Final = b"\x16"
"""The first bytes of TLS (RFC 8446 §5.1); no command of Redis begins with them."""


@asynccontextmanager
async def tls_front(certificate: Path, target: int, port: int = 0) -> AsyncIterator[int]:
    """Listen on `port`, or any, for the server on port `target`; yields the port.

    What comes without TLS is passed on as it is: Sentinels and replicas speak plain to the servers
    whose addresses they tell to others.
    """
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    tasks: set[asyncio.Task[None]] = set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        try:
            # The client speaks first. The content of TLS arrives a second time, without TLS.
            first = await reader.read(65536)
            port = port_of(inner) if first.startswith(_HANDSHAKE) else target
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.transport.abort()
            return
        far_writer.write(first)
        await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))

    inner = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=tls)
    outer = await asyncio.start_server(relay, "127.0.0.1", port)
    try:
        yield port_of(outer)
    finally:
        outer.close()
        inner.close()
        ending = tuple(tasks)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            target.write(data)
    except OSError:
        pass  # aborted by the peer
    finally:
        target.transport.abort()


def port_of(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port
