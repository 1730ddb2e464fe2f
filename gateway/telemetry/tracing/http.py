"""Attributes of HTTP spans, by the stable semantic conventions of OpenTelemetry.

https://opentelemetry.io/docs/specs/semconv/http/http-spans/ has the names. No query is ever an attribute,
because it may have a token.
"""

from collections.abc import Iterable
from typing import Final, Literal
from urllib.parse import urlsplit

from gateway.core.model import Header
from gateway.core.routes import path_of
from gateway.telemetry.tracing.span import Value

KNOWN_METHODS: Final = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"}
)
OTHER: Final = "_OTHER"
ERROR: Final = "error.type"
METHOD: Final = "http.request.method"
RESEND_COUNT: Final = "http.request.resend_count"
ROUTE: Final = "http.route"
STATUS: Final = "http.response.status_code"
REQUEST_ID: Final = "http.response.header.x-request-id"
CLIENT_LEFT: Final = "client_closed_request"
"""`error.type` of a request whose client has left."""


def span_name(method: str, route: str | None = None) -> str:
    """Return the name of a span: one of few, whatever clients send."""
    known = method if method in KNOWN_METHODS else "HTTP"
    return known if route is None else f"{known} {route}"


def method_attributes(method: str) -> dict[str, Value]:
    if method in KNOWN_METHODS:
        return {METHOD: method}
    return {METHOD: OTHER, "http.request.method_original": method}


def server_attributes(
    method: str,
    target: str,
    headers: Iterable[Header],
    scheme: Literal["http", "https"],
    client: str,
    peer: str,
    *,
    modern: bool,
) -> dict[str, Value]:
    """Return what is known of a request when it begins. `peer`: the address of the connection's other end.

    Each attribute costs 5 µs, so none says what goes without saying: HTTP/1.1, or a peer that is the client.
    """
    attributes = method_attributes(method)
    attributes["url.scheme"] = scheme
    attributes["url.path"] = path_of(target)
    if not modern:
        attributes["network.protocol.version"] = "1.0"
    if client:
        attributes["client.address"] = client
    if peer and peer != client:
        attributes["network.peer.address"] = peer
    for name, value in headers:
        match name.lower():
            case b"host":
                attributes |= authority_attributes(value.decode("latin-1"))
            case b"user-agent":
                attributes["user_agent.original"] = value.decode("latin-1")
    return attributes


def authority_attributes(authority: str) -> dict[str, Value]:
    """Return the attributes of `host` or `host:port`; none if it is not one."""
    try:
        parts = urlsplit(f"//{authority}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return {}
    found: dict[str, Value] = {} if host is None else {"server.address": host}
    return found if port is None else {**found, "server.port": port}
