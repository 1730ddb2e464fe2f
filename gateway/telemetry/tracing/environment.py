"""Whether requests are traced, by the environment variables that OpenTelemetry specifies.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ has their meaning. The SDK
itself reads those that are not here: OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_EXPORTER_OTLP_*,
OTEL_BSP_* and the limits of spans.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final, Literal, TypeAlias
from urllib.parse import unquote, urlsplit

Exporter: TypeAlias = Literal["otlp", "console"]

PROTOCOL: Final = "http/protobuf"
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SHORTEST: Final = 4
"""Characters of a secret. A shorter text would be found in many words."""


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
    for name in _ENDPOINTS:
        # Without its value, which may have a password.
        if (endpoint := environ.get(name, "").strip()) and not _is_url(endpoint):
            raise TracingUnavailable(f"{name} is no http or https URL → write http://collector:4318")
    return "otlp"


def secrets(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return what no log may have: headers for the collector, and passwords in its URL; the longest first."""
    found = {each for each in _secrets(environ) if len(each) >= _SHORTEST}
    return tuple(sorted(found, key=len, reverse=True))


def _secrets(environ: Mapping[str, str]) -> Iterator[str]:
    for name, value in environ.items():
        if not name.startswith("OTEL_EXPORTER_"):
            continue
        if name.endswith("_HEADERS"):
            for entry in value.split(","):
                told = entry.partition("=")[2].strip() or entry.strip()
                yield from (told, unquote(told))
        if name.endswith("_ENDPOINT"):
            yield from re.findall(r"//([^/@\s]+)@", value)


def _is_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        return False


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str:
    """Return the first variable that is set and not empty, which means the same as unset."""
    return next((value for name in names if (value := environ.get(name, "").strip())), "")
