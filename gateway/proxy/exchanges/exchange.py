"""One request in the data plane: admit → forward → account.

A request that waits for nothing is handled when its last byte arrives; any other one becomes a task. The
bytes of response bodies are passed on without the extensions of chunks, and otherwise unchanged unless the
client's HTTP version cannot read them.

=========== =============================== =========== ====================================================
State       Event                           Next        What follows
=========== =============================== =========== ====================================================
admitting   admitted                        forwarding  the request goes to a connection of its upstream
admitting   a denial                        over        the client gets the denial
admitting   admitted: a CORS preflight      over        the client gets the answer
admitting   admitted, a body is awaited     buffering   the upstream needs its length
buffering   the end of the body             forwarding  it is sent with its length
buffering   the body becomes too large      forwarding  it is streamed
buffering   the body breaks off             over        the client gets a 400, 408 or 413
forwarding  the kept connection was closed  forwarding  the request is sent again, if it is safe to repeat
forwarding  an interim response (1xx)       forwarding  it is passed on
forwarding  the head of the response        responding  head and body are passed on
forwarding  101 (Switching Protocols)       responding  both connections become a tunnel
forwarding  a failure                       over        the client gets a 502, 503 or 504
responding  the end of the response         over        the client's connection may serve another request
responding  a failure, or access is lost    over        the client's connection is reset
any         the client has left             over        499 is counted, the upstream's connection is closed
=========== =============================== =========== ====================================================
"""

import asyncio
from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import Final, Protocol, TypeVar

from gateway.core.admission import Admission
from gateway.core.reasons import (
    REQUEST_TIMEOUT,
    ROUTE_NOT_FOUND,
    UPSTREAM_PROTOCOL_ERROR,
    UPSTREAM_TIMEOUT,
    Denial,
)
from gateway.proxy.downstream.incoming import Incoming
from gateway.proxy.downstream.limits import LimitExceeded
from gateway.proxy.exchanges.exchange_ends import ExchangeEnds
from gateway.proxy.exchanges.heads import (
    interim_head,
    readable,
    switch_head,
)
from gateway.proxy.exchanges.reauthorization import LongLivedExchange
from gateway.proxy.exchanges.request_body import RequestBody, awaits_body
from gateway.proxy.exchanges.switch import ProtocolSwitch
from gateway.proxy.upstream.balancer import Upstream
from gateway.proxy.upstream.connection import UpstreamConnection
from gateway.proxy.upstream.parser import DecodingResponseParser, ResponseHead, ResponseParser

T = TypeVar("T", Admission, None)
E = TypeVar("E", bound="Exchange")

# RFC 9110 §9.2.2: only these requests are safe to repeat.
_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})


