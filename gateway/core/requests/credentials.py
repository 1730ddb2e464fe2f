"""The places of a token other than Authorization. The only owner of these rules.

Browsers cannot set Authorization on a WebSocket or an EventSource. So a route may take the token from a
cookie, the query or a WebSocket subprotocol. The token is then moved to Authorization: the later steps find
one credential in one place, and `core.headers` decides whether it is forwarded.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final
from urllib.parse import unquote_plus

from gateway.core.model import CredentialSources, Header, Request
from gateway.core.reasons import (
    CREDENTIALS_MALFORMED,
    CREDENTIALS_MULTIPLE,
    ORIGIN_NOT_ALLOWED,
    TOKEN_TOO_LARGE,
    Denial,
)
from gateway.core.requests import bearer

# A compact JWS (RFC 7515 §3.1), in characters without a special meaning in a cookie, a query and a
# subprotocol.
_TOKEN: Final = re.compile(rb"[A-Za-z0-9\-._~]+")
# The safe methods (RFC 9110 §9.2.1).
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


class Place(StrEnum):
    """The place of a token."""

    AUTHORIZATION = "authorization"
    COOKIE = "cookie"
    QUERY = "query"
    SUBPROTOCOL = "subprotocol"


@dataclass(frozen=True, slots=True)
class Presented:
    """The one token of a request, and the request with the token in Authorization and nowhere else."""

    token: bytes
    place: Place
    request: Request
    query: str
    """With its `?`, or empty."""


def find(request: Request, query: str, sources: CredentialSources) -> Presented:
    """Return the one token of a request, from Authorization or from the places in `sources`.

    All other bytes stay unchanged. `query` is the request's, with its `?`. Raises
    `Denial`: `credentials_missing`, `credentials_multiple` (also for one token in each of two places),
    `credentials_malformed` or `token_too_large`.
    """
    found: list[tuple[Place, bytes]] = []
    headers = request.headers
    if sources.cookie is not None:
        tokens, headers = _without_cookie(headers, sources.cookie.encode())
        found += [(Place.COOKIE, token) for token in tokens]
    if sources.subprotocol is not None:
        tokens, headers = _without_subprotocol(headers, sources.subprotocol.encode())
        found += [(Place.SUBPROTOCOL, token) for token in tokens]
    if sources.query is not None:
        tokens, query = _without_parameter(query, sources.query)
        found += [(Place.QUERY, token) for token in tokens]
    if not found:
        return Presented(
            bearer.parse(_values(request.headers, b"authorization")), Place.AUTHORIZATION, request, query
        )
    if len(found) > 1 or any(name.lower() == b"authorization" for name, _ in headers):
        raise Denial(CREDENTIALS_MULTIPLE)
    place, token = found[0]
    if len(token) > bearer.MAX_TOKEN_BYTES:
        raise Denial(TOKEN_TOO_LARGE, f"{len(token)} bytes, at most {bearer.MAX_TOKEN_BYTES} are accepted")
    if _TOKEN.fullmatch(token) is None:
        raise Denial(CREDENTIALS_MALFORMED, f"the {place} has no token")
    if place is Place.QUERY and request.method != "GET":
        raise Denial(CREDENTIALS_MALFORMED, "a token in the query is only accepted with GET")
    moved = (*headers, (b"Authorization", b"Bearer " + token))
    return Presented(token, place, replace(request, headers=moved), query)


def check_origin(presented: Presented, allowed: frozenset[str], *, upgrade: bool) -> None:
    """Refuse requests that another site may have caused (cross-site WebSocket hijacking, CSRF).

    A browser sends a cookie for any page. So a request with its token in a cookie, if it is an upgrade or has
    an unsafe method, must come from a page of its own host, or of an `allowed` origin. A request without
    Origin (RFC 6454 §7) is refused: browsers send it with each of these. Raises `Denial`
    `origin_not_allowed`.
    """
    request = presented.request
    if presented.place is not Place.COOKIE or (not upgrade and request.method in _SAFE_METHODS):
        return
    origins = _values(request.headers, b"origin")
    if len(origins) != 1:
        raise Denial(ORIGIN_NOT_ALLOWED, "there is no Origin, or more than one")
    origin = origins[0].decode("latin-1").lower()
    if origin not in allowed and not _is_own(origin, request):
        raise Denial(ORIGIN_NOT_ALLOWED, "Origin is neither the request's host nor in `allowed_origins`")


def subprotocol_answer(headers: Iterable[Header], sources: CredentialSources | None) -> bytes | None:
    """Return the subprotocol to accept if the upstream chose none; None for none.

    A browser closes a WebSocket if it offered subprotocols and none was accepted. If it offered `bearer` and
    a token, and no subprotocol that the upstream accepts, the answer is `bearer`.
    """
    if sources is None or sources.subprotocol is None:
        return None
    name = sources.subprotocol.encode()
    offers = b",".join(_values(headers, b"sec-websocket-protocol")).split(b",")
    return name if any(offer.strip(b" \t") == name for offer in offers) else None


def _is_own(origin: str, request: Request) -> bool:
    """Return whether an origin has the request's host, and is not less secure than the request."""
    scheme, _, authority = origin.partition("://")
    if scheme not in _DEFAULT_PORTS or (request.scheme == "https" and scheme != "https"):
        return False
    hosts = [value.decode("latin-1").strip(" \t").lower() for value in _values(request.headers, b"host")]
    port = _DEFAULT_PORTS[scheme]
    return [authority.removesuffix(port)] == [host.removesuffix(port) for host in hosts]


