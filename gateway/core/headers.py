"""Every rule about header fields between client, gateway and upstream; there is no other owner.

What a client may forge is removed first, on every route and in every spelling; what the gateway
vouches for is added after, so nothing a client sends can remove it again.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from operator import attrgetter
from typing import Final, TypeAlias

from gateway.core.claims import at_path
from gateway.core.lru import LRU
from gateway.core.model import JSON, Claims, Header, Request, User

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# RFC 9110 §7.6.1: for one connection only, whether Connection names them or not. Trailer goes with
# the trailers, which are not forwarded.
HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# Framing belongs to who writes the message (RFC 9112 §6).
_FRAMING: Final = frozenset({b"content-length", b"http2-settings"})
# What Connection may never remove (RFC 9110 §7.6.1: fields for all recipients must not be listed).
_END_TO_END: Final = frozenset({b"host", b"content-type", b"content-length", b"authorization", b"cookie"})
# Names by which frameworks let a proxy tell who asked for what. Folded, without `x-forwarded-*`.
_FORWARDING: Final = frozenset(
    {b"forwarded", b"x-real-ip", b"x-original-url", b"x-original-uri", b"x-original-method", b"x-rewrite-url"}
)
_USER_FIELDS: Final = frozenset({"id", "status", "tenant", "email", "display_name", "roles"})
_CLAIM_FIELDS: Final = {
    "iss": "issuer",
    "sub": "subject",
    "aud": "audiences",
    "jti": "jti",
    "tenant": "tenant",
    "scopes": "scopes",
    "roles": "roles",
}
# What Connection usually says names no field, or one that is dropped anyway.
_UNMOVED: Final = _END_TO_END | {b"close", b"keep-alive", b"upgrade"}
_MAX_REMEMBERED_NAME: Final = 64
_MAX_REMEMBERED_NAMES: Final = 1024
_PREPARED: Final = 10_000
"""Identity fields of so many tokens are kept ready."""
STALE_HEADER: Final = b"X-Auth-Stale"
REQUEST_ID_HEADER: Final = b"X-Request-Id"

_FOLD: Final = bytes(
    ord(chr(octet).lower()) if chr(octet).isalnum() and octet < 128 else ord("-") for octet in range(256)
)
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=\-]{1,128}")
# Outside printable ASCII, or `%`, which marks what is encoded; a comma separates the items of a list.
_UNSAFE: Final = re.compile(rb"[^\x20-\x24\x26-\x7e]|^ +| +$")
_UNSAFE_IN_LIST: Final = re.compile(rb"[^\x20-\x24\x26-\x2b\x2d-\x7e]|^ +| +$")

_Getter: TypeAlias = Callable[[User | None, Claims], "JSON | tuple[str, ...]"]


def fold(name: bytes) -> bytes:
    """Return what CGI and WSGI make of a field name, so that `X_User.Id` and `x-user-id` are one."""
    return name.translate(_FOLD)


def encode_value(value: "JSON | tuple[str, ...]") -> bytes | None:
    """Encode a value for a header field; None when there is nothing to send.

    Text is UTF-8 with every octet outside printable ASCII, and `%`, percent-encoded, so no value can
    end the field and an upstream gets the text back with one percent-decoding. Items of a list are
    joined with commas; a comma inside an item is encoded.
    """
    if isinstance(value, list | tuple):
        items = (_encode(item, _UNSAFE_IN_LIST) for item in value)
        return b",".join(item for item in items if item) or None
    return _encode(value, _UNSAFE)


def _encode(value: JSON, unsafe: re.Pattern[bytes]) -> bytes | None:
    if value is None or isinstance(value, list | dict):
        return None
    text = ("true" if value else "false") if isinstance(value, bool) else str(value)
    octets = unsafe.sub(_percent, text.encode("utf-8", "replace"))
    return octets or None


def _percent(match: re.Match[bytes]) -> bytes:
    return b"".join(b"%%%02X" % octet for octet in match[0])


@dataclass(frozen=True, slots=True)
class HeaderRules:
    """The operator's choices about header fields."""

    identity: Mapping[str, str]
    """Field name → what it carries: a path below `user` or `claims`."""
    forward_authorization: bool = False
    trusted_proxies: tuple[Network, ...] = ()
    """Peers whose `X-Forwarded-*` and `X-Request-Id` are believed."""


