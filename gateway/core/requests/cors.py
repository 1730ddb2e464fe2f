"""CORS: which pages of other origins may use a route, as the Fetch standard (§3.2) has it. The only owner.

A browser sends a request of such a page, and gives the page the response only if its fields name the page's
origin. Before a request that HTML could not have caused, the browser asks with a preflight: OPTIONS with
Origin and Access-Control-Request-Method, without credentials.

- A preflight is answered here: the route is the one that the announced method would match. All other
  requests take their usual way, whatever their Origin. CORS protects users of browsers, not the service.
- Origins are compared as they stand. One that is not listed is never told back.
- On a route with `cors`, the upstream's own Access-Control-* fields are dropped, because only one may say who
  is allowed.
- What depends on Origin depends on the request, so it is no part of a `Decision`.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from gateway.core.headers import read_response
from gateway.core.model import Cors, Header, Request
from gateway.core.reasons import ORIGIN_NOT_ALLOWED, Denial

ANY: Final = "*"
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_ALWAYS_SENT: Final = ("Authorization", "Content-Type")
"""Fields that pages may always send: those of a request with a token and with a body of JSON."""
_ALWAYS_EXPOSED: Final = ("X-Request-Id",)
_EXPOSED_OF_DENIALS: Final = (
    "WWW-Authenticate", "Retry-After", "RateLimit", "RateLimit-Policy", *_ALWAYS_EXPOSED
)  # fmt: skip
_PREFLIGHT_VARIES: Final = "Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers"


class Preflight(NamedTuple):
    """A browser's question before a request."""

    origin: str
    method: str
    """The one that is announced."""
    headers: tuple[str, ...]
    """The fields that are announced."""


def read_preflight(request: Request) -> Preflight | None:
    """Return the question of a preflight; None for any other request."""
    if request.method != "OPTIONS":
        return None
    origins = _values(request.headers, b"origin")
    methods = _values(request.headers, b"access-control-request-method")
    if len(origins) != 1 or len(methods) != 1 or _TOKEN.fullmatch(methods[0]) is None:
        return None
    announced = ",".join(_values(request.headers, b"access-control-request-headers")).split(",")
    names = tuple(name for each in announced if _TOKEN.fullmatch(name := each.strip(" \t")))
    return Preflight(origins[0], methods[0], names)


def preflight_fields(cors: Cors, methods: Iterable[str], asked: Preflight) -> bytes:
    """Return the fields of the answer, each with its line end. The browser compares them with its request.

    `methods` are those of the route; none: any. Raises `Denial` `origin_not_allowed`.
    """
    origin = _allowed(cors, asked.origin)
    if origin is None:
        raise Denial(ORIGIN_NOT_ALLOWED, "Origin is not in the route's `cors.origins`")
    told = cors.methods if cors.methods and ANY not in cors.methods else methods
    lines = [
        *_grant(cors, origin),
        f"Access-Control-Allow-Methods: {', '.join(sorted(told)) or asked.method}",
    ]
    # `*` does not include Authorization (Fetch §3.2.3), so what is asked for is named.
    headers = asked.headers if ANY in cors.headers else sorted({*cors.headers, *_ALWAYS_SENT})
    if headers:
        lines.append(f"Access-Control-Allow-Headers: {', '.join(headers)}")
    lines += (f"Access-Control-Max-Age: {int(cors.max_age)}", _PREFLIGHT_VARIES)
    return _encoded(lines)


def denial_fields(cors: Cors, headers: Iterable[Header]) -> bytes:
    """Return the fields, each with its line end, by which a page can read a denial.

    `headers` are the request's.
    """
    return _fields(cors, _origin(cors, headers), _EXPOSED_OF_DENIALS) + _vary(cors, [])


def response_fields(cors: Cors, headers: Iterable[Header], answered: Sequence[Header]) -> bytes:
    """Return an upstream's response fields for the client, each with its line end, with ours among them.

    `headers` are the request's, `answered` the response's.
    """
    kept: list[Header] = []
    varies: list[bytes] = []
    for name, value in answered:
        lower = name.lower()
        if lower == b"vary":
            varies.append(value)
        elif not lower.startswith(b"access-control-"):
            kept.append((name, value))
    ours = _fields(cors, _origin(cors, headers), _ALWAYS_EXPOSED)
    return read_response(kept).kept + ours + _vary(cors, varies)


def _vary(cors: Cors, varies: list[bytes]) -> bytes:
    """Return Vary as the upstream has it, with Origin if the answer differs with it (Fetch §3.2.5)."""
    names = [name.strip(b" \t") for value in varies for name in value.split(b",")]
    if not (ANY in cors.origins or b"*" in names or any(name.lower() == b"origin" for name in names)):
        names.append(b"Origin")
    names = [name for name in names if name]
    return b"Vary: %b\r\n" % b", ".join(names) if names else b""


def _origin(cors: Cors, headers: Iterable[Header]) -> str | None:
    """Return what Access-Control-Allow-Origin says; None: nothing."""
    if ANY in cors.origins:
        # It is always said, so that no cache has to tell the origins apart.
        return ANY
    origins = _values(headers, b"origin")
    return _allowed(cors, origins[0]) if len(origins) == 1 else None


def _allowed(cors: Cors, origin: str) -> str | None:
    if ANY in cors.origins:
        return ANY
    return origin if origin in cors.origins else None


@lru_cache(maxsize=1024)
def _fields(cors: Cors, origin: str | None, exposed: tuple[str, ...]) -> bytes:
    """Return the same fields for the same origin, which is a listed one."""
    if origin is None:
        return b""
    names = sorted({*cors.expose, *exposed})
    return _encoded([*_grant(cors, origin), f"Access-Control-Expose-Headers: {', '.join(names)}"])


def _grant(cors: Cors, origin: str) -> list[str]:
    lines = [f"Access-Control-Allow-Origin: {origin}"]
    if cors.credentials:
        lines.append("Access-Control-Allow-Credentials: true")
    return lines


def _encoded(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\r\n" for line in lines).encode("ascii")


def _values(headers: Iterable[Header], name: bytes) -> list[str]:
    return [value.decode("latin-1").strip(" \t") for found, value in headers if found.lower() == name]