def _values(headers: Iterable[Header], name: bytes) -> list[bytes]:
    return [value for found, value in headers if found.lower() == name]


def _without_cookie(headers: Iterable[Header], name: bytes) -> tuple[list[bytes], tuple[Header, ...]]:
    """Remove the cookies of a name (RFC 6265 §4.2.1)."""
    tokens: list[bytes] = []
    kept: list[Header] = []
    for field, value in headers:
        if field.lower() != b"cookie":
            kept.append((field, value))
            continue
        others: list[bytes] = []
        for pair in value.split(b";"):
            key, equals, content = pair.partition(b"=")
            if equals and key.strip(b" \t") == name:
                tokens.append(content.strip(b" \t"))
            else:
                others.append(pair)
        kept += _rejoined(field, value, others, b";")
    return tokens, tuple(kept)


def _without_subprotocol(headers: Iterable[Header], name: bytes) -> tuple[list[bytes], tuple[Header, ...]]:
    """Remove `name, <token>` and `name.<token>` from the offered subprotocols (RFC 6455 §11.3.4)."""
    tokens: list[bytes] = []
    kept: list[Header] = []
    announced = False
    for field, value in headers:
        if field.lower() != b"sec-websocket-protocol":
            kept.append((field, value))
            continue
        others: list[bytes] = []
        for offer in value.split(b","):
            stripped = offer.strip(b" \t")
            if announced:
                tokens.append(stripped)
                announced = False
            elif stripped == name:
                announced = True
            elif stripped.startswith(name + b"."):
                tokens.append(stripped[len(name) + 1 :])
            else:
                others.append(offer)
        kept += _rejoined(field, value, others, b",")
    if announced:
        raise Denial(CREDENTIALS_MALFORMED, "a subprotocol announces a token, but no token follows")
    return tokens, tuple(kept)


def _rejoined(field: bytes, value: bytes, parts: list[bytes], separator: bytes) -> list[Header]:
    """Return the field with the rest of its list: unchanged if all is left, none if nothing is left."""
    if len(parts) == value.count(separator) + 1:
        return [(field, value)]
    rest = separator.join(parts).strip(b" \t")
    return [(field, rest)] if rest else []


def _without_parameter(query: str, name: str) -> tuple[list[bytes], str]:
    """Remove the parameters of a name from a query, in any encoding of the name."""
    tokens: list[bytes] = []
    others: list[str] = []
    for pair in query[1:].split("&"):
        key, _, content = pair.partition("=")
        if key == name or unquote_plus(key) == name:
            tokens.append(content.encode("latin-1", "replace"))
        else:
            others.append(pair)
    if not tokens:
        return tokens, query
    return tokens, "?" + "&".join(others) if others else ""
