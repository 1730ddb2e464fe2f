"""OpenTelemetry's SDK: it makes spans of requests that are sampled, and exports them from a thread.

No other file imports it, and this one is imported only if an environment variable asks for traces. Whether a
request is sampled was decided before (`sampling`), so the SDK's own sampler takes all.
"""

import asyncio
import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
    set_span_in_context,
)
from opentelemetry.trace import Span as OtelSpan

from gateway import __version__
from gateway.core.requests.trace_context import TraceParent
from gateway.telemetry.tracing.environment import Exporter
from gateway.telemetry.tracing.span import Attributes, Kind, Span

_LIBRARY: Final = "opentelemetry"
_KINDS: Final = {"client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}
_NO_NAME: Final = "unknown_service"
"""How the SDK's name for a service begins that was given none."""


class Traces:
    """Begins the spans of requests, and exports them until it is closed.

    `report` is called at the beginning of an outage of the collector, with the cause, and with None at its
    end. It may be called in another thread. `secrets` are left out of what the SDK says.
    """

    def __init__(
        self, exporter: Exporter, report: Callable[[str | None], None], secrets: Sequence[str] = ()
    ) -> None:
        self._library = _LibraryLog(secrets)
        self._library.install()
        self._ids = _Ids()
        self._exporter = _Exporter(
            OTLPSpanExporter() if exporter == "otlp" else ConsoleSpanExporter(), self._library, report
        )
        self._processor = BatchSpanProcessor(self._exporter)
        provider = TracerProvider(
            sampler=ALWAYS_ON, resource=_resource(), id_generator=self._ids, shutdown_on_exit=False
        )
        provider.add_span_processor(self._processor)
        self.complaints = self._library.take()
        """What the SDK says against the variables; it goes by its defaults in their place."""
        self._tracer = provider.get_tracer("gateway", __version__)

    def begin(
        self, name: str, attributes: Attributes, parent: TraceParent | None, trace_id: int, state: bytes
    ) -> Span:
        """Begin the span of a request, as `span.Traces` says."""
        context = Context()
        if parent is None:
            self._ids.next_trace_id = trace_id
        else:
            above = SpanContext(
                int(parent.trace_id, 16),
                int(parent.span_id, 16),
                is_remote=True,
                trace_flags=TraceFlags(TraceFlags.SAMPLED if parent.sampled else TraceFlags.DEFAULT),
                trace_state=TraceState.from_header([state.decode("latin-1")]) if state else None,
            )
            context = set_span_in_context(NonRecordingSpan(above), context)
        started = self._tracer.start_span(name, context, SpanKind.SERVER, attributes)
        return _Span(self._tracer, started)

    async def close(self, seconds: float) -> None:
        """Export what is left, for up to `seconds`."""
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()

        def tell() -> None:
            if not over.done():
                over.set_result(None)

        def finish() -> None:
            self._processor.force_flush()
            self._processor.shutdown()  # type: ignore[no-untyped-call]  # the SDK's own has no types
            with suppress(RuntimeError):  # the loop was closed, because it took too long
                loop.call_soon_threadsafe(tell)

        # A daemon, because the process must be able to end while a collector does not answer.
        threading.Thread(target=finish, name="traces-flush", daemon=True).start()
        try:
            async with asyncio.timeout(seconds):
                await over
        except TimeoutError:
            # It ends the pauses between attempts. The thread may still say something, so its log stays.
            self._exporter.shutdown()
        else:
            self._library.remove()


class _Span:
    """A span of the SDK. A `Span`."""

    __slots__ = ("_span", "_tracer", "ended", "trace_id", "traceparent")

    def __init__(self, tracer: Tracer, span: OtelSpan) -> None:
        context = span.get_span_context()
        self._tracer = tracer
        self._span = span
        self.ended = False
        self.trace_id = f"{context.trace_id:032x}"
        self.traceparent = f"00-{self.trace_id}-{context.span_id:016x}-01".encode("ascii")

    def child(self, name: str, kind: Kind, attributes: Attributes, started: int | None = None) -> Span:
        context = set_span_in_context(self._span, Context())
        return _Span(
            self._tracer,
            self._tracer.start_span(name, context, _KINDS[kind], attributes, start_time=started),
        )

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def describe(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def fail(self, error: str) -> None:
        self._span.set_attribute("error.type", error)
        self._span.set_status(Status(StatusCode.ERROR))

    def end(self) -> None:
        self.ended = True
        self._span.end()


class _Ids(IdGenerator):
    """Gives a trace the id by which its sampling was decided."""

    next_trace_id = 0

    def generate_trace_id(self) -> int:
        return self.next_trace_id

    def generate_span_id(self) -> int:
        return random.getrandbits(64) or 1


class _Exporter(SpanExporter):
    """Reports each outage once."""

    def __init__(
        self, exporter: SpanExporter, library: "_LibraryLog", report: Callable[[str | None], None]
    ) -> None:
        self._exporter = exporter
        self._library = library
        self._report = report
        self._down = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result, detail = self._exporter.export(spans), self._library.latest
        except Exception as error:  # noqa: BLE001 -- a bug of the exporter must not end its thread
            result, detail = SpanExportResult.FAILURE, type(error).__name__
        if result is SpanExportResult.SUCCESS:
            if self._down:
                self._down = False
                self._report(None)
        elif not self._down:
            self._down = True
            self._report(detail)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class _LibraryLog(logging.Handler):
    """Keeps the latest line of the library, which writes one for each failed attempt, out of the log."""

    latest = "spans cannot be exported"

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        super().__init__()
        self._secrets = secrets
        self._lines: deque[str] = deque(maxlen=8)

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        for secret in self._secrets:
            text = text.replace(secret, "***")
        self.latest = text
        self._lines.append(self.latest)

    def take(self) -> tuple[str, ...]:
        """Return the lines until now."""
        lines = tuple(self._lines)
        self._lines.clear()
        return lines

    def install(self) -> None:
        logger = logging.getLogger(_LIBRARY)
        logger.addHandler(self)
        logger.propagate = False

    def remove(self) -> None:
        logger = logging.getLogger(_LIBRARY)
        logger.removeHandler(self)
        logger.propagate = not any(isinstance(handler, _LibraryLog) for handler in logger.handlers)


def _resource() -> Resource:
    """Return what the spans come from: by the variables, and by default the gateway."""
    given = Resource.create()
    own = {SERVICE_VERSION: __version__}
    if str(given.attributes.get(SERVICE_NAME, _NO_NAME)).startswith(_NO_NAME):
        own[SERVICE_NAME] = "gateway"
        return given.merge(Resource(own))
    return Resource(own).merge(given)
