"""The span of a request that came to a listener, from its head to the end of its answer."""

from dataclasses import dataclass

from gateway.core.admission import Admission
from gateway.core.model import Request
from gateway.core.reasons import Denial
from gateway.core.requests.trace_context import TRACESTATE, TraceParent
from gateway.telemetry.metrics import CLIENT_CLOSED_REQUEST
from gateway.telemetry.tracing import http
from gateway.telemetry.tracing.sampling import Sampling
from gateway.telemetry.tracing.span import Span, Traces, Value


@dataclass(frozen=True, slots=True)
class Tracing:
    """The parts that all traced requests share."""

    traces: Traces
    sampling: Sampling
    tells_users: bool = False
    """Whether spans have the id of the user (`user.id`)."""


def begin(
    tracing: Tracing, request: Request, parent: TraceParent | None, trace_id: int, *, modern: bool
) -> Span:
    """Begin the span of a request. `modern`: it is HTTP/1.1. `trace_id`: of its trace, without a parent."""
    # Several fields are one list (W3C Trace Context §3.3.1).
    state = b",".join(value for name, value in request.headers if name.lower() == TRACESTATE)
    attributes = http.server_attributes(
        request.method, request.target, request.headers, request.scheme, request.client, request.peer,
        modern=modern,
    )  # fmt: skip
    attributes[http.REQUEST_ID] = (request.id,)
    return tracing.traces.begin(http.span_name(request.method), attributes, parent, trace_id, state)


def end(
    span: Span,
    method: str,
    status: int,
    admission: Admission | None,
    failure: Exception | None,
    *,
    sent: int | None = None,
    tells_users: bool = False,
) -> None:
    """Add what became of a request, and end its span.

    `failure`: why it was refused, or its response broke off. `sent`: the status that the client got before
    it left. A denial by the rules is no error of the span: only a status of 5xx is.
    """
    found: dict[str, Value] = {}
    route = None if admission is None else admission.forwarding.route
    if admission is not None:
        decision, user = admission.decision, admission.user
        if admission.claims is not None:
            found["gateway.issuer"] = admission.claims.issuer_name
        if decision is not None:
            found["gateway.user.tier"] = decision.resolution.tier.value
        if tells_users and user is not None:
            found["user.id"] = user.id
    ours = status >= 500
    if isinstance(failure, Denial):
        found["gateway.denial.reason"] = failure.reason.code
        ours, route = ours or failure.reason.status >= 500, route or failure.route
        if failure.issuer is not None:
            found["gateway.issuer"] = failure.issuer
    if route is not None:
        span.rename(http.span_name(method, route.path))
        found[http.ROUTE], found["gateway.route"] = route.path, route.name
    told = sent if status == CLIENT_CLOSED_REQUEST else status
    if told is not None:
        found[http.STATUS] = told
    if status == CLIENT_CLOSED_REQUEST:
        found[http.ERROR] = http.CLIENT_LEFT
    elif ours:
        span.fail(str(status) if failure is None else error_type(failure))
    span.describe(found)
    span.end()


def error_type(error: Exception) -> str:
    """Return the `error.type` of an error: the reason of a denial, or the class of a bug."""
    return error.reason.code if isinstance(error, Denial) else type(error).__qualname__
