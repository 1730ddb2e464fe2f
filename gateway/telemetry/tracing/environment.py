"""Whether requests are traced, by the environment variables that OpenTelemetry specifies.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ has their meaning. The SDK
itself reads those that are not here: OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_EXPORTER_OTLP_*,
OTEL_BSP_* and the limits of spans.
"""

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

Exporter: TypeAlias = Literal["otlp", "console"]

PROTOCOL: Final = "http/protobuf"
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


class TracingUnavailable(Exception):
    """Traces are wanted, and cannot be had. The text says why, and what to do."""


def exporter(environ: Mapping[str, str]) -> Exporter | None:
    """Return where spans go; None: there are none, because no variable asks for them.

    Raises `TracingUnavailable` if a variable asks for what the gateway does not have.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    named = environ.get("OTEL_TRACES_EXPORTER", "").strip()
    if not named:
        if not _first(environ, _ENDPOINTS):
            return None
        named = "otlp"
    if named == "none":
        return None
    if named == "console":
        return "console"
    if named != "otlp":
        raise TracingUnavailable(f"OTEL_TRACES_EXPORTER={named}: only otlp, console and none are known")
    protocol = _first(environ, _PROTOCOLS) or PROTOCOL
    if protocol != PROTOCOL:
        raise TracingUnavailable(
            f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol}: only {PROTOCOL} is spoken → set it, and an endpoint"
            " that takes it (collectors: port 4318)"
        )
    return "otlp"


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str:
    """Return the first variable that is set and not empty, which means the same as unset."""
    return next((value for name in names if (value := environ.get(name, "").strip())), "")
