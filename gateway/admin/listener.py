"""What listens on the admin port: aiohttp's server, whose answers to what is no HTTP are ours.

aiohttp logs a malformed request as an error of its own, with a traceback, and answers in plain text.
"""

import asyncio
import socket
from collections.abc import Sequence
from typing import Final
from uuid import uuid4

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from gateway.admin.api import problems
from gateway.admin.api.problems import RequestRefused

EXIT_SECONDS: Final = 2.0
"""How long requests may take when the admin port closes."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class _Connection(web.RequestHandler):
    """A client's connection."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what cannot be read, as any other refusal, and close (RFC 9112 §2.2)."""
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        log.debug("admin_request_malformed", client=request.remote, error=type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("a response has begun, and no other can follow it")
        request_id = uuid4().hex
        detail = "What was sent is no HTTP request: nothing behind it is read"
        response = problems.response(RequestRefused(400, "request_malformed", detail), request_id)
        response.headers["X-Request-Id"] = request_id
        response.force_close()
        return response


class _Site(web.BaseSite):
    """A socket that is listened on already."""

    def __init__(self, runner: web.AppRunner, listener: socket.socket, backlog: int) -> None:
        super().__init__(runner, backlog=backlog)
        self._listener = listener

    @property
    def name(self) -> str:
        """What aiohttp calls the site."""
        return str(self._listener.getsockname())

    async def start(self) -> None:
        """Begin to accept connections."""
        await super().start()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, sock=self._listener, backlog=self._backlog)

    def _connection(self) -> _Connection:
        server = self._runner.server
        if server is None:
            raise ConnectionError("the admin port has closed")
        return _Connection(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type] # its own default for none
            auto_decompress=False,  # which would unpack a body before the token is checked
        )


async def listen(
    application: web.Application, listeners: Sequence[socket.socket], backlog: int
) -> web.AppRunner:
    """Serve an application on bound sockets; returns what ends it, by `cleanup`."""
    runner = web.AppRunner(application, shutdown_timeout=EXIT_SECONDS)
    await runner.setup()
    for listener in listeners:
        await _Site(runner, listener, backlog).start()
    return runner