class _Fate(Enum):
    """What becomes of a client's field."""

    KEPT = auto()
    DROPPED = auto()
    HOST = auto()
    CHAIN = auto()
    """`X-Forwarded-For`: extended for a trusted peer, else written anew."""
    PROTO = auto()
    VOUCHED = auto()
    """Any other `X-Forwarded-*`: kept from a trusted peer, else dropped."""


_FORWARDED: Final = {b"x-forwarded-for": _Fate.CHAIN, b"x-forwarded-proto": _Fate.PROTO}


class HeaderPolicy:
    """`HeaderRules`, compiled."""

    def __init__(self, rules: HeaderRules) -> None:
        self._identity = tuple((name.encode(), _getter(path)) for name, path in rules.identity.items())
        self._ours = frozenset(
            [fold(name) for name, _ in self._identity]
            + [fold(STALE_HEADER), fold(REQUEST_ID_HEADER)]
            + list(_FORWARDING)
        )
        self._forward_authorization = rules.forward_authorization
        self._networks = rules.trusted_proxies
        self._trusts = lru_cache(maxsize=1024)(self._is_trusted)
        self._fates: dict[bytes, _Fate] = {}
        self._prepared: LRU[int, tuple[Claims, User | None, tuple[Header, ...]]] = LRU(_PREPARED)

    def trusts(self, peer: str) -> bool:
        """Tell whether what this peer says about its own clients is believed."""
        return bool(self._networks) and self._trusts(peer)

    def request_id(self, headers: Iterable[Header], peer: str) -> str | None:
        """Return the request id that a trusted proxy gave, if it gave a sane one."""
        if not self.trusts(peer):
            return None
        for name, value in headers:
            if name.lower() == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                return value.decode("ascii")
        return None

    def admit(
        self,
        request: Request,
        claims: Claims | None,
        user: User | None,
        *,
        stale: bool = False,
        prefix: str = "",
    ) -> tuple[Header, ...]:
        """Return the fields to send upstream: the client's without what it may forge, then ours.

        `prefix` is what was removed from the path.
        """
        trusted = self.trusts(request.peer)
        kept, host, chain, proto = self._strip(request, trusted=trusted)
        peer = request.peer.encode("latin-1", "replace")
        kept.append((b"X-Forwarded-For", b", ".join([*chain, peer]) if trusted else peer))
        kept.append((b"X-Forwarded-Proto", proto or request.scheme.encode()))
        if not (trusted and any(name.lower() == b"x-forwarded-host" for name, _ in kept)):
            kept.append((b"X-Forwarded-Host", host))
        if prefix:
            kept = _prefixed(kept, prefix)
        kept.append((REQUEST_ID_HEADER, request.id.encode()))
        if claims is not None:
            kept += self._identity_of(claims, user)
            if stale:
                kept.append((STALE_HEADER, b"true"))
        return tuple(kept)

    def _strip(
        self, request: Request, *, trusted: bool
    ) -> tuple[list[Header], bytes, list[bytes], bytes | None]:
        """Remove what is forged, for one hop, or rebuilt; return the rest and what rebuilding needs."""
        headers = request.headers
        nominated = _nominated(headers)
        if nominated:
            headers = tuple(header for header in headers if fold(header[0]) not in nominated)
        kept: list[Header] = []
        host = b""
        chain: list[bytes] = []
        proto: bytes | None = None
        fates = self._fates
        for header in headers:
            fate = fates.get(header[0]) or self._fate(header[0])
            if fate is _Fate.KEPT or (fate is _Fate.VOUCHED and trusted):
                kept.append(header)
            elif fate is _Fate.HOST:
                host = header[1]
                kept.append(header)
            elif fate is _Fate.CHAIN:
                chain.append(header[1])
            elif fate is _Fate.PROTO and trusted and header[1] in {b"http", b"https"}:
                proto = header[1]
        return kept, host, chain, proto

    def _fate(self, name: bytes) -> _Fate:
        """Decide by a field's name alone; what was decided is remembered, for names recur."""
        lower, folded = name.lower(), fold(name)
        credentials = lower == b"authorization" and not self._forward_authorization
        fate = _Fate.KEPT
        if credentials or folded in HOP_BY_HOP or folded in _FRAMING or folded in self._ours:
            fate = _Fate.DROPPED
        elif folded.startswith(b"x-forwarded-"):
            fate = _FORWARDED.get(lower, _Fate.VOUCHED) if lower == folded else _Fate.DROPPED
        elif lower == b"host":
            fate = _Fate.HOST
        if len(name) <= _MAX_REMEMBERED_NAME and len(self._fates) < _MAX_REMEMBERED_NAMES:
            self._fates[name] = fate
        return fate

    def _identity_of(self, claims: Claims, user: User | None) -> tuple[Header, ...]:
        """Return the identity fields, made once for a remembered token and its user."""
        prepared = self._prepared.get(id(claims))
        if prepared is not None and prepared[0] is claims and prepared[1] is user:
            return prepared[2]
        headers = tuple(
            (name, value)
            for name, get in self._identity
            if (value := encode_value(get(user, claims))) is not None
        )
        # The claims are kept with their id, so that no others can come to have it.
        self._prepared.put(id(claims), (claims, user, headers))
        return headers

    def _is_trusted(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)