class Exchange(ExchangeEnds):
    """One request, from its head to the last byte of its response.

    `ObservedExchange` logs it.
    """

    __slots__ = ()

    # Admit ---------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Admit and forward the request; from the first point where it has to wait, in a task."""
        admitting = self._context.pipeline.admit(self.request)
        try:
            admitting.send(None)
        except StopIteration as stop:
            admission: Admission = stop.value
        except Exception as error:  # noqa: BLE001 -- every error becomes a response: a client never gets a traceback
            self._refuse(error)
            return
        else:
            # It stopped at an `asyncio.sleep(0)`, so a task can continue it.
            self._run_in_task(admitting).add_done_callback(self._admitted)
            return
        self._forward(admission)

    def _run_in_task(self, work: Coroutine[None, None, T]) -> asyncio.Task[T]:
        self._task = task = asyncio.get_running_loop().create_task(work)
        if self._incoming.body:
            self._client.stop_reading()
        return task

    def _admitted(self, task: asyncio.Task[Admission]) -> None:
        if self._state == "over" or (task.cancelled() and self._client.transport is None):
            return
        # The client is still connected, so `cut` did not cancel the task.
        error = RuntimeError("the admission was cancelled") if task.cancelled() else task.exception()
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
            if admission.forwarding.preflight is not None:
                self._answer_preflight(route.name, admission.forwarding.preflight)
                return
            if route.upstream is None:
                raise Denial(ROUTE_NOT_FOUND)
            if length is not None and length > route.max_body:
                raise LimitExceeded("body_size", f"{length} bytes")
            self._upstream = upstream = context.upstreams[route.upstream]
            self._traffic = context.metrics.traffic[route.name]
            if upstream.buffer_requests and awaits_body(
                self._client, self._incoming, upstream.buffer_requests
            ):
                self._state = "buffering"
                return
            self._forwarded_at = perf_counter()
            connection = upstream.take(once=not self._repeatable)
            if connection is None:
                self._run_in_task(self._open(admission, upstream))
            else:
                self._send(admission, upstream, connection)
        except Exception as error:  # noqa: BLE001 -- as in `begin`
            self._refuse(error)

    def _buffer(self, admission: Admission, upstream: Upstream) -> None:
        """Take the new part of a body that is awaited."""
        try:
            incoming, most = self._incoming, admission.forwarding.route.max_body
            if isinstance(incoming, Incoming) and incoming.received > most:
                raise LimitExceeded("body_size", "more bytes came")
            if not awaits_body(self._client, incoming, upstream.buffer_requests):
                self._state, self._forwarded_at = "forwarding", perf_counter()
                self._run_in_task(self._open(admission, upstream))
        except Exception as error:  # noqa: BLE001 -- as in `begin`
            self._refuse(error)

    @property
    def _repeatable(self) -> bool:
        """True if the request may be sent again when its connection turns out to be closed."""
        return not self._incoming.has_body and self.request.method in _IDEMPOTENT

    async def _open(self, admission: Admission, upstream: Upstream, *, fresh: bool = False) -> None:
        try:
            self._send(admission, upstream, await upstream.open(fresh=fresh, once=not self._repeatable))
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
        head = self._request_head(admission, connection.owner.host)
        if isinstance(incoming, Incoming) and incoming.is_small:
            self._traffic.received += incoming.received
            connection.begin(head, parser, self, b"".join(incoming.take()))
            if self._task is not None:
                # While the request waited, reading was paused.
                self._client.go_on_reading()
            connection.allow(upstream.response_timeout)
            return
        connection.begin(head, parser, self)
        if isinstance(incoming, Incoming) and (incoming.length or incoming.chunked):
            route, timeout = admission.forwarding.route, upstream.response_timeout
            self._body = RequestBody(
                self._client, incoming, connection, self._traffic, most=route.max_body, timeout=timeout
            )
            self._send_body(self._body)
            if incoming.expects_continue and not incoming.received:
                # The upstream must answer next, as after a complete request.
                connection.allow(timeout)
        else:
            connection.allow(upstream.response_timeout)

    def body_arrived(self) -> None:
        """Send the new part of the request's body, its end, or its error."""
        if self._body is not None:
            self._send_body(self._body)
        elif self._state == "buffering" and self._admission is not None and self._upstream is not None:
            self._buffer(self._admission, self._upstream)
        elif self._connection is None:
            # No upstream connection can take it yet.
            self._client.stop_reading()

    def _send_body(self, body: RequestBody) -> None:
        if body.go_on():
            self._body = None

    def writable(self) -> None:
        """Continue the request: the upstream takes more data."""
        if self._body is not None:
            self._client.go_on_reading()
        if self._switch is not None:
            self._switch.wake()

    # Respond -------------------------------------------------------------------------------------

    def arrived(self, parser: ResponseParser, body: bytes) -> None:
        """Pass the new part of the response on to the client."""
        try:
            if body:
                self._traffic.sent += len(body)
            if self._state == "forwarding":
                for head in parser.heads:
                    body = self._pass_on(head, body)
                parser.heads.clear()
                if parser.begun and not parser.complete:
                    self._watch_access(self._break_off)
            if body:
                self._client.write(body)
            if parser.complete and self._state == "responding":
                self._end()
        except Exception as error:  # noqa: BLE001 -- the exchange must end after any error
            self._refuse(error)

    def _pass_on(self, head: ResponseHead, body: bytes) -> bytes:
        """Return the bytes for the client: the head as it gets it, and the body that came with it."""
        modern = self._incoming.modern
        if head.status < 200 and head.interim:
            if head.status == 100 and self._body is not None:
                self._body.continued()
            if modern:
                self._client.write(interim_head(head))
            return body
        if head.status == 101:
            if self._connection is not None:
                # The following data belongs to the other protocol.
                self._connection.pause_reading()
            self._run_in_task(self._switch_protocols(head, body))
            return b""
        self._state, self._status = "responding", head.status
        if self._admission is not None and (cors := self._admission.forwarding.route.cors) is not None:
            head = readable(head, cors, self.request.headers)
        framed = head.length is not None or (head.chunked and modern)
        self._keep_alive = framed and self._client.keeps_alive(self._incoming)
        return self._response_head(head) + body

    # The heads, as bytes (RFC 9112 §3 and §4): methods, so that other kinds can add fields ----------

    def _request_head(self, admission: Admission, host: bytes | None, ours: bytes = b"") -> bytes:
        """Return the request line and fields, with the framing of the body to come.

        `host` replaces the client's Host. `ours`: further fields, each with its line end.
        """
        forwarding, incoming, rest = admission.forwarding, self._incoming, ours
        if incoming.length is not None:
            rest += b"Content-Length: %d\r\n" % incoming.length
        elif incoming.chunked:
            rest += b"Transfer-Encoding: chunked\r\n"
        if forwarding.upgrade is not None:
            # A request for an upgrade has no body, and may have `Content-Length: 0`.
            rest += b"Connection: Upgrade\r\nUpgrade: %b\r\n" % forwarding.upgrade
        return b"%b\r\nHost: %b\r\n%b%bX-Request-Id: %b\r\n%b\r\n" % (
            forwarding.line, host or forwarding.host, forwarding.fields, admission.fields,
            self.request.id.encode("ascii"), rest,
        )  # fmt: skip

    def _response_head(self, head: ResponseHead, ours: bytes = b"") -> bytes:
        """Return the final head for the client. `ours`: further fields, each with its line end.

        Clients of HTTP/1.1 read chunks as the upstream wrote them.
        """
        rest = ours
        if head.chunked and self._incoming.modern:
            rest += b"Transfer-Encoding: chunked\r\n"
        if not self._keep_alive:
            rest += b"Connection: close\r\n"
        elif not self._incoming.modern:
            rest += b"Connection: keep-alive\r\n"
        return b"HTTP/1.1 %d %b\r\n%bX-Request-Id: %b\r\n%b\r\n" % (
            head.status, head.reason, head.fields, self.request.id.encode("ascii"), rest
        )  # fmt: skip

    def _watch_access(self, close: Callable[[Denial], None]) -> LongLivedExchange | None:
        """Have `close` called when the caller loses access."""
        if self._admission is not None:
            self._long_lived = self._context.reauthorization.watch(
                self.request, self._admission, self._started, close
            )
        return self._long_lived

    def pause(self) -> None:
        """Stop reading the response until the client has taken the earlier data."""
        if self._connection is not None:
            self._connection.pause_reading()

    def resume(self) -> None:
        if self._connection is not None:
            self._connection.resume_reading()
        if self._switch is not None:
            self._switch.wake()

    def failed(self, denial: Denial) -> None:
        """Handle a response that stays incomplete.

        If the upstream closed a kept connection just when it was used, and the request is safe to repeat, it
        is sent again on a new one, within the retry budget (RFC 9112 §9.3.1).
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
            and self._repeatable
            and upstream.may_retry("connection_closed")
        ):
            self._release_connection()
            self._run_in_task(self._open(admission, upstream, fresh=True))
        elif denial.reason is UPSTREAM_TIMEOUT and self._body is not None and self._body.awaits_client:
            self._refuse(Denial(REQUEST_TIMEOUT, "the rest of its body did not come"))
        else:
            self._refuse(denial)

    # Switch protocols ----------------------------------------------------------------------------

    async def _switch_protocols(self, head: ResponseHead, body: bytes) -> None:
        """Pass a 101 on, and run the tunnel."""
        connection, upstream, admission = self._connection, self._upstream, self._admission
        if connection is None or upstream is None or admission is None:
            return
        try:
            self._switch = switch = ProtocolSwitch(self._context, self._client, connection)
            if not await switch.until_writable(lambda: self._state == "over"):
                return
            self._state, self._status = "responding", head.status
            answer = switch_head(head, self.request.id, self._incoming, admission)
            await switch.run(
                admission.forwarding,
                upstream.name,
                answer,
                body,
                self._traffic,
                watch=self._watch_access,
                end=self._end,
            )
        except Exception as error:  # noqa: BLE001 -- as in `begin`
            self._refuse(error)


class Kind(Protocol):
    """Makes another kind of exchange of one."""

    def __call__(self, kind: type[E], /) -> type[E]: ...


def as_it_is(kind: type[E], /) -> type[E]:
    """Return the same kind."""
    return kind
