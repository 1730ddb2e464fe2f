"""The rules about header fields between client, gateway and upstream.

`requests/forwarding.py` has those about X-Forwarded-* and its like, and no other file has any.

First, the fields that a client may forge are removed, on every route and in every spelling. Then the gateway
adds its own fields, so that a client cannot remove them.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from functools import lru_cache
from operator import attrgetter
from typing import Final, NamedTuple, TypeAlias

from gateway.core.conditions import Computed
from gateway.core.model import JSON, Claims, Header, Request, User
from gateway.core.networks import Network, client_address, contains
from gateway.core.requests.forwarding import ForwardingFields, ForwardingRules
from gateway.core.text.field_values import encode_value
from gateway.core.tokens.claim_paths import at_path, claims_on

# RFC 9110 §7.6.1: for one connection only, even if Connection does not name them. Trailer is one of them in
# requests, because their trailers are not forwarded.
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
# The writer of a message decides on its framing (RFC 9112 §6).
_FRAMING: Final = frozenset({b"content-length", b"http2-settings"})
# Connection may not remove these (RFC 9110 §7.6.1: it must not list fields for all recipients).
_END_TO_END: Final = frozenset({b"host", b"content-type", b"content-length", b"authorization", b"cookie"})
# Fields in which frameworks expect the original target. Folded.
_ORIGINALS: Final = frozenset({b"x-original-url", b"x-original-uri", b"x-original-method", b"x-rewrite-url"})
# Fields about the original client that a trusted proxy may send. Folded, without `x-forwarded-*`.
_FORWARDING: Final = frozenset(
    {
        b"forwarded",
        b"x-original-for",
        b"x-original-forwarded-for",
        b"x-original-host",
        b"x-original-proto",
        b"x-real-ip",
    }
)
OF_OTHER_REQUESTS: Final = (
    *sorted(_ORIGINALS | _FORWARDING),
    *(b"x-forwarded-" + what for what in (b"for", b"host", b"method", b"port", b"prefix", b"proto", b"uri")),
)
"""Fields that tell of another request or client than those that were decided on. Folded."""
STRIPPED: Final = ("Proxy", "Remote-User", "X-Remote-User", "X-HTTP-Method-Override")
"""Fields that are removed from requests by default: CGI makes `HTTP_PROXY` of the first (CVE-2016-5385),
frameworks take the next two for the user, and the last one for the method."""
USER_FIELDS: Final = ("id", "tenant", "email", "display_name", "roles", "status")
"""The fields of a user that an identity header may carry."""
_CLAIM_FIELDS: Final = {
    "iss": "issuer",
    "sub": "subject",
    "aud": "audiences",
    "jti": "jti",
    "tenant": "tenant",
    "scopes": "scopes",
    "roles": "roles",
}
# Options of Connection that remove no field, or name one that is dropped anyway.
_UNMOVED: Final = _END_TO_END | {b"close", b"keep-alive", b"upgrade"}
_MAX_REMEMBERED: Final = 64
"""The longest name, or value of Connection, whose treatment is remembered."""
_MAX_REMEMBERED_NAMES: Final = 1024
STALE_HEADER: Final = b"X-Auth-Stale"
STALE: Final = b"X-Auth-Stale: true\r\n"
"""Tells an upstream that the cached user is older than the cache allows, because the store is down."""
STATUS_HEADER: Final = b"X-User-Status"
"""Tells an upstream the status of a user, on routes that allow users who are not active."""
MISSING_HEADER: Final = b"X-User-Missing"
"""Tells an upstream that no user is behind the token."""
REQUEST_ID_HEADER: Final = b"X-Request-Id"

_FOLD: Final = bytes(
    ord(chr(octet).lower()) if chr(octet).isalnum() and octet < 128 else ord("-") for octet in range(256)
)
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=\-]{1,128}")

_Getter: TypeAlias = Callable[[User | None, Claims], "JSON | tuple[str, ...]"]


def fold(name: bytes) -> bytes:
    """Return a field name as CGI and WSGI see it: `X_User.Id` and `x-user-id` are the same."""
    return name.translate(_FOLD)


@dataclass(frozen=True, slots=True)
class HeaderRules:
    """The operator's settings for header fields."""

    identity: Mapping[str, str | Computed]
    """Field name → its value: a path below `user` or `claims`, or what computes it."""
    trusted_proxies: tuple[Network, ...] = ()
    """Peers whose `X-Forwarded-*`, `Forwarded`, `X-Real-IP` and `X-Request-Id` are trusted."""
    strip: tuple[str, ...] = STRIPPED
    """Further fields of requests that are removed, in any spelling."""
    forwarding: ForwardingRules = field(default_factory=ForwardingRules)
    tells_fronts: bool = False
    """Whether other proxies ask for decisions."""
    assertion: str | None = None
    """The field with the signed identity; None: there is none."""


