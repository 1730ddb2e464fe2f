"""Path normalisation and the compiled route table.

The path that is matched is the path that is forwarded. `read_target` turns a request-target into its normal
spelling or refuses it, and all later code sees only that spelling (RFC 3986 §6.2.2, RFC 9112 §3.2).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

from gateway.core.model import Auth, Route
from gateway.core.reasons import (
    METHOD_NOT_ALLOWED,
    METHOD_NOT_IMPLEMENTED,
    REQUEST_MALFORMED,
    ROUTE_NOT_FOUND,
    Denial,
)
from gateway.core.requests.methods import COMMON, FORWARDED, LLHTTP_METHODS

Liberty: TypeAlias = Literal["encoded_slash", "semicolon", "empty_segment"]
"""A spelling that servers read in different ways, and that a route may allow."""
LIBERTIES: Final[tuple[Liberty, ...]] = get_args(Liberty)
NO_LIBERTIES: Final[frozenset[str]] = frozenset()

# A path that is already in its normal form. The groups are possessive, because backtracking finds no match.
_NORMAL: Final = re.compile(r"(?:/[!$&'()*+,\-0-9:=@A-Z_a-z~][!$&'()*+,\-.0-9:=@A-Z_a-z~]*+)*+/?+")
_NOT_VISIBLE_ASCII: Final = re.compile(r"[^\x21-\x7e]")
_PERCENT: Final = re.compile(r"%(.{0,2})", re.DOTALL)
_HEX: Final = re.compile(r"[0-9A-Fa-f]{2}")
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
# Lax decoders read `%c0%ae` as a dot. UTF-8 does not use these octets (RFC 3629 §3).
_OVERLONG: Final = frozenset("\xc0\xc1")
# A segment that is a dot segment for some server: those of Java cut parameters off before they look.
_DOT_SEGMENT: Final = re.compile(r"/\.\.?(?=[/;]|%3B|$)")
_PARAMETERS: Final = re.compile(r"(?:;|%3B)[^/]*")
_SLASHES: Final = re.compile(r"//+")
_DOUBLE_ENCODED: Final = re.compile(r"%25[0-9A-Fa-f]{2}")
_ABSOLUTE: Final = re.compile(r"https?://([^/?#]*)(.*)", re.IGNORECASE)
# A host name has 253 characters at most (RFC 1035 §2.3.4). This bounds what `_host_name` remembers.
_HOST: Final = re.compile(
    r"(\[[0-9A-Fa-f:.]{2,45}\]|(?=[^:]{1,253}\.?(?::|\Z))[A-Za-z0-9_~\-]+(?:\.[A-Za-z0-9_~\-]+)*\.?)(?::[0-9]{0,5})?"
)


class Target(NamedTuple):
    """The target of a request, in the spelling that is both matched and forwarded."""

    host: str
    """In lower case, without port and trailing dot, as routes match it."""
    path: str
    query: str
    """With its `?`, or empty; unchanged."""
    liberties: frozenset[str] = NO_LIBERTIES
    """What its path takes of `LIBERTIES`: the route must allow them (`RouteTable.check`)."""

    def below(self, base: str, prefix: str) -> str:
        """Return path and query for the upstream: below `base`, without `prefix`.

        `prefix` is whole segments of the path, `base` the path of the upstream's URL, without a final slash.
        """
        return (base + self.path[len(prefix) :] or "/") + self.query


def path_of(target: str) -> str:
    """Return the path of a request-target of any form (RFC 9112 §3.2), as operators may see it.

    It has neither a query, which may contain a token, nor a host, before which a password may stand.
    """
    path = target.partition("?")[0]
    if path.startswith("/"):
        return path
    if "://" in path:
        return "/" + path.partition("://")[2].partition("/")[2]
    return path.rpartition("@")[2]


def read_target(target: str, hosts: Sequence[bytes], allowed: frozenset[str] = NO_LIBERTIES) -> Target:
    """Parse host, path and query of a request; refuse everything that two parsers may read differently.

    `hosts` are the values of its Host fields, `allowed` the liberties that some route allows.
    Raises `Denial` `request_malformed`.
    """
    if len(hosts) != 1:
        number = "more than one" if hosts else "no"
        raise Denial(REQUEST_MALFORMED, f"there is {number} Host (RFC 9112 §3.2)")
    authority = hosts[0].decode("latin-1").strip(" \t")
    if not target.startswith("/"):
        target = _origin_form(target, authority)
    path, mark, query = target.partition("?")
    # Visible ASCII is printable ASCII without the space.
    if query and not (query.isascii() and query.isprintable() and " " not in query and "#" not in query):
        raise Denial(REQUEST_MALFORMED, "the query holds a fragment or characters outside ASCII")
    if _NORMAL.fullmatch(path) is not None:
        return Target(_host_name(authority), path, mark + query)
    path, liberties = _read_path(path, allowed)
    return Target(_host_name(authority), path, mark + query, liberties)


def normal_path(path: str) -> str:
    r"""Return the normal form of an absolute path: unreserved characters decoded, hex in capitals.

    Servers differ on the meaning of some paths, so these are refused: dot segments in any encoding, empty
    segments, `;`, `#`, `\`, encoded slashes, backslashes and NUL, double encoding, and all characters
    outside ASCII. Raises `Denial` `request_malformed`.
    """
    return path if _NORMAL.fullmatch(path) is not None else _read_path(path, NO_LIBERTIES)[0]


def _read_path(path: str, allowed: frozenset[str]) -> tuple[str, frozenset[str]]:
    """Return the normal form of a path, and the liberties that it takes. Raises `Denial`."""
    if _NOT_VISIBLE_ASCII.search(path):
        raise Denial(REQUEST_MALFORMED, "the path holds characters outside ASCII, or controls")
    if "#" in path or "\\" in path or (";" in path and "semicolon" not in allowed):
        raise Denial(REQUEST_MALFORMED, "the path holds `;`, `#` or a backslash")
    path = _PERCENT.sub(_decode_but_slash if "encoded_slash" in allowed else _decode_unreserved, path)
    if _DOUBLE_ENCODED.search(path):
        raise Denial(REQUEST_MALFORMED, "the path is percent-encoded twice")
    if "//" in path and "empty_segment" not in allowed:
        raise Denial(REQUEST_MALFORMED, "the path holds an empty segment")
    found = [name for name, mark in zip(LIBERTIES, ("%2F", ";", "//"), strict=True) if mark in path]
    for reading in (path, *readings(path)) if found else (path,):
        if _DOT_SEGMENT.search(reading):
            raise Denial(REQUEST_MALFORMED, "the path holds a dot segment")
    return path, frozenset(found)


