"""The data plane's way with one request: admit → forward → account for it.

What can be settled at once is settled where the request arrives, without a task; what has to wait goes on
as one. Response bodies pass as they stood on the wire, unless the client's HTTP version cannot read them.

=========== =============================== =========== ====================================================
State       Event                           Next        What follows
=========== =============================== =========== ====================================================
admitting   admitted                        forwarding  the request goes to a connection of its upstream
admitting   a denial                        over        the denial is answered
forwarding  the kept connection was closed  forwarding  the request goes out once more, if it is idempotent
forwarding  an interim response (1xx)       forwarding  it is passed on
forwarding  the head of the response        responding  it is passed on, and what follows it
forwarding  101 (Switching Protocols)       responding  both connections become a tunnel
forwarding  a failure                       over        502, 503 or 504 is answered
responding  the end of the response         over        the client's connection may serve another request
responding  a failure, or the caller may    over        the client's connection is reset
            not go on
any         the client has left             over        499 is counted, the upstream's connection is cut
=========== =============================== =========== ====================================================
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import Final, Literal, TypeAlias, TypeVar

from gateway.core.admission import Admission
from gateway.core.model import Credential, Request
from gateway.core.reasons import REQUEST_TIMEOUT, UPSTREAM_PROTOCOL_ERROR, UPSTREAM_TIMEOUT, Denial
from gateway.proxy.context import ExchangeContext
from gateway.proxy.downstream.connection import ClientConnection
from gateway.proxy.downstream.incoming import AnyRequest, Incoming
from gateway.proxy.downstream.limits import LimitExceeded
from gateway.proxy.heads import interim_head, request_head, response_head, switch_head
from gateway.proxy.reauthorization import LongLivedExchange
from gateway.proxy.request_body import RequestBody
from gateway.proxy.tunnel import EndedBy, Tunnel
from gateway.proxy.upstream.balancer import Upstream
from gateway.proxy.upstream.connection import UpstreamConnection
from gateway.proxy.upstream.parser import DecodingResponseParser, ResponseHead, ResponseParser
from gateway.telemetry.metrics import UNMATCHED

T = TypeVar("T", Admission, None)
State: TypeAlias = Literal["admitting", "forwarding", "responding", "over"]

CLIENT_CLOSED_REQUEST: Final = 499
"""Counted, never sent: the client left before its response was whole (nginx's number for it)."""
# RFC 9110 §9.2.2: sending these twice does no more than sending them once.
_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})


