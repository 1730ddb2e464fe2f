"""The front: aiohttp's low-level server, answering in the gateway's own form when parsing fails."""

import asyncio
import uuid
from typing import Final

from aiohttp import http_exceptions, http_parser, web
from aiohttp.web_protocol import RequestHandler

from gateway.core.model import Request
from gateway.core.reasons import REQUEST_MALFORMED, REQUEST_TOO_LARGE, Denial
from gateway.proxy.handler import ProxyHandler
from gateway.proxy.responses import Responder, Written
from gateway.telemetry.logs import RequestLog
from gateway.telemetry.metrics import UNMATCHED, Metrics

KEEP_ALIVE_SECONDS: Final = 75.0
# How long the rest of a body that nobody wants is read, so that the client gets its answer.
LINGERING_SECONDS: Final = 5.0


class ParserMissing(RuntimeError):
    """aiohttp runs on its pure-Python parser, which accepts smuggled requests (CVE-2025-53643)."""


def require_c_parser() -> None:
    """Refuse to serve without llhttp. Raises `ParserMissing`."""
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise ParserMissing(
            "aiohttp's C parser is missing: install a wheel of aiohttp for this platform, "
            "and unset AIOHTTP_NO_EXTENSIONS"
        )


class _Connection(RequestHandler):
    """aiohttp's connection, whose parse errors become problem+json."""

    __slots__ = ("_front",)

    def __init__(self, front: "Front", loop: asyncio.AbstractEventLoop, max_field_bytes: int) -> None:
        super().__init__(
            front,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # None turns it off, as web.Server documents
            auto_decompress=False,
            keepalive_timeout=KEEP_ALIVE_SECONDS,
            lingering_time=LINGERING_SECONDS,
            max_line_size=max_field_bytes,
            max_field_size=max_field_bytes,
        )
        self._front = front

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,  # noqa: ARG002 -- aiohttp's signature
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002
    ) -> web.StreamResponse:
        return self._front.refuse(request, exc)


class Front(web.Server):
    """Accepts connections and hands each request to the handler."""

    def __init__(
        self,
        handler: ProxyHandler,
        responder: Responder,
        metrics: Metrics,
        log: RequestLog,
        *,
        max_field_bytes: int,
    ) -> None:
        require_c_parser()
        # A client that leaves cancels its request, so that its upstream is told at once.
        super().__init__(handler, handler_cancellation=True)
        self._responder = responder
        self._metrics = metrics
        self._log = log
        self._max_field_bytes = max_field_bytes

    def __call__(self) -> RequestHandler:
        return _Connection(self, asyncio.get_running_loop(), self._max_field_bytes)

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 -- aiohttp's signature
        """Close idle connections at once, the others when their request is finished or time is up."""
        self.pre_shutdown()
        await super().shutdown(timeout)

    def refuse(self, message: web.BaseRequest, error: BaseException | None) -> web.StreamResponse:
        """Answer what is no request, and give the connection up: where the next one begins is unknown."""
        too_large = isinstance(error, http_exceptions.LineTooLong)
        denial = Denial(REQUEST_TOO_LARGE if too_large else REQUEST_MALFORMED)
        denial.__cause__ = error
        request = Request("UNKNOWN", "", (), message.remote or "", "http", uuid.uuid4().hex)
        status, response = self._responder.render(denial, request.id, head_only=False, keep_alive=False)
        if message.transport is not None:
            message.transport.write(response)
        self._metrics.denied(denial, UNMATCHED)
        self._metrics.finished(UNMATCHED, request.method, status, 0.0)
        self._log.denied(request, denial, UNMATCHED, status)
        return Written(keep_alive=False)
