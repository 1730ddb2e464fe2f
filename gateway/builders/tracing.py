"""The environment's `OTEL_*` variables → the tracing of requests."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Final

from gateway.builders.availability import report
from gateway.settings import Settings
from gateway.telemetry import logs
from gateway.telemetry.tracing import environment, sampling
from gateway.telemetry.tracing.environment import Exporter, TracingUnavailable
from gateway.telemetry.tracing.server_span import Tracing
from gateway.telemetry.tracing.span import Traces

FLUSH_SECONDS: Final = 3.0
"""Seconds that the last spans may take to be exported. A worker is killed 5 seconds after its drain."""


def tracing(settings: Settings, environ: Mapping[str, str], stack: AsyncExitStack) -> Tracing | None:
    """Return the tracing of requests; None if no variable asks for it, or if it is not available.

    In the latter case, the gateway logs that and serves without it. The last spans are exported when `stack`
    ends.
    """
    try:
        exporter = environment.exporter(environ)
        if exporter is None:
            return None
        traces = _traces(exporter, environ, stack)
    except TracingUnavailable as unavailable:
        logs.tracing_unavailable(str(unavailable))
        return None
    sampler, problem = sampling.read(environ)
    if problem is not None:
        logs.tracing_misconfigured(problem)
    return Tracing(traces, sampler, settings.tracing.user_id)


def _traces(exporter: Exporter, environ: Mapping[str, str], stack: AsyncExitStack) -> Traces:
    try:
        # Here, because the extra may not be installed, and takes 0.2 s to import.
        from gateway.telemetry.tracing.sdk import Traces as SdkTraces
    except ImportError as error:
        raise TracingUnavailable("OpenTelemetry is not installed → pip install 'gateway[otel]'") from error
    try:
        traces = SdkTraces(exporter, report("trace_exporter"), environment.secrets(environ))
    except Exception as error:  # whatever it is, the gateway serves without traces
        raise TracingUnavailable(f"an OTEL_* variable cannot be used: {error}") from error
    for complaint in traces.complaints:
        logs.tracing_misconfigured(complaint)
    stack.push_async_callback(traces.close, FLUSH_SECONDS)
    return traces
