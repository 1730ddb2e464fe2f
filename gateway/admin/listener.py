"""The server of the admin port: aiohttp's, with the gateway's own answers to malformed requests.

aiohttp itself would log a malformed request as a server error with a traceback, and answer in plain text.
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
        """Answer a malformed request with a problem, and close the connection (RFC 9112 §2.2)."""
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        log.debug("admin_request_malformed", client=request.remote, error=type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("a response has already begun")
        request_id = uuid4().hex
        detail = "This is not a valid HTTP request; the rest of the connection is not read"
        response = problems.response(RequestRefused(400, "request_malformed", detail), request_id)
        response.headers["X-Request-Id"] = request_id
        response.force_close()
        return response


class _Site(web.BaseSite):
    """A socket that already listens."""

    def __init__(self, runner: web.AppRunner, listener: socket.socket, backlog: int) -> None:
        super().__init__(runner, backlog=backlog)
        self._listener = listener

    @property
    def name(self) -> str:
        """The name of the site for aiohttp."""
        return str(self._listener.getsockname())

    async def start(self) -> None:
        """Start to accept connections."""
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
            auto_decompress=False,  # do not decompress a body before the token is checked
        )


async def listen(
    application: web.Application, listeners: Sequence[socket.socket], backlog: int
) -> web.AppRunner:
    """Serve an application on bound sockets. Call `cleanup` of the result to stop."""
    runner = web.AppRunner(application, shutdown_timeout=EXIT_SECONDS)
    await runner.setup()
    for listener in listeners:
        await _Site(runner, listener, backlog).start()
    return runner