class Exchange:
    """One request, from its head to the last byte of its response."""

    __slots__ = (
        "_admission", "_body", "_client", "_connection", "_context", "_forwarded_at", "_incoming",
        "_keep_alive", "_long_lived", "_started", "_state", "_status", "_task", "_upstream", "_writable",
        "request",
    )  # fmt: skip

    def __init__(
        self,
        context: ExchangeContext,
        client: ClientConnection,
        incoming: AnyRequest,
        credential: Credential | None,
    ) -> None:
        self._context = context
        self._client = client
        self._incoming = incoming
        self._started = perf_counter()
        self._state: State = "admitting"
        self._admission: Admission | None = None
        self._upstream: Upstream | None = None
        self._connection: UpstreamConnection | None = None
        self._body: RequestBody | None = None
        self._task: asyncio.Task[Admission] | asyncio.Task[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._long_lived: LongLivedExchange | None = None
        self._forwarded_at = 0.0
        self._status = CLIENT_CLOSED_REQUEST
        self._keep_alive = False
        headers, peer = incoming.headers, client.peer
        self.request = Request(
            incoming.method or "UNKNOWN",
            incoming.target,
            headers,
            peer,
            client.scheme,
            (context.headers.trusts_proxies and context.headers.request_id(headers, peer))
            or f"{random.getrandbits(128):032x}",
            incoming.upgrade and incoming.modern,
            incoming.recurring,
            credential,
        )

    # Admit ---------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Go as far as nothing has to be waited for, and on from there as a task."""
        way = self._context.pipeline.admit(self.request)
        admission: Admission
        try:
            way.send(None)
        except StopIteration as settled:
            admission = settled.value
        except Exception as error:  # noqa: BLE001 -- the one exit: a client never gets a traceback
            self._refuse(error)
            return
        else:
            # It stands at an `asyncio.sleep(0)`, from where an event loop takes it on.
            self._go(way).add_done_callback(self._settled)
            return
        self._forward(admission)

    def _go(self, way: Coroutine[None, None, T]) -> asyncio.Task[T]:
        self._task = task = asyncio.get_running_loop().create_task(way)
        if self._incoming.body:
            self._client.stop_reading()
        return task

    def _settled(self, task: asyncio.Task[Admission]) -> None:
        if self._state == "over" or (task.cancelled() and self._client.transport is None):
            return
        # While the client is there, it was not cut off: what it waited for was given up.
        error = RuntimeError("it was given up") if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._refuse(error)
        else:
            self._forward(task.result())

    # Forward -------------------------------------------------------------------------------------

    def _forward(self, admission: Admission) -> None:
        try:
            self._state, self._admission, context = "forwarding", admission, self._context
            if admission.stale:
                context.metrics.admitted_by_stale(admission)
            route, length = admission.forwarding.route, self._incoming.length
            most = route.max_body
            if length is not None and length > most:
                raise LimitExceeded("body_size", f"{length} bytes")
            self._upstream = upstream = context.upstreams[route.upstream]
            self._forwarded_at = perf_counter()
            connection = upstream.take(once=self._once)
            if connection is None:
                self._go(self._open(admission, upstream))
            else:
                self._send(admission, upstream, connection)
        except Exception as error:  # noqa: BLE001 -- as in `begin`
            self._refuse(error)

    @property
    def _once(self) -> bool:
        """True when it cannot be sent a second time, should its connection turn out to be closed."""
        return self._incoming.has_body or self.request.method not in _IDEMPOTENT

    async def _open(self, admission: Admission, upstream: Upstream, *, fresh: bool = False) -> None:
        try:
            self._send(admission, upstream, await upstream.open(fresh=fresh, once=self._once))
        except Exception as error:  # noqa: BLE001 -- as in `begin`
            self._refuse(error)

    def _send(self, admission: Admission, upstream: Upstream, connection: UpstreamConnection) -> None:
        self._connection, incoming = connection, self._incoming
        bodiless = admission.forwarding.method == "HEAD"
        parser, connection.spare = connection.spare, None
        if not incoming.modern:
            parser = DecodingResponseParser(bodiless=bodiless)
        elif parser is None:
            known = self._context.response_heads
            parser = ResponseParser(bodiless=bodiless, upgrade=admission.forwarding.upgrade, known=known)
        else:
            parser.expect(bodiless=bodiless, upgrade=admission.forwarding.upgrade)
        head = request_head(admission, incoming, connection.owner.host, self.request.id)
        if isinstance(incoming, Incoming) and incoming.is_small:
            connection.begin(head, parser, self, b"".join(incoming.take()))
            if self._task is not None:
                # It had to wait, and nothing more was read meanwhile.
                self._client.go_on_reading()
            connection.allow(upstream.response_timeout)
            return
        connection.begin(head, parser, self)
        if isinstance(incoming, Incoming) and (incoming.length or incoming.chunked):
            route, timeout = admission.forwarding.route, upstream.response_timeout
            self._body = RequestBody(self._client, incoming, connection, most=route.max_body, timeout=timeout)
            self._send_body(self._body)
            if incoming.expects_continue and not incoming.received:
                # It is the upstream's turn, as after a request that is whole.
                connection.allow(timeout)
        else:
            connection.allow(upstream.response_timeout)

    def body_arrived(self) -> None:
        """Hear that more of the request's body has come, its end, or its error."""
        if self._body is not None:
            self._send_body(self._body)
        elif self._connection is None:
            # There is no upstream connection to take it yet.
            self._client.stop_reading()

    def _send_body(self, body: RequestBody) -> None:
        if body.go_on():
            self._body = None

    def writable(self) -> None:
        """Hear that the upstream takes more of the request."""
        if self._body is not None:
            self._client.go_on_reading()
        self._wake()

    # Respond -------------------------------------------------------------------------------------

    def arrived(self, parser: ResponseParser, body: bytes) -> None:
        """Pass on what has arrived of the response."""
        try:
            if self._state == "forwarding":
                for head in parser.heads:
                    body = self._pass_on(head, body)
                parser.heads.clear()
                if parser.begun and not parser.complete:
                    self._last(self._break_off)
            if body:
                self._client.write(body)
            if parser.complete and self._state == "responding":
                self._end()
        except Exception as error:  # noqa: BLE001 -- whatever it is, the exchange must end
            self._refuse(error)

    def _pass_on(self, head: ResponseHead, body: bytes) -> bytes:
        """Return what the client gets of a head, with the body that has come behind it."""
        modern = self._incoming.modern
        if head.status < 200 and head.interim:
            if head.status == 100 and self._body is not None:
                self._body.continued()
            if modern:
                self._client.write(interim_head(head))
            return body
        if head.status == 101:
            if self._connection is not None:
                # What comes from here on is the other protocol's.
                self._connection.pause_reading()
            self._go(self._switch(head, body))
            return b""
        self._state, self._status = "responding", head.status
        framed = head.length is not None or (head.chunked and modern)
        self._keep_alive = framed and self._client.stays(self._incoming)
        return response_head(head, self.request.id, modern=modern, keep_alive=self._keep_alive) + body

    def _last(self, close: Callable[[Denial], None]) -> None:
        """Go on only for as long as the caller would be admitted again."""
        if self._admission is not None:
            self._long_lived = self._context.reauthorization.watch(
                self.request, self._admission, self._started, close
            )

    def pause(self) -> None:
        """Hear that the client takes no more of the response for now."""
        if self._connection is not None:
            self._connection.pause_reading()

    def resume(self) -> None:
        if self._connection is not None:
            self._connection.resume_reading()
        self._wake()

    def failed(self, denial: Denial) -> None:
        """Hear that the response will not come to its end.

        When an upstream closed a kept connection just as it was used, the request goes out once more on
        a fresh one, if it has no body and is idempotent (RFC 9112 §9.3.1), and the budget allows it.
        """
        upstream, connection, admission = self._upstream, self._connection, self._admission
        if self._state == "responding":
            self._end(denial)
        elif (
            upstream is not None
            and connection is not None
            and admission is not None
            and connection.reused
            and not connection.answered
            and denial.reason is UPSTREAM_PROTOCOL_ERROR
            and not self._once
            and upstream.may_retry("connection_closed")
        ):
            self._give_back()
            self._go(self._open(admission, upstream, fresh=True))
        elif denial.reason is UPSTREAM_TIMEOUT and self._body is not None and self._body.awaits_client:
            self._refuse(Denial(REQUEST_TIMEOUT, "the rest of its body did not come"))
        else:
            self._refuse(denial)

    # Switch protocols ----------------------------------------------------------------------------

    async def _switch(self, head: ResponseHead, body: bytes) -> None:
        try:
            await self._tunnel(head, body)
        except Exception as error:  # noqa: BLE001 -- as in `begin`
            self._refuse(error)

    async def _tunnel(self, head: ResponseHead, body: bytes) -> None:
        """Pass a 101 on, and make a tunnel of both connections until either side ends it."""
        client, connection, upstream = self._client, self._connection, self._upstream
        admission = self._admission
        if connection is None or upstream is None or admission is None:
            return
        while (client.writing_paused or connection.writing_paused) and self._state != "over":
            self._writable = asyncio.get_running_loop().create_future()
            await self._writable
        if self._state == "over":
            return
        self._state, self._status = "responding", head.status
        answer = switch_head(head, self.request.id, self._incoming, admission)
        outside, inside = client.transport, connection.transport
        if outside is None or inside is None:
            client.write(answer + body)
            self._end()
            return
        early = client.surrender()
        connection.resume_reading()
        tunnel = Tunnel(outside, inside, idle_timeout=admission.forwarding.route.tunnel_timeout)

        def dismiss(denial: Denial) -> None:
            if not tunnel.dismiss(self._context.responder.code(denial)):
                client.break_off()

        self._last(dismiss)
        if self._long_lived is not None and (admission.forwarding.upgrade or b"").lower() == b"websocket":
            tunnel.follow_frames()
        self._context.metrics.tunnel_opened(upstream.name)
        ended_by = EndedBy.SHUTDOWN
        try:
            ended_by = await tunnel.run(body, early, head=answer)
        finally:
            self._context.metrics.tunnel_ended(upstream.name, ended_by)
            self._end()

    def _wake(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    # Ends ----------------------------------------------------------------------------------------

    def _end(self, broken: Denial | None = None) -> None:
        """Account for a response that is whole, or that has broken off."""
        upstream, admission = self._upstream, self._admission
        if self._state == "over" or upstream is None or admission is None:
            return
        metrics, route, now = self._context.metrics, admission.forwarding.route.name, perf_counter()
        if broken is not None:
            self._keep_alive = False
            self._context.log.broken(self.request, broken, route, upstream.name)
            self._client.break_off()
        # A client that exceeds a limit in the middle is no fault of the upstream.
        if isinstance(broken, LimitExceeded):
            metrics.limit_exceeded(broken.limit)
            broken = None
        metrics.relayed(upstream.name, now - self._forwarded_at, broken=broken is not None)
        self._give_back()
        self._account(route, self._status, now)
        self._client.finished(keep_alive=self._keep_alive)

    def _break_off(self, _: Denial) -> None:
        """End a response in the middle, as it may not go on, and let its client see that it is not whole."""
        self._keep_alive = False
        self._client.break_off()
        self._end()

    def _refuse(self, error: Exception) -> None:
        """Answer, count and log a denial; a defect of ours is one too."""
        context, client, request = self._context, self._client, self.request
        denial = error if isinstance(error, Denial) else context.defect(request, error)
        if self._state == "over":
            return
        if self._state == "responding":
            self._end(denial)
            return
        if self._admission is not None:
            denial.route, claims = self._admission.forwarding.route, self._admission.claims
            if claims is not None:
                denial.issuer, denial.subject = claims.issuer_name, claims.subject
        route = UNMATCHED if denial.route is None else denial.route.name
        # What follows a CONNECT belongs to no request.
        keep_alive = client.stays(self._incoming) and request.method != "CONNECT"
        status, response = context.deny(request, denial, route, keep_alive=keep_alive)
        client.write(response)
        self._give_back()
        self._account(route, status, perf_counter())
        client.finished(keep_alive=keep_alive)

    def client_left(self) -> None:
        """Hear that the client has gone: its upstream is told at once."""
        if self._state == "over":
            return
        if self._connection is not None:
            self._connection.abort()
        self._give_back()
        route = UNMATCHED if self._admission is None else self._admission.forwarding.route.name
        self._account(route, CLIENT_CLOSED_REQUEST, perf_counter())
        if self._task is not None:
            self._task.cancel()

    def cut(self) -> None:
        """End at once, because the gateway does."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
        self._client.abort()

    def _give_back(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._body is not None:
            # The upstream has answered without reading on, or will never get the rest.
            self._body = None
            connection.abort()
        connection.owner.release(connection)

    def _account(self, route: str, status: int, now: float) -> None:
        self._state = "over"
        context, request, seconds = self._context, self.request, now - self._started
        if self._writable is not None:
            self._wake()
        if self._long_lived is not None:
            context.reauthorization.forget(self._long_lived)
        context.metrics.finished(route, request.method, status, seconds)
        if context.log.access:
            context.log.finished(request, route, status, seconds)