class _Fate(Enum):
    """How a field is treated."""

    KEPT = auto()
    DROPPED = auto()
    HOST = auto()
    CREDENTIALS = auto()
    """`Authorization`, which is not forwarded."""
    CONNECTION = auto()
    LENGTH = auto()
    CODING = auto()
    TRAILER = auto()
    FORWARDING = auto()
    """`X-Forwarded-*`, and those of `_FORWARDING`: used only if the peer is trusted."""


# Access to a member through its enumeration is slow.
_KEPT, _DROPPED, _HOST, _CREDENTIALS, _CONNECTION = (
    _Fate.KEPT, _Fate.DROPPED, _Fate.HOST, _Fate.CREDENTIALS, _Fate.CONNECTION
)  # fmt: skip
_FATES: Final = {
    b"host": _Fate.HOST,
    b"authorization": _Fate.CREDENTIALS,
    b"connection": _Fate.CONNECTION,
}


class Fields(NamedTuple):
    """A request's fields, sorted, without the dropped ones."""

    kept: bytes
    """The fields that are forwarded unchanged, each with its line end."""
    hosts: list[bytes]
    authorizations: list[bytes]
    forwarding: list[Header]
    """`X-Forwarded-*`, and those of `_FORWARDING`."""


class ResponseFields(NamedTuple):
    """A response's fields, sorted."""

    kept: bytes
    """The fields for the client, each with its line end."""
    lengths: list[bytes]
    codings: list[bytes]
    """Values of Transfer-Encoding."""