def readings(path: str) -> set[str]:
    """Return all other paths for which servers take this one, whatever they do first.

    Some decode `%2F` to a slash, some cut off parameters (`;v=1`), some make one slash of several.
    """
    found, todo = {path}, [path]
    while todo:
        each = todo.pop()
        for other in (each.replace("%2F", "/"), _PARAMETERS.sub("", each), _SLASHES.sub("/", each)):
            if other not in found:
                found.add(other)
                todo.append(other)
    return found - {path}


def _decode_but_slash(match: re.Match[str]) -> str:
    return "%2F" if match[1] in {"2F", "2f"} else _decode_unreserved(match)


def _decode_unreserved(match: re.Match[str]) -> str:
    digits = match[1]
    if not _HEX.fullmatch(digits):
        raise Denial(REQUEST_MALFORMED, "the path holds a stray percent sign")
    character = chr(int(digits, 16))
    if character in "/\\" or character < " " or character == "\x7f":
        raise Denial(REQUEST_MALFORMED, "the path holds an encoded slash, backslash or control character")
    if character in _OVERLONG:
        raise Denial(REQUEST_MALFORMED, "the path holds an octet that only overlong UTF-8 begins with")
    return character if character in _UNRESERVED else f"%{digits.upper()}"


def _origin_form(target: str, authority: str) -> str:
    """Turn absolute-form into a path (RFC 9112 §3.2.2). Its authority must be the one in Host."""
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise Denial(REQUEST_MALFORMED, "the request-target is neither a path nor an http URL")
    if match[1].lower() != authority.lower():
        raise Denial(REQUEST_MALFORMED, "the request-target and Host name different hosts")
    return match[2] if match[2].startswith("/") else f"/{match[2]}"


@lru_cache(maxsize=256)
def _host_name(authority: str) -> str:
    match = _HOST.fullmatch(authority)
    if match is None:
        raise Denial(REQUEST_MALFORMED, "Host is not a host name, with or without a port")
    return match[1].lower().removesuffix(".")


@dataclass(frozen=True, slots=True)
class _Compiled:
    route: Route
    pattern: re.Pattern[str]
    suffixes: tuple[str, ...]
    """The ends of the hosts that its wildcards match: from the dot on."""


