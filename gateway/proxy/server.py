"""The front: aiohttp's low-level server, answering in the gateway's own form when parsing fails."""

import asyncio
import re
import uuid
from collections.abc import Callable
from typing import Final, cast

from aiohttp import EMPTY_PAYLOAD, StreamReader, http_exceptions, http_parser, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.http_websocket import WebSocketReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from gateway.core.model import Request
from gateway.core.reasons import REQUEST_MALFORMED, Denial
from gateway.proxy.handler import ProxyHandler
from gateway.proxy.limits import Clients, LimitExceeded, Limits, Lookout, Pace
from gateway.proxy.relay import break_off
from gateway.proxy.responses import LEAVING, Responder
from gateway.telemetry.logs import RequestLog
from gateway.telemetry.metrics import UNMATCHED, Limit, Metrics

# Of a body that has not been forwarded, what the event loop reads in one go (250 KiB with uvloop) is
# enough to hold: with this much of it in memory, no more is read.
READ_BUFFER_BYTES: Final = 1024
# How long the rest of a body that nobody wants is read, so that the client gets its answer.
LINGERING_SECONDS: Final = 5.0
# A client that got a response a moment ago may be sending its next request just now: a connection is
# closed as idle when that has become unlikely. Its next request is answered with `Connection: close`.
LAST_REQUEST_SECONDS: Final = 1.0
_DRAIN_TICK_SECONDS: Final = 0.05
# How long a handler that is cut off may take to clean up.
_CUT_OFF_SECONDS: Final = 0.2


class ParserMissing(RuntimeError):
    """aiohttp runs on its pure-Python parser, which accepts smuggled requests (CVE-2025-53643)."""


def require_c_parser() -> None:
    """Refuse to serve without llhttp. Raises `ParserMissing`."""
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise ParserMissing(
            "aiohttp's C parser is missing: install a wheel of aiohttp for this platform, "
            "and unset AIOHTTP_NO_EXTENSIONS"
        )


class _Request(web.BaseRequest):
    """aiohttp's request, the last one on its connection once the server drains or the limit is reached."""

    @property
    def keep_alive(self) -> bool:
        return super().keep_alive and not (isinstance(self.protocol, _Connection) and self.protocol.ending)


