"""Envoy's questions when requests are traced: the span of a question is below that of Envoy."""

from collections.abc import Iterator
from typing import Literal

import grpc

from gateway.core.headers import HeaderPolicy
from gateway.core.model import Header, Request
from gateway.core.requests.trace_context import parent_of
from gateway.decision.context import DecisionContext
from gateway.decision.grpc.envelope import CheckRequest
from gateway.decision.grpc.messages import headers_of
from gateway.decision.grpc.service import CheckService, address
from gateway.telemetry.tracing import server_span
from gateway.telemetry.tracing.server_span import Tracing
from gateway.telemetry.tracing.span import CURRENT


class TracedCheckService(CheckService):
    """Decides, with a span if the question is sampled. Its attributes are those of the original request."""

    def __init__(self, context: DecisionContext, tracing: Tracing) -> None:
        super().__init__(context)
        self._tracing = tracing

    async def check(
        self, asked: CheckRequest, call: "grpc.aio.ServicerContext[CheckRequest, bytes]"
    ) -> bytes:
        http, fields, peer = asked.attributes.request.http, headers_of(asked), address(call.peer())
        # Envoy's own span is in the metadata; without one, the request may have that of its client.
        parent = parent_of(_metadata(call)) or parent_of(fields)
        trace, sampled = self._tracing.sampling.begin(parent)
        if not sampled:
            return (await self.checked(asked, fields, peer)).answer
        headers = ((b"host", http.host.encode("latin-1", "replace")), *fields)
        scheme: Literal["http", "https"] = "https" if http.scheme == "https" else "http"
        request_id = HeaderPolicy.acceptable_id(fields) or ""
        question = Request(http.method, http.path, headers, peer, scheme, request_id)
        span = server_span.begin(self._tracing, question, parent, trace, modern=True)
        # Each call has a task, and so a context, of its own.
        CURRENT.set(span)
        checked = await self.checked(asked, fields, peer, trace)
        server_span.end(
            span, http.method, checked.status, checked.admission, checked.failure,
            tells_users=self._tracing.tells_users,
        )  # fmt: skip
        return checked.answer


def _metadata(call: "grpc.aio.ServicerContext[CheckRequest, bytes]") -> Iterator[Header]:
    for name, value in call.invocation_metadata() or ():
        octets = value if isinstance(value, bytes) else value.encode("latin-1", "replace")
        yield name.encode("latin-1", "replace"), octets