class RouteTable:
    """The routes in order. The first that matches wins."""

    __slots__ = ("_reserved", "_routes", "conditional", "forwards", "liberties")

    def __init__(
        self, routes: Iterable[Route], *, forwards: bool = False, reserved: str | None = None
    ) -> None:
        """Compile the routes. `forwards`: requests are forwarded, so a route needs an upstream to serve.

        `reserved`: a path that the gateway answers by itself, and that no route gets.
        """
        self._routes = tuple(
            _Compiled(
                route, _compile(route.path), tuple(host[1:] for host in route.hosts if host.startswith("*."))
            )
            for route in routes
        )
        self.forwards = forwards
        """Whether requests are forwarded here; else a front does that."""
        self._reserved = reserved
        self.liberties = NO_LIBERTIES.union(*(compiled.route.allow for compiled in self._routes))
        """What some route allows, and so must be read."""
        self.conditional = any(
            compiled.route.require.condition is not None
            and (compiled.route.require.condition.per_request or compiled.route.auth is not Auth.REQUIRED)
            for compiled in self._routes
        )
        """Whether some route has a condition that must be evaluated for each request."""

    def match(self, method: str, host: str, path: str) -> Route:
        """Return the first route for a request.

        Raises `Denial`: `method_not_allowed` if a route matches in all but the method, or
        `method_not_implemented` if that is an unknown one; otherwise `route_not_found`. An unmatched request
        is never forwarded. What a route without an upstream takes is not forwarded by a later route, which
        may ask for less. TRACE and unknown methods match only where they are named.
        """
        if method == "CONNECT":
            raise no_tunnel()
        usual = method in FORWARDED
        if path == self._reserved:
            raise Denial(ROUTE_NOT_FOUND, "this path is the gateway's own: see server.health_path")
        refused: list[Route] = []
        for compiled in self._routes:
            route = compiled.route
            if compiled.pattern.fullmatch(path) is None:
                continue
            if route.hosts and host not in route.hosts and not host.endswith(compiled.suffixes):
                continue
            served = route.upstream is not None or not self.forwards
            if (usual and not route.methods) or method in route.methods:
                if served:
                    return route
                break
            if served:
                refused.append(route)
        if refused:
            if method not in LLHTTP_METHODS:
                raise Denial(METHOD_NOT_IMPLEMENTED, route=refused[0])
            allow = frozenset().union(*(route.methods or COMMON for route in refused))
            raise Denial(METHOD_NOT_ALLOWED, route=refused[0], allow=allow)
        raise Denial(ROUTE_NOT_FOUND)

    def check(self, route: Route, method: str, target: Target) -> None:
        """Refuse a target of this route that takes liberties which could lead elsewhere.

        The route must allow them. A server behind it may take the path for another one; no other route may
        claim that one, or the requirements of that route would be evaded.
        Raises `Denial` `request_malformed`.
        """
        for liberty in LIBERTIES:
            if liberty in target.liberties and liberty not in route.allow:
                raise Denial(REQUEST_MALFORMED, f"the route does not allow {liberty}", route=route)
        for reading in (target.path, *readings(target.path)):
            if (route.base_path + reading[len(route.strip_prefix) :]).startswith("//"):
                # For some servers, a host follows (RFC 3986 §4.2).
                raise Denial(REQUEST_MALFORMED, "what is forwarded would begin with two slashes", route=route)
            if not self._leads_nowhere_else(route, method, target.host, reading):
                raise Denial(REQUEST_MALFORMED, "for some servers, another route has this path", route=route)

    def _leads_nowhere_else(self, route: Route, method: str, host: str, path: str) -> bool:
        """Return whether no other route comes first for this path, and for this method if any takes it."""
        others = False
        for compiled in self._routes:
            other = compiled.route
            if compiled.pattern.fullmatch(path) is None:
                continue
            if other.hosts and host not in other.hosts and not host.endswith(compiled.suffixes):
                continue
            if (method in FORWARDED and not other.methods) or method in other.methods:
                return other is route
            others = True
        return not others


def no_tunnel() -> Denial:
    """Return the denial of CONNECT: an upstream that accepted it would open a tunnel (RFC 9110 §9.3.6)."""
    return Denial(METHOD_NOT_ALLOWED, "CONNECT is never forwarded", allow=COMMON)


def _compile(pattern: str) -> re.Pattern[str]:
    """Turn `/orders/*/items/**` into a regular expression over normal paths.

    `**` at the end matches any rest, or none: `/orders/**` matches `/orders` too. Otherwise a protected tree
    would leave its own root unprotected.
    """
    rest = pattern.endswith("/**")
    stem = pattern[: -len("/**")] if rest else pattern
    parts = stem.split("/")[1:]
    expression = "".join("/[^/]+" if part == "*" else re.escape(normal_path(f"/{part}")) for part in parts)
    return re.compile(f"{expression}(?:/.*)?" if rest else expression or "/")
