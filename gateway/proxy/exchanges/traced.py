"""Exchanges of the data plane when requests are traced.

Whether a request is sampled is decided before its exchange is made. Only a sampled one has spans:

- A **server span** from its head to the end of its response, or of its tunnel.
- A **client span** for each time it is sent to an upstream, which gets the span's id in `traceparent`.
- Between them those of the stores and the issuers that it waits for (`telemetry.tracing.span.inside`).

The upstream of one that is not sampled is told so, because it would decide for itself otherwise. A
`traceparent` that says it already is passed on unchanged.
"""

import random
import time
from collections.abc import Collection
from contextvars import copy_context
from time import perf_counter
from typing import Final

from gateway.core.admission import Admission
from gateway.core.model import Credential
from gateway.core.reasons import Denial
from gateway.core.requests.trace_context import TRACEPARENT, TRACESTATE, TraceParent, parent_of
from gateway.core.routes import path_of
from gateway.proxy.context import ExchangeContext
from gateway.proxy.downstream.connection import ClientConnection
from gateway.proxy.downstream.incoming import AnyRequest
from gateway.proxy.downstream.incoming import Exchange as AnyExchange
from gateway.proxy.exchanges.exchange import Exchange, Kind, as_it_is
from gateway.proxy.exchanges.observed import ObservedExchange
from gateway.proxy.server import ExchangeFactory
from gateway.proxy.upstream.balancer import Upstream
from gateway.proxy.upstream.connection import UpstreamConnection
from gateway.proxy.upstream.endpoints.endpoint import Endpoint
from gateway.telemetry.metrics import CLIENT_CLOSED_REQUEST
from gateway.telemetry.tracing import http, server_span
from gateway.telemetry.tracing.sampling import RATIO_BITS
from gateway.telemetry.tracing.server_span import Tracing
from gateway.telemetry.tracing.span import CURRENT, Span, Value

_NAME_LENGTH: Final = len(TRACEPARENT)
_PARENT: Final = frozenset({TRACEPARENT})
_BOTH: Final = frozenset({TRACEPARENT, TRACESTATE})
# The end of `tracestate: ` in every usual spelling.
_STATE_MARK: Final = b"tate: "


def traced(
    tracing: Tracing, context: ExchangeContext, *, observed: bool, kind: Kind = as_it_is
) -> ExchangeFactory:
    """Return the factory of exchanges. `observed`: those that are not sampled are logged, too.

    `kind` makes of each kind the one that is used.
    """
    sampling = tracing.sampling
    bound, draw = sampling.bound, random.getrandbits
    silent = kind(ObservedExchange if observed else Exchange)
    told = kind(ObservedUnsampledExchange if observed else UnsampledExchange)
    sampled, corrected = kind(TracedExchange), kind(CorrectedExchange)

    def exchange(
        client: ClientConnection, incoming: AnyRequest, credential: Credential | None
    ) -> AnyExchange:
        # Each call costs here: this, and the head of an unsampled exchange, is all that most requests pay.
        for name, _ in incoming.headers:
            if len(name) == _NAME_LENGTH and name.lower() == TRACEPARENT:
                return continued(client, incoming, credential)
        trace = draw(128)
        if trace & RATIO_BITS < bound:
            return sampled(tracing, None, trace, context, client, incoming, credential)
        begun = told(context, client, incoming, credential)
        begun.request.trace = trace
        return begun

    def continued(
        client: ClientConnection, incoming: AnyRequest, credential: Credential | None
    ) -> AnyExchange:
        parent = parent_of(incoming.headers)
        trace, is_sampled = sampling.begin(parent)
        if is_sampled:
            return sampled(tracing, parent, trace, context, client, incoming, credential)
        if parent is None or parent.sampled:
            return corrected(parent, trace, context, client, incoming, credential)
        return silent(context, client, incoming, credential)

    return exchange


def _without(admission: Admission, dropped: Collection[bytes]) -> Admission:
    """Return an admission whose request has none of these fields of the client."""
    forwarding = admission.forwarding
    lines = forwarding.fields.split(b"\r\n")[:-1]
    kept = (line for line in lines if line.partition(b":")[0].lower() not in dropped)
    forwarding = forwarding._replace(fields=b"".join(line + b"\r\n" for line in kept))
    return Admission(forwarding, admission.fields, admission.claims, admission.decision)


class UnsampledExchange(Exchange):
    """A request without a parent, which begins a trace that is not sampled. Its upstream learns that."""

    __slots__ = ()

    def _request_head(self, admission: Admission, host: bytes | None, ours: bytes = b"") -> bytes:
        if _STATE_MARK in admission.forwarding.fields:
            admission = _without(admission, _BOTH)
        ours += _unsampled(self.request.trace)
        return Exchange._request_head(self, admission, host, ours)  # noqa: SLF001 -- `super()` takes longer


class ObservedUnsampledExchange(UnsampledExchange, ObservedExchange):
    """The same, logged."""

    __slots__ = ()


class CorrectedExchange(ObservedExchange):
    """A request that is not sampled, and names a parent that does not count, or says that it is sampled."""

    __slots__ = ("_dropped",)

    def __init__(
        self,
        parent: TraceParent | None,
        trace: int,
        context: ExchangeContext,
        client: ClientConnection,
        incoming: AnyRequest,
        credential: Credential | None,
    ) -> None:
        super().__init__(context, client, incoming, credential)
        self.request.trace = trace
        self._dropped = _dropped(parent)

    def _request_head(self, admission: Admission, host: bytes | None, ours: bytes = b"") -> bytes:
        ours += _unsampled(self.request.trace)
        return super()._request_head(_without(admission, self._dropped), host, ours)


