"""The state of an exchange, and its end: with a response, a denial, or without its client.

Each end counts the request, gives the upstream's connection back, and lets the client's connection go on.
"""

import asyncio
import random
from time import perf_counter
from typing import Final, Literal, TypeAlias

from gateway.core.admission import Admission
from gateway.core.model import Credential, Request
from gateway.core.reasons import Denial
from gateway.proxy.context import ExchangeContext
from gateway.proxy.downstream.connection import ClientConnection
from gateway.proxy.downstream.incoming import AnyRequest
from gateway.proxy.downstream.limits import LimitExceeded
from gateway.proxy.exchanges.heads import preflight_answer
from gateway.proxy.exchanges.reauthorization import LongLivedExchange
from gateway.proxy.exchanges.request_body import RequestBody
from gateway.proxy.exchanges.switch import ProtocolSwitch
from gateway.proxy.upstream.balancer import Upstream
from gateway.proxy.upstream.connection import UpstreamConnection
from gateway.telemetry.metrics import CLIENT_CLOSED_REQUEST, UNMATCHED
from gateway.telemetry.series import Traffic

State: TypeAlias = Literal["admitting", "buffering", "forwarding", "responding", "over"]

_NOT_TOLD: Final = (None, None)


class ExchangeEnds:
    """One request, without its way: `Exchange` has that."""

    __slots__ = (
        "_admission", "_body", "_client", "_connection", "_context", "_forwarded_at", "_incoming",
        "_keep_alive", "_long_lived", "_started", "_state", "_status", "_switch", "_task", "_traffic",
        "_upstream", "request",
    )  # fmt: skip
    _traffic: Traffic
    """That of the route; set before anything is sent to an upstream."""

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
        self._switch: ProtocolSwitch | None = None
        self._long_lived: LongLivedExchange | None = None
        self._forwarded_at = 0.0
        self._status = CLIENT_CLOSED_REQUEST
        self._keep_alive = False
        headers, peer = incoming.headers, client.peer
        request_id, spoken_for = (
            context.headers.vouched(headers, peer) if context.headers.trusts_proxies else _NOT_TOLD
        )
        self.request = Request(
            incoming.method or "UNKNOWN",
            incoming.target,
            headers,
            peer,
            client.scheme,
            request_id or f"{random.getrandbits(128):032x}",
            incoming.upgrade and incoming.modern,
            incoming.recurring,
            credential,
            spoken_for,
        )

    def _end(self, broken: Denial | None = None) -> None:
        """Account for a response that is complete, or broken: then with the denial that says why."""
        upstream, admission = self._upstream, self._admission
        if self._state == "over" or upstream is None or admission is None:
            return
        metrics, route, now = self._context.metrics, admission.forwarding.route.name, perf_counter()
        if broken is not None:
            self._keep_alive = False
            self._context.log.broken(self.request, broken, route, upstream.name)
            self._client.break_off()
        # If the client exceeded a limit, the upstream is not to blame.
        if isinstance(broken, LimitExceeded):
            metrics.limit_exceeded(broken.limit)
            broken = None
        metrics.relayed(upstream.name, now - self._forwarded_at, broken=broken is not None)
        self._release_connection()
        self._account(route, self._status, now)
        self._client.finished(keep_alive=self._keep_alive)

    def _break_off(self, _: Denial) -> None:
        """End an incomplete response with a reset, so that the client does not take it for a complete one."""
        self._keep_alive = False
        self._client.break_off()
        self._end()

    def _refuse(self, error: Exception) -> None:
        """Answer, count and log a denial. Any other error is a bug, and becomes a denial too."""
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
        # The data after a CONNECT belongs to no request.
        keep_alive = client.keeps_alive(self._incoming) and request.method != "CONNECT"
        status, response = context.deny(request, denial, route, keep_alive=keep_alive)
        self._answer(route, status, response, keep_alive=keep_alive)

    def _answer_preflight(self, route: str, fields: bytes) -> None:
        keep_alive, modern = self._client.keeps_alive(self._incoming), self._incoming.modern
        response = preflight_answer(fields, self.request.id, modern=modern, keep_alive=keep_alive)
        self._answer(route, 204, response, keep_alive=keep_alive)

    def _answer(self, route: str, status: int, response: bytes, *, keep_alive: bool) -> None:
        """Answer with a response of our own."""
        self._client.write(response)
        self._release_connection()
        self._account(route, status, perf_counter())
        self._client.finished(keep_alive=keep_alive)

    def client_left(self) -> None:
        """End because the client has left; close the upstream's connection at once."""
        if self._state == "over":
            return
        if self._connection is not None:
            self._connection.abort()
        self._release_connection()
        route = UNMATCHED if self._admission is None else self._admission.forwarding.route.name
        self._account(route, CLIENT_CLOSED_REQUEST, perf_counter())
        if self._task is not None:
            self._task.cancel()

    def cut(self) -> None:
        """End at once, because the gateway ends."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
        self._client.abort()

    def _release_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._body is not None:
            # The upstream answered before the end of the body, or will never get the rest.
            self._body = None
            connection.abort()
        connection.owner.release(connection)

    def _account(self, route: str, status: int, now: float) -> None:
        self._state = "over"
        context, request, seconds = self._context, self.request, now - self._started
        if self._switch is not None:
            self._switch.wake()
        if self._long_lived is not None:
            context.reauthorization.forget(self._long_lived)
        context.metrics.finished(route, request.method, status, seconds)
