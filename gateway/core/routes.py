"""Path normalisation and the compiled route table.

The path that is matched is the path that is forwarded: `read_target` turns a request-target into
one spelling or refuses it, and everything behind it sees that spelling alone (RFC 3986 §6.2.2,
RFC 9112 §3.2).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from gateway.core.model import Route
from gateway.core.reasons import METHOD_NOT_ALLOWED, REQUEST_MALFORMED, ROUTE_NOT_FOUND, Denial

# A path that is its own normal form; any other needs a closer look. Its groups give nothing back: they would
# only be tried again in vain.
_NORMAL: Final = re.compile(r"(?:/[!$&'()*+,\-0-9:=@A-Z_a-z~][!$&'()*+,\-.0-9:=@A-Z_a-z~]*+)*+/?+")
_NOT_VISIBLE_ASCII: Final = re.compile(r"[^\x21-\x7e]")
_PERCENT: Final = re.compile(r"%(.{0,2})", re.DOTALL)
_HEX: Final = re.compile(r"[0-9A-Fa-f]{2}")
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
# Lax decoders read `%c0%ae` as a dot; in UTF-8 these octets do not exist (RFC 3629 §3).
_OVERLONG: Final = frozenset("\xc0\xc1")
_DOUBLE_ENCODED: Final = re.compile(r"%25[0-9A-Fa-f]{2}")
_ABSOLUTE: Final = re.compile(r"https?://([^/?#]*)(.*)", re.IGNORECASE)
# No name is longer (RFC 1035 §2.3.4), and what has been read is remembered.
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._~\-]{1,253}\.?)(?::[0-9]{0,5})?")


class Target(NamedTuple):
    """Where a request wants to go, in the one spelling that is both matched and forwarded."""

    host: str
    """Lower case, without port and trailing dot; what routes are matched by."""
    path: str
    query: str
    """With its `?`, or empty; as the client wrote it."""

    def without(self, prefix: str) -> str:
        """Return path and query as they are forwarded: without whole segments that the path begins with."""
        return (self.path[len(prefix) :] or "/") + self.query


def read_target(target: str, hosts: Sequence[bytes]) -> Target:
    """Read host, path and query of a request, refusing whatever could be read two ways.

    `hosts` are the values of its Host fields.
    Raises `Denial` `request_malformed`.
    """
    if len(hosts) != 1:
        number = "more than one" if hosts else "no"
        raise Denial(REQUEST_MALFORMED, f"there is {number} Host (RFC 9112 §3.2)")
    authority = hosts[0].decode("latin-1").strip(" \t")
    if not target.startswith("/"):
        target = _origin_form(target, authority)
    path, mark, query = target.partition("?")
    # Printable ASCII without the space is what is visible.
    if query and not (query.isascii() and query.isprintable() and " " not in query and "#" not in query):
        raise Denial(REQUEST_MALFORMED, "the query holds a fragment or characters outside ASCII")
    return Target(_host_name(authority), normal_path(path), mark + query)


def normal_path(path: str) -> str:
    r"""Return the normal form of an absolute path: unreserved characters decoded, hex in capitals.

    Refused, since servers differ on what they mean: dot segments in any encoding, empty
    segments, `;`, `#`, `\`, encoded slashes, backslashes and NUL, double encoding, and everything
    that is not ASCII. Raises `Denial` `request_malformed`.
    """
    if _NORMAL.fullmatch(path) is not None:
        return path
    if _NOT_VISIBLE_ASCII.search(path):
        raise Denial(REQUEST_MALFORMED, "the path holds characters outside ASCII, or controls")
    if any(character in path for character in ";#\\"):
        raise Denial(REQUEST_MALFORMED, "the path holds `;`, `#` or a backslash")
    path = _PERCENT.sub(_decode_unreserved, path)
    if _DOUBLE_ENCODED.search(path):
        raise Denial(REQUEST_MALFORMED, "the path is percent-encoded twice")
    segments = path.split("/")[1:]
    if "" in segments[:-1]:
        raise Denial(REQUEST_MALFORMED, "the path holds an empty segment")
    if "." in segments or ".." in segments:
        raise Denial(REQUEST_MALFORMED, "the path holds a dot segment")
    return path


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
    """Reduce absolute-form (RFC 9112 §3.2.2), whose authority must be the Host field's."""
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


class RouteTable:
    """Routes in their order; the first that matches wins."""

    __slots__ = ("_routes",)

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes = tuple(_Compiled(route, _compile(route.path)) for route in routes)

    def match(self, method: str, host: str, path: str) -> Route:
        """Return the first route for a request.

        Raises `Denial`: `method_not_allowed` when only the method stands in the way, else
        `route_not_found`; there is no pass-through.
        """
        if method == "CONNECT":
            # An upstream that accepted it would make a tunnel of its connection (RFC 9110 §9.3.6).
            raise Denial(METHOD_NOT_ALLOWED, "CONNECT is never forwarded")
        refused: list[Route] = []
        for compiled in self._routes:
            route = compiled.route
            if compiled.pattern.fullmatch(path) is None or (route.hosts and host not in route.hosts):
                continue
            if not route.methods or method in route.methods:
                return route
            refused.append(route)
        if refused:
            allow = frozenset().union(*(route.methods for route in refused))
            raise Denial(METHOD_NOT_ALLOWED, route=refused[0], allow=allow)
        raise Denial(ROUTE_NOT_FOUND)


def _compile(pattern: str) -> re.Pattern[str]:
    """Turn `/orders/*/items/**` into a regular expression over normal paths.

    `**` at the end stands for the rest, and for nothing: `/orders/**` matches `/orders` too, so
    that no neighbour of a protected tree is left open by a slash.
    """
    rest = pattern.endswith("/**")
    stem = pattern[: -len("/**")] if rest else pattern
    parts = stem.split("/")[1:]
    expression = "".join("/[^/]+" if part == "*" else re.escape(normal_path(f"/{part}")) for part in parts)
    return re.compile(f"{expression}(?:/.*)?" if rest else expression or "/")