class _Connection(RequestHandler):
    """aiohttp's connection, whose parse errors become problem+json, and which keeps the limits."""

    __slots__ = (
        "_body",
        "_body_pace",
        "_client",
        "_expects",
        "_front",
        "_head_age",
        "_refused",
        "_relieved",
        "_response_pace",
        "_served",
        "_uncounted",
        "_unsent",
        "_wire",
    )

    def __init__(self, front: "Front", loop: asyncio.AbstractEventLoop, limits: Limits) -> None:
        super().__init__(
            front,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # None turns it off, as web.Server documents
            auto_decompress=False,
            keepalive_timeout=limits.keepalive_timeout,
            lingering_time=LINGERING_SECONDS,
            read_bufsize=READ_BUFFER_BYTES,
            max_line_size=limits.line_size,
            max_field_size=limits.field_size,
            max_headers=limits.most_fields,
        )
        self._front = front
        self._client: str | None = None
        # aiohttp forgets its transport before all is sent.
        self._wire: asyncio.Transport | None = None
        self._served = 0
        self._refused = False
        # Bytes since the last complete head or bit of content: of a head, of trailers, of chunks' extensions.
        self._uncounted = 0
        self._head_age: float | None = None
        self._body: StreamReader = EMPTY_PAYLOAD
        self._body_pace = Pace()
        self._expects = False
        self._unsent = 0
        self._relieved = False
        self._response_pace = Pace()

    # Connections ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        try:
            self._client = self._front.clients.enter(_peer(transport))
        except LimitExceeded as exceeded:
            self.force_close()
            self._front.turn_away(cast("asyncio.Transport", transport), exceeded)
            return
        super().connection_made(transport)
        self._wire = cast("asyncio.Transport", transport)
        self._front.lookout.watch(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._front.lookout.forget(self)
        self._wire = None
        if self._client is not None:
            self._front.clients.leave(self._client)
            self._client = None

    def begin_request(self) -> None:
        """Count a request that is about to be handled."""
        self._served += 1
        if self._served == self._front.limits.keepalive_requests:
            self._front.count("keepalive_requests")

    @property
    def ending(self) -> bool:
        """True when the connection closes after the response to the current request."""
        return self._front.draining or self._served >= self._front.limits.keepalive_requests

    # Sizes ---------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        body, content, heads = self._body, self._body.total_bytes, self._request_count
        in_body = not body.is_eof()
        super().data_received(data)
        if self._request_count != heads:
            self._take_heads(self._request_count - heads, self._uncounted + len(data))
        elif in_body and (body.is_eof() or body.total_bytes != content):
            self._uncounted = 0
        elif not self._upgraded and self._payload_parser is None:
            self._uncounted += len(data)
            if self._uncounted > self._front.limits.head_size:
                self._refuse(LimitExceeded("head_size"))
        if self._uncounted or not self._body.is_eof():
            self._front.lookout.watch(self)

    def _take_heads(self, number: int, at_most: int) -> None:
        """Check heads that have just arrived, of at most so many bytes each."""
        self._uncounted = 0
        for index in range(len(self._messages) - number, len(self._messages)):
            message, body = self._messages[index]
            if isinstance(message, _ErrInfo):
                continue
            try:
                self._front.limits.check_head(message, at_most)
            except LimitExceeded as exceeded:
                while len(self._messages) > index:
                    self._messages.pop()
                self._refuse(exceeded)
                return
            self._body = body
            if body is not EMPTY_PAYLOAD:
                self._body_pace.rest()
                self._expects = "Expect" in message.headers

    def _refuse(self, exceeded: LimitExceeded) -> None:
        """Read no more, and answer when the requests before this one have been answered."""
        self._refused = True
        if self._body.is_eof():
            self._messages.append((_ErrInfo(exceeded.reason.status, exceeded, ""), EMPTY_PAYLOAD))
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)
        elif self._request_in_progress:
            self._lingering_time = 0.0
            self._body.set_exception(exceeded)
        else:
            self._front.count(exceeded.limit)
            self.force_close()

    def set_parser(self, parser: WebSocketReader, data_received_cb: Callable[[], None] | None = None) -> None:
        """Hand what comes behind the current head over to another protocol.

        Raises `Denial` when some of it has been read as HTTP, or was too much to keep.
        """
        if self._messages or (self._uncounted and not self._upgraded):
            raise Denial(REQUEST_MALFORMED, "more came before the protocol was switched")
        super().set_parser(parser, data_received_cb)

    # Times and rates -----------------------------------------------------------------------------

    def look(self, elapsed: float) -> bool:
        """Find what has become too slow, so many seconds after the last look; False: there is nothing."""
        if self._wire is None:
            return False
        in_head = bool(self._uncounted) or not self._request_count
        if in_head and self._waiter is not None and not self._waiter.done():
            self._look_at_head(elapsed)
        else:
            self._head_age = None
        in_body = not self._body.is_eof()
        if in_body:
            self._look_at_body(self._wire, elapsed)
        unsent = self._wire.get_write_buffer_size()
        if unsent or self._unsent:
            self._look_at_response(self._wire, unsent, elapsed)
        return in_head or in_body or unsent > 0

    def _look_at_head(self, elapsed: float) -> None:
        self._head_age = 0.0 if self._head_age is None else self._head_age + elapsed
        if self._head_age <= self._front.limits.header_timeout:
            return
        if self._uncounted:
            self._refuse(LimitExceeded("header_timeout"))
        else:
            # Browsers open connections ahead, and would take this answer for one to their next request.
            self._front.count("header_timeout")
            self.force_close()

    def _look_at_body(self, transport: asyncio.Transport, elapsed: float) -> None:
        limits = self._front.limits
        # Only the client's own slowness counts, not that of the upstream, nor of its 100.
        unasked = self._expects and not self._body.total_bytes
        if self._refused or unasked or not self._request_in_progress or not transport.is_reading():
            return
        received = self._body.total_bytes
        if self._body_pace.too_slow(received, elapsed, limits.body_min_rate, limits.rate_grace):
            self._refuse(LimitExceeded("body_min_rate", f"{received} bytes so far"))

    def _look_at_response(self, transport: asyncio.Transport, unsent: int, elapsed: float) -> None:
        limits = self._front.limits
        grown, self._unsent = unsent > self._unsent, unsent
        relieved, self._relieved = self._relieved, False
        # While more may be written, what is sent shows only when writing is paused.
        if not unsent or grown or relieved or (self._request_in_progress and not self.writing_paused):
            self._response_pace.rest()
        if self._response_pace.too_slow(-unsent, elapsed, limits.response_min_rate, limits.rate_grace):
            self._front.cut_off(transport, "response_min_rate")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._front.lookout.watch(self)

    def log_access(self, *_: object) -> None:
        """Hear from aiohttp that a response is finished; some of it may not have been sent yet."""
        self._front.lookout.watch(self)

    def resume_writing(self) -> None:
        self._relieved = True
        super().resume_writing()

    def _process_keepalive(self) -> None:
        if self._uncounted:
            # A head is arriving, and has a time of its own.
            self._keepalive_handle = None
        else:
            super()._process_keepalive()

    # Ends ----------------------------------------------------------------------------------------

    def close_when_idle(self, before: float) -> None:
        """Close the connection if it has waited for a request since before that time of the event loop."""
        # A head that has begun to arrive is answered; it has a time of its own.
        waiting = self._waiter is not None and not self._waiter.done() and not self._uncounted
        # aiohttp sets this when a connection is made and after each response.
        if waiting and self._next_keepalive_close_time - self._keepalive_timeout <= before:
            self.force_close()

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
        limits: Limits,
        exempt: Callable[[str], bool],
    ) -> None:
        """`exempt` tells which addresses may have any number of connections."""
        require_c_parser()
        # A client that leaves cancels its request, so that its upstream is told at once.
        super().__init__(handler, handler_cancellation=True)
        self.draining = False
        """True once each connection closes after the response that comes next."""
        self._responder = responder
        self._metrics = metrics
        self._log = log
        self.limits = limits
        self.clients = Clients(limits, exempt)
        self.lookout = Lookout(self._loop, limits.look_every)
        metrics.client_connections.read((), lambda: self.clients.total)

    def __call__(self) -> RequestHandler:
        return _Connection(self, asyncio.get_running_loop(), self.limits)

    def _make_request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: "asyncio.Task[None]",
    ) -> web.BaseRequest:
        if isinstance(protocol, _Connection):
            protocol.begin_request()
        return _Request(message, payload, protocol, writer, task, self._loop)

    async def drain(self, seconds: float, *, grace: float = LAST_REQUEST_SECONDS) -> None:
        """Finish what is in flight, for up to `seconds`, and close each connection that is done.

        An idle connection is closed when no request has come for `grace` seconds; requests until then
        are answered. What is not done in time is cut off. Accepting must have ended before.
        """
        self.draining = True
        loop = asyncio.get_running_loop()
        started = loop.time()
        # Connections that were accepted just now become known at the loop's next turns.
        await asyncio.sleep(_DRAIN_TICK_SECONDS)
        while self.connections and (now := loop.time()) < started + seconds:
            if now >= started + grace:
                for connection in self.connections:
                    if isinstance(connection, _Connection):
                        connection.close_when_idle(now - grace)
            await asyncio.sleep(_DRAIN_TICK_SECONDS)
        await self.shutdown(_CUT_OFF_SECONDS)

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 -- aiohttp's signature
        """Close idle connections at once, the others when their request is finished or time is up."""
        self.pre_shutdown()
        await super().shutdown(timeout)

    def refuse(self, message: web.BaseRequest, error: BaseException | None) -> web.StreamResponse:
        """Answer what is no request, and give the connection up: where the next one begins is unknown."""
        if message.transport is not None:
            self._answer(message.transport, self._denial(error))
        return LEAVING

    def turn_away(self, transport: asyncio.Transport, exceeded: LimitExceeded) -> None:
        """Answer a connection that is one too many, without reading from it, and close it."""
        self._answer(transport, exceeded)
        transport.close()

    def cut_off(self, transport: asyncio.Transport, limit: Limit) -> None:
        """Break a connection whose client does not take its response."""
        self.count(limit)
        self._log.limit_exceeded(limit, _peer(transport))
        break_off(transport)

    def count(self, limit: Limit) -> None:
        self._metrics.limit_exceeded(limit)

    def _denial(self, error: BaseException | None) -> Denial:
        """Translate what aiohttp's parser found wrong with a head, or pass on what we did."""
        if isinstance(error, LimitExceeded):
            return error
        denial: Denial
        if isinstance(error, http_exceptions.LineTooLong):
            # Its second argument is the limit.
            in_target = error.args[1] == self.limits.line_size
            denial = LimitExceeded("target_length" if in_target else "field_size")
        else:
            denial = Denial(REQUEST_MALFORMED, _unquoted(error))
        denial.__cause__ = error
        return denial

    def _answer(self, transport: asyncio.Transport, denial: Denial) -> None:
        """Answer, count and log a denial of what never became a request."""
        request = Request("UNKNOWN", "", (), _peer(transport), "http", uuid.uuid4().hex)
        status, response = self._responder.render(denial, request.id, head_only=False, keep_alive=False)
        transport.write(response)
        if isinstance(denial, LimitExceeded):
            self._metrics.limit_exceeded(denial.limit)
        self._metrics.denied(denial, UNMATCHED)
        self._metrics.finished(UNMATCHED, request.method, status, 0.0)
        self._log.denied(request, denial, UNMATCHED, status)


def _unquoted(error: BaseException | None) -> str | None:
    """Return what aiohttp's parser says is wrong, without the bytes that it quotes: they may be a token."""
    said = getattr(error, "message", None)
    return re.split(r"[\n:'\"]", said, maxsplit=1)[0].strip() or None if isinstance(said, str) else None


def _peer(transport: asyncio.BaseTransport) -> str:
    """Return the address of the other end; empty on a Unix socket."""
    name = transport.get_extra_info("peername")
    return name[0] if isinstance(name, tuple) else ""
