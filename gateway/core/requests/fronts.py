"""What a front asks about: the original request, read from the fields of exactly that front.

A front is another proxy. It asks for a verdict on a request that it then forwards itself. Each kind of front
has one way to describe the original request, and only that one is read:

=============== =================== ==================================================================
path            front               original request
=============== =================== ==================================================================
/auth-request   nginx               `X-Original-Method`, `X-Original-URI`, `X-Original-Host`
/forward-auth   Traefik, Caddy      `X-Forwarded-Method`, `-Proto`, `-Host`, `-Uri`
/ext-authz/…    Envoy, HAProxy      the question's own method and Host, and its path after the prefix
=============== =================== ==================================================================

A field that is missing is an error: nothing stands in for it. So is a field that comes twice, or in a second
spelling that some servers read as the same name: a client may have sent one of them. Fields that belong to
other fronts mean nothing here, but in a second spelling they are an error too: the front removes one spelling
of what its service must not believe. Only peers that are trusted may ask, so only they are believed.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from gateway.core.headers import HOP_BY_HOP, OF_OTHER_REQUESTS, fold
from gateway.core.model import Header
from gateway.core.networks import client_address
from gateway.core.reasons import REQUEST_MALFORMED, ROUTE_NOT_FOUND, Denial

_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}")
_CHAIN: Final = b"x-forwarded-for"
# Proxies name the scheme of a WebSocket so (RFC 6455 §3).
_SCHEMES: Final[dict[bytes, Literal["http", "https"]]] = {
    b"http": "http",
    b"https": "https",
    b"ws": "http",
    b"wss": "https",
}
# The handshake of a WebSocket (RFC 6455 §4.1). Fronts drop Connection and Upgrade, and keep this.
_WEBSOCKET_KEY: Final = b"sec-websocket-key"
# How a field is treated.
_KEPT, _READ, _OF_CHAIN, _HOST, _CONNECTION, _DROPPED = (
    "kept",
    "read",
    "chain",
    "host",
    "connection",
    "dropped",
)
_FATES: Final = {_CHAIN: _OF_CHAIN, b"host": _HOST, b"connection": _CONNECTION}
_LONGEST: Final = 64
_MOST: Final = 1024
"""The longest name that is remembered, and the largest number of names."""
_ASKS_FOR_WEBSOCKET: Final = ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"))


@dataclass(frozen=True, slots=True)
class Front:
    """A kind of front: where it asks, and how it describes the original request."""

    name: str
    """The label in metrics."""
    path: str
    fields: tuple[bytes, ...]
    """The fields that must be there: method, target and host, then others. Empty: they are the question's."""
    proto: bytes
    """The field with the scheme. If it is not among `fields`, it may be missing."""
    denies_with: frozenset[int] | None = None
    """The only statuses that the front passes on as a denial; None: it passes on all."""

    read: frozenset[bytes] = field(init=False)
    """All fields that are read, in lower case."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "read", frozenset((*self.fields, self.proto, _CHAIN)))

    @property
    def in_path(self) -> bool:
        """Whether the original request is in the question's own method, path and Host."""
        return not self.fields


AUTH_REQUEST: Final = Front(
    "auth_request",
    "/auth-request",
    (b"x-original-method", b"x-original-uri", b"x-original-host"),
    b"x-original-proto",
    # nginx turns all others into a 500 (ngx_http_auth_request_module).
    frozenset({401, 403}),
)
FORWARD_AUTH: Final = Front(
    "forward_auth",
    "/forward-auth",
    (b"x-forwarded-method", b"x-forwarded-uri", b"x-forwarded-host", b"x-forwarded-proto"),
    b"x-forwarded-proto",
)
EXT_AUTHZ: Final = Front("ext_authz", "/ext-authz", (), b"x-forwarded-proto")
FRONTS: Final = (AUTH_REQUEST, FORWARD_AUTH, EXT_AUTHZ)


class Original(NamedTuple):
    """The request that a front asks about."""

    method: str
    target: str
    headers: tuple[Header, ...]
    """The client's fields, with the Host that the client sent."""
    client: str
    """The address of the client."""
    scheme: Literal["http", "https"]
    may_upgrade: bool
    """True if the client asks for a WebSocket."""


def front_of(target: str) -> Front:
    """Return the front that asks at this target. Raises `Denial` `route_not_found`."""
    for front in FRONTS:
        if target.startswith(front.path):
            rest = target[len(front.path) :]
            # Some fronts append a query of their own.
            if rest.startswith("/") if front.in_path else (not rest or rest.startswith("?")):
                return front
    raise Denial(ROUTE_NOT_FOUND, "fronts ask at /auth-request, /forward-auth and /ext-authz/")


