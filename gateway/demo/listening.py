"""Where the demo's servers listen."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

# What a gateway in front may send on: a token of 16 KiB, should it forward one, and a long target.
_MAX_LINE = 64 * 1024


def bind(host: str, port: int) -> tuple[socket.socket, str]:
    """Bind a listening socket and tell its URL; port 0 takes a free one.

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
        auto_decompress=False,  # a request's body is what was sent
        max_line_size=_MAX_LINE,
        max_field_size=_MAX_LINE,
        shutdown_timeout=0.1,  # seconds; an event stream would go on for ever
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        yield
    finally:
        await runner.cleanup()
        listener.close()