class HeaderPolicy:
    """`HeaderRules`, compiled."""

    def __init__(self, rules: HeaderRules) -> None:
        self._identity = tuple((name.encode(), _getter(path)) for name, path in rules.identity.items())
        self.claims_read = frozenset(_claims_read(rules.identity.values()))
        """Names of the claims in a token's payload that header fields need."""
        configured = [fold(name) for name, _ in self._identity]
        ours = (STALE_HEADER, STATUS_HEADER, MISSING_HEADER, REQUEST_ID_HEADER)
        stripped = (fold(name.encode()) for name in rules.strip)
        assertion = () if rules.assertion is None else (rules.assertion.encode(),)
        self._ours = frozenset([*configured, *map(fold, (*ours, *assertion)), *_ORIGINALS, *stripped])
        self._tells_status = fold(STATUS_HEADER) in configured
        ids = [name.encode() for name, path in rules.identity.items() if path == "user.id"]
        self._missing = b"".join(_line(name, b"") for name in ids) + _line(MISSING_HEADER, b"true")
        ours_alone = (STATUS_HEADER, MISSING_HEADER, STALE_HEADER)
        self.told_names = (
            *(name for name, _ in self._identity),
            *(name for name in ours_alone if fold(name) not in configured),
            *assertion,
        )
        """The names of all fields about a user: what a front is told of each request."""
        self.stripped = tuple(name.encode().lower() for name in rules.strip)
        """The names of further fields that no upstream gets, in lower case."""
        self.tells_fronts = rules.tells_fronts
        """Whether other proxies ask for decisions."""
        self.trusts_proxies = bool(rules.trusted_proxies)
        """Whether there are trusted proxies."""
        self._trusts = contains(rules.trusted_proxies)
        self._forwarding = ForwardingFields(rules.forwarding, self.trusts)
        self._fates: dict[bytes, _Fate] = {}

    def trusts(self, peer: str) -> bool:
        """Return whether this peer is a trusted proxy."""
        return self.trusts_proxies and self._trusts(peer)

    def vouched(self, headers: Iterable[Header], peer: str) -> tuple[str | None, str | None]:
        """Return the request id and the client's address that a trusted proxy gave.

        None for what it did not give in an acceptable form, and for both if the peer is not trusted.
        """
        if not self.trusts(peer):
            return None, None
        request_id: str | None = None
        chain: list[bytes] = []
        for name, value in headers:
            lower = name.lower()
            if lower == b"x-forwarded-for":
                chain.append(value)
            elif request_id is None and lower == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                request_id = value.decode("ascii")
        return request_id, client_address(chain, peer, self._trusts) if chain else None

    @staticmethod
    def acceptable_id(headers: Iterable[Header]) -> str | None:
        """Return the request id that a trusted peer has sent, if it has an acceptable form."""
        for name, value in headers:
            if name.lower() == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                return value.decode("ascii")
        return None

    def read(self, request: Request) -> Fields:
        """Sort a request's fields in one pass."""
        fates = self._fates
        kept: list[bytes] = []
        hosts: list[bytes] = []
        authorizations: list[bytes] = []
        forwarding: list[Header] = []
        nominated: frozenset[bytes] = frozenset()
        for header in request.headers:
            name, value = header
            fate = fates.get(name) or self._decide(name)
            if fate is _KEPT:
                kept += (name, b": ", value, b"\r\n")
            elif fate is _HOST:
                hosts.append(value)
            elif fate is _CREDENTIALS:
                authorizations.append(value)
            elif fate is _CONNECTION:
                nominated |= (_usually_nominated if len(value) <= _MAX_REMEMBERED else _nominated)(value)
            elif fate is not _DROPPED:
                forwarding.append(header)
        if nominated:
            return self.read(replace(request, headers=_without(request.headers, nominated)))
        return Fields(b"".join(kept), hosts, authorizations, forwarding)

    def forwarded(self, request: Request, fields: Fields, prefix: str = "") -> bytes:
        """Return the client's kept fields and the forwarding fields.

        `prefix` is the part that was removed from the path.
        """
        host = fields.hosts[0] if fields.hosts else b""
        return fields.kept + self._forwarding.write(request, host, fields.forwarding, prefix)

    def identity(self, claims: Claims, user: User | None, *, with_status: bool = False) -> bytes:
        """Return the identity header fields for the upstream.

        `with_status`: the route allows users who are not active. Without a user, the id is present and empty.
        """
        lines: list[bytes] = []
        for name, get in self._identity:
            value = encode_value(get(user, claims))
            if value is not None:
                lines += (name, b": ", value, b"\r\n")
        if user is None:
            lines.append(self._missing)
        elif with_status and not self._tells_status:
            lines.append(_line(STATUS_HEADER, user.status.encode()))
        return b"".join(lines)

    def told(self, identity: bytes) -> bytes:
        """Return the identity fields for a front: every name is there, empty where there is no value.

        Many proxies copy a field only when it is there, and would forward a client's own in its place.
        """
        present = {line.partition(b":")[0] for line in identity.split(b"\r\n")}
        return identity + b"".join(_line(name, b"") for name in self.told_names if name not in present)

    def credentials(self, request: Request, fields: Fields) -> bytes:
        """Return Authorization as the client sent it, for routes that forward it."""
        if request.credential is not None:
            return _line(b"Authorization", b"Bearer " + request.credential.raw)
        return b"".join(_line(b"Authorization", value) for value in fields.authorizations)

    def _decide(self, name: bytes) -> _Fate:
        """Decide by the name of a field. The result is remembered, because names recur."""
        lower, folded = name.lower(), fold(name)
        if lower in _FATES:
            fate = _FATES[lower]
        elif folded in HOP_BY_HOP or folded in _FRAMING or folded in self._ours:
            fate = _Fate.DROPPED
        elif folded in _FORWARDING or folded.startswith(b"x-forwarded-"):
            fate = _Fate.FORWARDING if lower == folded else _Fate.DROPPED
        else:
            fate = _Fate.KEPT
        if len(name) <= _MAX_REMEMBERED and len(self._fates) < _MAX_REMEMBERED_NAMES:
            self._fates[name] = fate
        return fate


def _line(name: bytes, value: bytes) -> bytes:
    return b"%b: %b\r\n" % (name, value)


