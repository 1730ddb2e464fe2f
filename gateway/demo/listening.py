"""The listening sockets of the demo's servers."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

# A gateway may forward a token of 16 KiB and a long target.
_MAX_LINE = 64 * 1024


def bind(host: str, port: int) -> tuple[socket.socket, str]:
    """Bind a listening socket; return it and its URL. Port 0 picks a free one.

    Raises OSError when the port is taken.
    """
    listener = socket.create_server((host, port))
    return listener, f"http://{host}:{listener.getsockname()[1]}"


@asynccontextmanager
async def listening(application: web.Application, listener: socket.socket) -> AsyncIterator[None]:
    """Serve an application on a bound socket; close both at the end, without waiting for clients."""
    runner = web.AppRunner(
        application,
        access_log=None,
        auto_decompress=False,  # the echo shows the body as it was sent
        max_line_size=_MAX_LINE,
        max_field_size=_MAX_LINE,
        shutdown_timeout=0.1,  # seconds; an event stream never ends by itself
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        yield
    finally:
        await runner.cleanup()
        listener.close()
