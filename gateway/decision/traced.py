"""Questions of fronts when requests are traced: the span of a question is below that of its front."""

from contextvars import copy_context
from dataclasses import replace

from gateway.core.admission import Admission
from gateway.core.model import Credential, Request, User
from gateway.core.requests.trace_context import TraceParent, parent_of
from gateway.decision.context import DecisionContext
from gateway.decision.exchange import DecisionExchange
from gateway.proxy.downstream.connection import ClientConnection
from gateway.proxy.downstream.incoming import AnyRequest, Exchange
from gateway.proxy.refusals import Admitter
from gateway.proxy.server import ExchangeFactory
from gateway.telemetry.tracing import server_span
from gateway.telemetry.tracing.server_span import Tracing
from gateway.telemetry.tracing.span import CURRENT, Span


def traced(tracing: Tracing, context: DecisionContext) -> ExchangeFactory:
    """Return what makes the exchanges: with a span if the question is sampled."""
    sampling = tracing.sampling

    def exchange(client: ClientConnection, incoming: AnyRequest, credential: Credential | None) -> Exchange:
        parent = parent_of(incoming.headers)
        trace, sampled = sampling.begin(parent)
        if sampled:
            return TracedDecisionExchange(tracing, parent, trace, context, client, incoming, credential)
        return DecisionExchange(context, client, incoming, credential)

    return exchange


class _NotingAdmitter:
    """An admitter that notes the trace of the one request that it decides on, and what it decided."""

    def __init__(self, admitter: Admitter, span: Span) -> None:
        self._admitter = admitter
        self._span = span
        self.remembered = admitter.remembered
        self.heads = admitter.heads
        self.admission: Admission | None = None

    async def admit(self, request: Request) -> Admission:
        request.trace = int(self._span.trace_id, 16)
        self.admission = await self._admitter.admit(request)
        return self.admission


class TracedDecisionExchange(DecisionExchange):
    """A question that is sampled."""

    __slots__ = ("_admitter", "_failure", "_span", "_tells_users")

    def __init__(
        self,
        tracing: Tracing,
        parent: TraceParent | None,
        trace: int,
        context: DecisionContext,
        client: ClientConnection,
        incoming: AnyRequest,
        credential: Credential | None,
    ) -> None:
        """`trace` is the number of its trace, which begins here if there is no parent."""
        question = Request(
            incoming.method or "UNKNOWN", incoming.target, incoming.headers, client.peer, client.scheme,
            context.headers.acceptable_id(incoming.headers) or "",
        )  # fmt: skip
        self._span = server_span.begin(tracing, question, parent, trace, modern=incoming.modern)
        self._admitter = _NotingAdmitter(context.pipeline, self._span)
        super().__init__(replace(context, pipeline=self._admitter), client, incoming, credential)
        self._tells_users = tracing.tells_users
        self._failure: Exception | None = None

    def begin(self) -> None:
        copy_context().run(self._begin_in_span)

    def _begin_in_span(self) -> None:
        CURRENT.set(self._span)
        super().begin()

    def _refuse(self, error: Exception) -> None:
        self._failure = error
        super()._refuse(error)

    def _account(self, route: str, status: int, user: User | None = None) -> None:
        super()._account(route, status, user)
        method, admission = self._incoming.method or "UNKNOWN", self._admitter.admission
        server_span.end(self._span, method, status, admission, self._failure, tells_users=self._tells_users)
        # Its traceback leads back here: a cycle.
        self._failure = None