def _unsampled(trace: int) -> bytes:
    """Return the field that tells the upstream of a trace that is not sampled.

    The span that it names is recorded nowhere, and so may have any id.
    """
    return b"traceparent: 00-%032x-%016x-00\r\n" % (trace, trace & RATIO_BITS)


def _dropped(parent: TraceParent | None) -> frozenset[bytes]:
    """Return the fields that ours replace. A parent that does not count takes its state along (§4.3)."""
    return _BOTH if parent is None else _PARENT


class TracedExchange(ObservedExchange):
    """A request that is sampled."""

    __slots__ = ("_attempt", "_attempts", "_dropped", "_failure", "_span", "_tells_users")

    def __init__(
        self,
        tracing: Tracing,
        parent: TraceParent | None,
        trace: int,
        context: ExchangeContext,
        client: ClientConnection,
        incoming: AnyRequest,
        credential: Credential | None,
    ) -> None:
        """`trace` is the number of its trace, which begins here if there is no parent."""
        super().__init__(context, client, incoming, credential)
        request = self.request
        request.trace = trace
        self._span = server_span.begin(tracing, request, parent, trace, modern=incoming.modern)
        self._tells_users = tracing.tells_users
        self._dropped = _dropped(parent)
        self._attempt: Span | None = None
        self._attempts = 0
        self._failure: Exception | None = None

    def begin(self) -> None:
        # A context of its own, because that of the connection is also that of its later requests.
        copy_context().run(self._begin_in_span)

    def _begin_in_span(self) -> None:
        CURRENT.set(self._span)
        super().begin()

    def _send(self, admission: Admission, upstream: Upstream, connection: UpstreamConnection) -> None:
        self._end_attempt()
        self._failure = None
        self._attempt = self._begin_attempt(admission, upstream, connection.owner)
        super()._send(admission, upstream, connection)

    def _request_head(self, admission: Admission, host: bytes | None, ours: bytes = b"") -> bytes:
        if self._attempt is not None:
            ours += b"traceparent: %b\r\n" % self._attempt.traceparent
        return super()._request_head(_without(admission, self._dropped), host, ours)

    def _begin_attempt(self, admission: Admission, upstream: Upstream, endpoint: object) -> Span:
        method, route = admission.forwarding.method, admission.forwarding.route
        attributes: dict[str, Value] = http.method_attributes(method) | {"gateway.upstream": upstream.name}
        started: int | None = None
        if self._attempts:
            attributes[http.RESEND_COUNT] = self._attempts
        else:
            # It began when a connection was asked for.
            started = time.time_ns() - int((perf_counter() - self._forwarded_at) * 1e9)
        if isinstance(endpoint, Endpoint):
            path = path_of(admission.forwarding.line.split(b" ")[1].decode("ascii", "replace"))
            attributes |= _endpoint_attributes(endpoint, path)
        self._attempts += 1
        return self._span.child(http.span_name(method, route.path), "client", attributes, started)

    def _end_attempt(self) -> None:
        attempt, self._attempt = self._attempt, None
        if attempt is None:
            return
        if self._status != CLIENT_CLOSED_REQUEST:
            attempt.describe({http.STATUS: self._status})
        if self._failure is not None:
            attempt.fail(server_span.error_type(self._failure))
        elif self._status == CLIENT_CLOSED_REQUEST:
            attempt.describe({http.ERROR: http.CLIENT_LEFT})
        elif self._status >= 400:
            attempt.fail(str(self._status))
        attempt.end()

    # What went wrong -----------------------------------------------------------------------------

    def failed(self, denial: Denial) -> None:
        self._failure = denial
        super().failed(denial)

    def _refuse(self, error: Exception) -> None:
        self._failure = error
        super()._refuse(error)

    def _end(self, broken: Denial | None = None) -> None:
        self._failure = broken
        super()._end(broken)

    # The end -------------------------------------------------------------------------------------

    def _account(self, route: str, status: int, now: float) -> None:
        super()._account(route, status, now)
        admission, upstream = self._admission, self._upstream
        if admission and upstream and self._forwarded_at and not self._attempts and self._failure:
            # No connection could be had.
            self._attempt = self._begin_attempt(admission, upstream, None)
        self._end_attempt()
        span = self._span
        server_span.end(
            span, self.request.method, status, admission, self._failure,
            sent=None if self._status == CLIENT_CLOSED_REQUEST else self._status,
            tells_users=self._tells_users,
        )  # fmt: skip
        self._context.metrics.request_duration.exemplify((route,), now - self._started, span.trace_id)
        # Its traceback leads back here: a cycle.
        self._failure = None


def _endpoint_attributes(endpoint: Endpoint, path: str) -> dict[str, Value]:
    origin = endpoint.origin
    if origin.port is None:
        return {"server.address": origin.host, "network.transport": "unix"}
    scheme = "https" if origin.tls else "http"
    attributes: dict[str, Value] = {
        "server.address": origin.host,
        "server.port": origin.port,
        "url.full": f"{scheme}://{origin.authority.decode('latin-1')}{path}",
    }
    if endpoint.address != origin.host:
        attributes["network.peer.address"] = endpoint.address
    return attributes
