"""The CORS settings of a route: what they are, and the rules between them."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Final, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from gateway.core.requests.cors import ANY
from gateway.settings.findings import Finding
from gateway.settings.http_values import field_name, method
from gateway.settings.sections.section import Section
from gateway.settings.values import Duration, duration, mistake

_ORIGIN: Final = re.compile(
    r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?)(:[0-9]{1,5})?"
)
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


def _unquoted_null(value: object) -> object:
    """In YAML, `[null]` is a list of nothing; in CORS, `null` is the origin of pages that have none."""
    return "null" if value is None else value


def _origin(value: str) -> str:
    """Return an origin as browsers send it (RFC 6454 §6.2)."""
    if value in {ANY, "null"}:
        return value
    match = _ORIGIN.fullmatch(value.lower())
    if match is None:
        origin = _ORIGIN.match(value.lower())
        raise mistake(
            "must be an origin: only scheme, host and port",
            "write each origin by itself, in ASCII, such as https://app.example.com"
            if origin is None or "*" in value
            else f"write {origin[0]}",
        )
    scheme, host, port = match.groups(default="")
    if port and not 0 < int(port[1:]) < 65536:
        raise mistake("has a port that does not exist", "write a port from 1 to 65535, or none")
    return f"{scheme}://{host}{'' if port == _DEFAULT_PORTS.get(scheme) else port}"


CorsOrigin: TypeAlias = Annotated[
    str,
    AfterValidator(_origin),
    BeforeValidator(_unquoted_null),
    WithJsonSchema({"type": "string", "x-kind": "origin, null or *"}),
]
FieldName: TypeAlias = Annotated[
    str, AfterValidator(lambda value: value if value == ANY else field_name(value, "X-Trace"))
]
CorsMethod: TypeAlias = Annotated[str, AfterValidator(lambda value: value if value == ANY else method(value))]


class Cors(Section):
    """The pages of other origins that may use a route (docs/cors.md). Preflights are answered here."""

    origins: Annotated[tuple[CorsOrigin, ...], Field(min_length=1, examples=[["https://app.example.com"]])]
    """Their origins. `null`: pages without one, such as files. `*`: all, without credentials."""
    methods: tuple[CorsMethod, ...] = ()
    """Methods that they may use; empty or `*`: those of `match.methods`."""
    headers: tuple[FieldName, ...] = ()
    """Headers that they may send, beside `Authorization`, `Content-Type` and what browsers always allow; `*`:
    any."""
    expose: tuple[FieldName, ...] = ()
    """Response headers that they may read, beside `X-Request-Id` and what browsers always allow; `*`: all."""
    credentials: bool = False
    """Whether browsers may send cookies along, and show the response."""
    max_age: Duration = duration("10m")
    """How long browsers may remember the answer to a preflight; many do so for at most 2h."""


def cors_findings(index: int, route: Mapping[object, object]) -> Iterator[Finding]:
    """Yield the mistakes between the settings of `cors` in a raw route."""
    cors = route.get("cors")
    if not isinstance(cors, Mapping) or cors.get("credentials") in (None, False, "false"):
        return
    for key in ("origins", "methods", "headers", "expose"):
        listed = cors.get(key)
        if isinstance(listed, list | tuple) and ANY in listed:
            yield Finding(
                ("routes", index, "cors", key),
                "is a wildcard, which does not go with credentials",
                "list them, or remove credentials",
            )