def _prefixed(fields: list[Header], prefix: str) -> list[Header]:
    """Add a prefix that was removed from the path behind those that trusted proxies removed before."""
    before = [value for name, value in fields if name.lower() == b"x-forwarded-prefix"]
    kept = [(name, value) for name, value in fields if name.lower() != b"x-forwarded-prefix"]
    kept.append((b"X-Forwarded-Prefix", b"".join(value.rstrip(b"/") for value in before) + prefix.encode()))
    return kept


def response_headers(headers: Sequence[Header]) -> list[Header]:
    """Return an upstream's response fields without those for one connection only (RFC 9110 §7.6.1).

    Without `X-Request-Id` too, which is the gateway's to tell.
    """
    nominated = _nominated(headers)
    if nominated:
        return [h for h in headers if not _for_one_hop(h[0]) and fold(h[0]) not in nominated]
    return [header for header in headers if not _for_one_hop(header[0])]


@lru_cache(maxsize=1024)
def _for_one_hop(name: bytes) -> bool:
    folded = fold(name)
    return folded in HOP_BY_HOP or folded == b"x-request-id"


def _nominated(headers: Iterable[Header]) -> frozenset[bytes]:
    """Return the fields that Connection names as being for this connection only, folded."""
    names: frozenset[bytes] = frozenset()
    for name, value in headers:
        if len(name) == 10 and name.lower() == b"connection":
            names |= {fold(option.strip(b" \t")) for option in value.split(b",")}
    return names - _UNMOVED if names else names


def _getter(path: str) -> _Getter:
    """Compile `user.…` or `claims.…` to a function. Raises `ValueError` on anything else."""
    root, _, rest = path.partition(".")
    if root == "user" and rest.startswith("attributes."):
        below = rest.removeprefix("attributes.")
        return lambda user, _: None if user is None else at_path(user.attributes, below)
    if root == "user" and rest in _USER_FIELDS:
        read = attrgetter(rest)
        return lambda user, _: None if user is None else read(user)
    if root == "claims" and rest in _CLAIM_FIELDS:
        read = attrgetter(_CLAIM_FIELDS[rest])
        return lambda _, claims: read(claims)
    if root == "claims" and rest:
        return lambda _, claims: at_path(claims.payload, rest)
    raise ValueError(f"{path!r} is neither a field of the user nor a claim")