def read_response(headers: Sequence[Header]) -> ResponseFields:
    """Sort an upstream's response fields in one pass.

    Fields for one connection only (RFC 9110 §7.6.1) are dropped, and so is `X-Request-Id`, because the
    gateway sends its own.
    """
    fates = _RESPONSE_FATES
    lines: list[bytes] = []
    lengths: list[bytes] = []
    codings: list[bytes] = []
    trailers: list[bytes] = []
    nominated: frozenset[bytes] = frozenset()
    for name, value in headers:
        fate = fates.get(name) or _decide_on_response(name)
        if fate is _KEPT:
            lines += (name, b": ", value, b"\r\n")
        elif fate is _Fate.LENGTH:
            lengths.append(value)
            lines += (name, b": ", value, b"\r\n")
        elif fate is _Fate.CODING:
            codings.append(value)
        elif fate is _Fate.TRAILER:
            trailers += (name, b": ", value, b"\r\n")
        elif fate is _CONNECTION:
            nominated |= (_usually_nominated if len(value) <= _MAX_REMEMBERED else _nominated)(value)
    if nominated:
        return read_response(_without(headers, nominated))
    if codings:
        # Only a chunked body has trailers, which are passed on with it (RFC 9112 §7.1.2).
        lines += trailers
    return ResponseFields(b"".join(lines), lengths, codings)


_RESPONSE_FATES: Final[dict[bytes, _Fate]] = {}


def _decide_on_response(name: bytes) -> _Fate:
    """Decide by the name of a field. The result is remembered, because names recur."""
    lower, folded = name.lower(), fold(name)
    if lower == b"content-length":
        fate = _Fate.LENGTH
    elif lower == b"transfer-encoding":
        fate = _Fate.CODING
    elif lower == b"connection":
        fate = _Fate.CONNECTION
    elif lower == b"trailer":
        fate = _Fate.TRAILER
    elif folded in HOP_BY_HOP or folded == b"x-request-id":
        fate = _Fate.DROPPED
    else:
        fate = _Fate.KEPT
    if len(name) <= _MAX_REMEMBERED and len(_RESPONSE_FATES) < _MAX_REMEMBERED_NAMES:
        _RESPONSE_FATES[name] = fate
    return fate


def _nominated(connection: bytes) -> frozenset[bytes]:
    """Return the names in a value of Connection, folded: these fields are for one connection only."""
    return frozenset(fold(option.strip(b" \t")) for option in connection.split(b",")) - _UNMOVED


_usually_nominated = lru_cache(maxsize=256)(_nominated)
"""Remembers the usual values of Connection. Long values are not remembered, to bound the memory."""


def _without(headers: Iterable[Header], nominated: frozenset[bytes]) -> tuple[Header, ...]:
    """Return the fields that Connection does not name, without Connection itself."""
    return tuple(
        (name, value)
        for name, value in headers
        if fold(name) not in nominated and name.lower() != b"connection"
    )


def _claims_read(paths: Iterable[str | Computed]) -> Iterator[str]:
    for path in paths:
        if not isinstance(path, str):
            yield from path.claims_read
            continue
        root, _, rest = path.partition(".")
        if root == "claims" and rest not in _CLAIM_FIELDS:
            yield from claims_on(rest)


def _getter(path: str | Computed) -> _Getter:
    """Compile `user.…` or `claims.…` to a function. Raises `ValueError` for any other path."""
    if not isinstance(path, str):
        return lambda user, claims: path.header(claims, user)
    root, _, rest = path.partition(".")
    if root == "user" and rest.startswith("attributes."):
        below = rest.removeprefix("attributes.")
        return lambda user, _: None if user is None else at_path(user.attributes, below)
    if root == "user" and rest in USER_FIELDS:
        read = attrgetter(rest)
        return lambda user, _: None if user is None else read(user)
    if root == "claims" and rest in _CLAIM_FIELDS:
        read = attrgetter(_CLAIM_FIELDS[rest])
        return lambda _, claims: read(claims)
    if root == "claims" and rest:
        return lambda _, claims: at_path(claims.payload, rest)
    raise ValueError(f"{path!r} is neither a field of the user nor a claim")