class Questions:
    """Reads the original request from the questions of fronts."""

    __slots__ = ("_fates", "_is_trusted", "_spellings", "_stripped")

    def __init__(
        self,
        identity: Iterable[bytes],
        is_trusted: Callable[[str], bool],
        stripped: Iterable[bytes] = (),
    ) -> None:
        """`identity` are the names of all fields that a success may carry.

        `is_trusted` tells which addresses in `X-Forwarded-For` are proxies. `stripped` are the names of
        further fields that no service may get.
        """
        told = {fold(name): name.lower() for name in identity}
        further = {fold(name): name.lower() for name in stripped}
        names = {**{name: name for name in OF_OTHER_REQUESTS}, **further, **told}
        self._stripped = further.keys() - told.keys()
        self._spellings = {front: {**names, **{name: name for name in front.read}} for front in FRONTS}
        """By front: the folded name of each field with one spelling, and that spelling in lower case."""
        self._fates: dict[Front, dict[bytes, str]] = {front: {} for front in FRONTS}
        """By front: how fields are treated that came before, by their names."""
        self._is_trusted = is_trusted

    def read(self, front: Front, method: str, target: str, headers: Sequence[Header], peer: str) -> Original:
        """Read the original request from a question: its method, target, fields, and the peer that sent it.

        Raises `Denial` `request_malformed`.
        """
        told, kept, hosts, chain = self._sorted(front, headers)
        scheme = _scheme(told.get(front.proto))
        if len(hosts) > 1 or (front.in_path and not hosts):
            raise Denial(REQUEST_MALFORMED, "the question has no Host, or more than one")
        if front.in_path:
            host, target = hosts[0], target[len(front.path) :]
        else:
            for name in front.fields:
                if not told.get(name):
                    raise Denial(REQUEST_MALFORMED, f"the front did not send {name.decode()}")
            named, uri, host = (told[name] for name in front.fields[:3])
            if _TOKEN.fullmatch(named) is None:
                raise Denial(REQUEST_MALFORMED, f"{front.fields[0].decode()} is not a method")
            method, target = named.decode("ascii"), uri.decode("latin-1")
        kept.append((b"Host", host))
        upgrade = method == "GET" and any(name.lower() == _WEBSOCKET_KEY for name, _ in kept)
        if upgrade:
            # A page of another site can make a browser ask for a WebSocket, so the origin must be checked.
            kept += _ASKS_FOR_WEBSOCKET
        client = client_address(chain, peer, self._is_trusted) if chain else peer
        return Original(method, target, tuple(kept), client, scheme, upgrade)

    def described(
        self, method: str, target: str, host: str, scheme: str, headers: Iterable[Header], source: str
    ) -> tuple[Original, tuple[bytes, ...]]:
        """Return the original request of a front that describes it beside its fields, as Envoy does by gRPC.

        The names of `headers` are in lower case, and `source` is the address of the front's own peer. Also
        return the names of fields that this front has to remove: those that no service may get, and the
        second spellings of fields that it sets or removes. Raises `Denial` `request_malformed`.
        """
        if _TOKEN.fullmatch(method.encode()) is None or not host:
            raise Denial(REQUEST_MALFORMED, "the front described no method, or no host")
        spellings = self._spellings[EXT_AUTHZ]
        kept: list[Header] = [(b"host", host.encode("latin-1", "replace"))]
        chain: list[bytes] = []
        removed: list[bytes] = []
        for name, value in headers:
            folded = fold(name)
            if folded in self._stripped:
                removed.append(name)
            elif spellings.get(folded, name) != name:
                removed.append(name)
                continue
            if name == _CHAIN:
                chain.append(value)
            elif name != b"host" and folded not in HOP_BY_HOP and not name.startswith(b":"):
                kept.append((name, value))
        upgrade = method == "GET" and any(name == _WEBSOCKET_KEY for name, _ in kept)
        if upgrade:
            kept += _ASKS_FOR_WEBSOCKET
        behind = chain and self._is_trusted(source)
        client = client_address(chain, source, self._is_trusted) if behind else source
        told = _SCHEMES.get(scheme.encode("latin-1", "replace"), "https")
        return Original(method, target, tuple(kept), client, told, upgrade), tuple(removed)

    def _sorted(
        self, front: Front, headers: Iterable[Header]
    ) -> tuple[dict[bytes, bytes], list[Header], list[bytes], list[bytes]]:
        """Return the values of the front's fields, the client's fields, the Hosts and the chain of addresses.

        Fields of one connection are the front's own, and dropped (RFC 9110 §7.6.1).
        """
        spellings, fates = self._spellings[front], self._fates[front]
        told: dict[bytes, bytes] = {}
        kept: list[Header] = []
        hosts: list[bytes] = []
        chain: list[bytes] = []
        for header in headers:
            name, value = header
            fate = fates.get(name) or self._decide(front, name)
            if fate is _KEPT:
                kept.append(header)
            elif fate is _READ:
                lower = name.lower()
                if lower in told:
                    raise Denial(REQUEST_MALFORMED, f"{lower.decode()} comes twice")
                told[lower] = value.strip(b" \t")
            elif fate is _OF_CHAIN:
                chain.append(value)
            elif fate is _HOST:
                hosts.append(value)
            elif fate is _CONNECTION and any(
                fold(option.strip(b" \t")) in spellings for option in value.split(b",")
            ):
                # A front would remove the field that it has just set (RFC 9110 §7.6.1).
                raise Denial(REQUEST_MALFORMED, "Connection names a field of the gateway")
        return told, kept, hosts, chain

    def _decide(self, front: Front, name: bytes) -> str:
        """Decide by the name of a field, and remember it, because names recur. Raises `Denial`."""
        lower, folded = name.lower(), fold(name)
        spelling = self._spellings[front].get(folded)
        if spelling is not None and spelling != lower:
            # A front sets or removes these fields in one spelling. It would forward this one.
            raise Denial(REQUEST_MALFORMED, f"a field is another spelling of {spelling.decode()}")
        if lower in _FATES:
            fate = _FATES[lower]
        elif lower in front.read:
            fate = _READ
        else:
            fate = _DROPPED if folded in HOP_BY_HOP else _KEPT
        fates = self._fates[front]
        if len(name) <= _LONGEST and len(fates) < _MOST:
            fates[name] = fate
        return fate


def _scheme(value: bytes | None) -> Literal["http", "https"]:
    """Return the scheme of the original request. Of a front that does not tell, the stricter one."""
    if value is None:
        return "https"
    scheme = _SCHEMES.get(value)
    if scheme is None:
        raise Denial(REQUEST_MALFORMED, "the scheme of the original request is neither http nor https")
    return scheme
