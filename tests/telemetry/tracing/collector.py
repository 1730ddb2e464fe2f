"""A collector: it takes spans by OTLP over HTTP, as OpenTelemetry's own does."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

KINDS = {1: "internal", 2: "server", 3: "client"}
ERROR = 2


@dataclass(frozen=True, slots=True)
class Received:
    """A span."""

    trace_id: str
    id: str
    parent: str
    name: str
    kind: str
    failed: bool
    state: str
    attributes: dict[str, object]
    resource: dict[str, object]
    seconds: float


@dataclass
class Collector:
    spans: list[Received] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    status: int = 200
    """What exports are answered with."""
    url: str = ""
    _change: asyncio.Event = field(default_factory=asyncio.Event)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_post("/v1/traces", self._take)
        runner = web.AppRunner(application)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.headers.append(dict(request.headers))
        if self.status == 200:
            message = ExportTraceServiceRequest.FromString(body)
            for of_resource in message.resource_spans:
                resource = _attributes(of_resource.resource.attributes)
                for scope in of_resource.scope_spans:
                    self.spans += [_received(span, resource) for span in scope.spans]
        self._change.set()
        return web.Response(
            status=self.status,
            body=ExportTraceServiceResponse().SerializeToString(),
            content_type="application/x-protobuf",
        )

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait for exports until a condition holds."""
        async with asyncio.timeout(15):
            while not holds():
                self._change.clear()
                await self._change.wait()

    async def trace(self, trace_id: str, spans: int) -> list[Received]:
        """Return the spans of a trace, once there are so many, in the order of their beginnings' depth."""
        await self.until(lambda: len(self.of(trace_id)) >= spans)
        return self.of(trace_id)

    def of(self, trace_id: str) -> list[Received]:
        return [span for span in self.spans if span.trace_id == trace_id]


def only(spans: list[Received], kind: str, name: str | None = None) -> Received:
    """Return the one span of a kind."""
    (found,) = [span for span in spans if span.kind == kind and name in (None, span.name)]
    return found


def _received(span: Span, resource: dict[str, object]) -> Received:
    return Received(
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.name,
        KINDS[span.kind],
        span.status.code == ERROR,
        span.trace_state,
        _attributes(span.attributes),
        resource,
        (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
    )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, object]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> object:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return None if kind is None else getattr(value, kind)
