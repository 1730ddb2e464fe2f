"""The words of the house as values: frozen, slotted, valid once they exist.

Times are Unix seconds (float), durations are seconds (float), sizes are bytes.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from gateway.core.conditions import Condition

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
Scalar: TypeAlias = bool | int | float | str
"""A value that a claim can be compared with."""

Header: TypeAlias = tuple[bytes, bytes]
"""A header field as it stood on the wire: name and value, neither decoded nor folded."""


class Tier(StrEnum):
    """Where an answer came from."""

    LOCAL = "local"
    REDIS = "redis"
    POSTGRES = "postgres"


class UserStatus(StrEnum):
    """The life of a user; only `active` may pass, unless a route says `allow_inactive`."""

    ACTIVE = "active"
    PENDING = "pending"
    SUSPENDED = "suspended"
    LOCKED = "locked"
    DELETED = "deleted"


class Auth(StrEnum):
    """What a route asks of a request's credentials.

    `optional` lets a request without credentials through, without a user; credentials that are
    present must still be good. `none` does not look at them.
    """

    REQUIRED = "required"
    OPTIONAL = "optional"
    NONE = "none"


class MissingUser(StrEnum):
    """What becomes of a verified token that no user is behind.

    `deny` refuses it. `forward` lets it through without a user, and tells the upstream so. `provision`
    creates the user, if the issuer's `provisioning` allows it.
    """

    DENY = "deny"
    FORWARD = "forward"
    PROVISION = "provision"


@dataclass(frozen=True, slots=True)
class Identity:
    """The pair that names a user to an issuer (RFC 7519 §4.1.2); never `sub` alone."""

    issuer: str
    subject: str


NO_ATTRIBUTES: Final[Mapping[str, JSON]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class User:
    """The row behind an identity; one user may have several identities."""

    id: str
    status: UserStatus
    tenant: str | None = None
    email: str | None = None
    display_name: str | None = None
    roles: tuple[str, ...] = ()
    attributes: Mapping[str, JSON] = field(default_factory=lambda: NO_ATTRIBUTES)
    tokens_valid_after: float | None = None
    """Tokens issued at or before this instant are refused; None refuses none."""
    valid_until: float | None = None
    """When time alone may change this state, such as the end of a ban; None: never."""


@dataclass(frozen=True, slots=True)
class TenantPath:
    """Where an issuer keeps the tenant."""

    path: str = "tenant_id"
    optional: bool = True
    """Whether tokens without a tenant are accepted. A tenant that is not there is not compared."""


@dataclass(frozen=True, slots=True)
class ClaimPaths:
    """Where an issuer keeps what the standards leave open: paths into its tokens (`tokens.claim_paths`)."""

    tenant: TenantPath | None = TenantPath()
    """None: the tenant is that of the issuer's pattern."""
    scopes: tuple[str, ...] = ("scope",)
    """What is found at all of them is joined."""
    roles: tuple[str, ...] = ("roles",)

    def by_setting(self) -> tuple[tuple[str, str], ...]:
        """Return each path with the setting that it stands in."""
        tenant = () if self.tenant is None else (("claims.tenant", self.tenant.path),)
        scopes = (("claims.scopes", path) for path in self.scopes)
        return (*tenant, *scopes, *(("claims.roles", path) for path in self.roles))


@dataclass(frozen=True, slots=True)
class Provisioning:
    """Which users are created from an issuer's tokens (`core.provisioning`): paths into them, and roles."""

    email: str | None = None
    display_name: str | None = None
    tenant: str | None = None
    """None: the tenant of the token, as `ClaimPaths` finds it."""
    roles: tuple[str, ...] = ()
    """Given to each user that is created."""
    when: Mapping[str, tuple[Scalar, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """Path → the values that are accepted there; all must hold."""
    condition: Condition | None = None
    """What must be true of the claims, in place of `when`."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """A configured, trusted token issuer and what its tokens must look like."""

    name: str
    """Unique label: in metrics, and in the keys of the blacklist."""
    issuer: str
    """The exact `iss` of its tokens, or a pattern of it (`core.tokens.issuer_patterns`)."""
    audiences: frozenset[str] | None
    """None: `aud` is not compared; `expect` names the client instead."""
    algorithms: frozenset[str]
    """JWS algorithms (RFC 7518 §3.1) its tokens may be signed with."""
    leeway: float = 30.0
    require: frozenset[str] = frozenset({"exp", "sub"})
    """Paths."""
    max_lifetime: float | None = None
    subject: str = "sub"
    """The path of the claim that names the user."""
    claims: ClaimPaths = ClaimPaths()
    scope_separator: str = " "
    expect: Mapping[str, tuple[Scalar, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """Path → the values that are accepted there; all must hold."""
    token_types: frozenset[str] | None = None
    """Accepted `typ` of the header, as `token_types.media_type` writes it; None: none, JWT and at+jwt."""
    id_tokens: Literal["deny", "allow"] = "deny"
    allow_unbound: bool = False
    """Whether tokens that are bound to a key of their client (`cnf`, RFC 7800) are accepted without proof."""
    provisioning: Provisioning | None = None
    """None: its tokens create no user."""
    tenants: frozenset[str] | Literal["any"] | None = None
    """The tenants of a pattern; None without one."""
    tenant: str | None = None
    """The one whose tokens are looked at; `issuer` is then its `iss`."""

    @property
    def realm(self) -> str:
        """The name of its keys, and of what is known of its users: that of the tenant, if there is one."""
        return self.name if self.tenant is None else f"{self.name}/{self.tenant}"


@dataclass(frozen=True, slots=True)
class Claims:
    """The verified claims of one token (RFC 7519 §4.1)."""

    issuer: str
    issuer_name: str
    """The configured name: the metrics label."""
    subject: str
    audiences: tuple[str, ...]
    expires_at: float | None
    issued_at: float | None
    jti: str | None
    tenant: str | None
    scopes: tuple[str, ...]
    roles: tuple[str, ...]
    payload: Mapping[str, JSON]
    """Claims as the token carried them: all, or those that the configuration uses."""
    leeway: float = 0.0
    """How far the issuer's clock and ours may differ."""
    realm: str = ""
    """`Issuer.realm`: the name that keys, cached users and revocations go by; empty: `issuer_name`."""

    def __post_init__(self) -> None:
        if not self.realm:
            object.__setattr__(self, "realm", self.issuer_name)

    @property
    def issuer_names(self) -> tuple[str, ...]:
        """The names under which revocations of its issuer count: the realm, and what all tenants have."""
        return (self.realm,) if self.realm == self.issuer_name else (self.realm, self.issuer_name)

    @property
    def identity(self) -> Identity:
        return Identity(self.issuer, self.subject)

    @property
    def good_until(self) -> float | None:
        """When the token expires, leeway included; None when it never does."""
        return None if self.expires_at is None else self.expires_at + self.leeway


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a route asks of the user and the token, beyond being good."""

    scopes: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    """Of the user."""
    tenant: str | None = None
    token_roles: frozenset[str] = frozenset()
    condition: Condition | None = None
    """What else must be true (`core.conditions`)."""
    condition_shadow: bool = False
    """Whether requests that do not meet it pass, and are counted (`core.shadow`)."""


@dataclass(frozen=True, slots=True)
class CredentialSources:
    """Where a token may come from, beside Authorization, and who may send it along unasked."""

    cookie: str | None = None
    query: str | None = None
    """The name of a parameter."""
    subprotocol: str | None = None
    """What announces the token among the WebSocket subprotocols: `name, <token>` or `name.<token>`."""
    allowed_origins: frozenset[str] = frozenset()
    """Origins (RFC 6454) besides the request's own host whose pages may use the cookie. Lower case."""


@dataclass(frozen=True, slots=True)
class Cors:
    """The pages of other origins that may use a route (`core.requests.cors`)."""

    origins: frozenset[str]
    """As browsers send them; `*` any."""
    methods: frozenset[str] = frozenset()
    """Empty: those of the route."""
    headers: frozenset[str] = frozenset()
    """Fields that pages may send, beside those of every request with a token; `*` any."""
    expose: frozenset[str] = frozenset()
    """Response fields that pages may read."""
    credentials: bool = False
    """Whether pages may have cookies sent along."""
    max_age: float = 600.0
    """Seconds for which a browser may remember the answer to a preflight."""


@dataclass(frozen=True, slots=True)
class Route:
    """What a request matches: where it goes and what it must satisfy."""

    name: str
    path: str
    """A pattern: `*` stands for one segment, a final `**` for the rest, none included."""
    upstream: str | None
    """None: other proxies ask for decisions, and nothing is forwarded."""
    methods: frozenset[str] = frozenset()
    """Empty: any method."""
    hosts: frozenset[str] = frozenset()
    """Lower case, without port; `*.` before a name: all names below it. Empty: any host."""
    auth: Auth = Auth.REQUIRED
    require: Requirement = Requirement()
    allow_inactive: bool = False
    """Whether users of any status may use it; the upstream is told the status."""
    missing_user: MissingUser = MissingUser.DENY
    credentials: CredentialSources | None = None
    """None: tokens come in Authorization alone."""
    upgrades: frozenset[str] = frozenset({"websocket"})
    """Protocols that a connection may be switched to (RFC 9110 §7.8), in lower case; `*` any."""
    tunnel_timeout: float = 3600.0
    """Seconds that a switched connection may be silent both ways."""
    strip_prefix: str = ""
    """The first segments of `path`, without which it is forwarded."""
    base_path: str = ""
    """The path of the upstream's URL, which is put before that; without a final slash."""
    allow: frozenset[str] = frozenset()
    """The `core.routes.LIBERTIES` that its paths may take."""
    forward_authorization: bool = False
    """Whether the upstream gets Authorization: the token, or without one what the client sent."""
    max_body: int = 1024**3
    """The most bytes that a request's body may have."""
    close_on_revocation: bool = True
    """Whether a tunnel or a long response ends when a new request of its caller would be refused."""
    cors: Cors | None = None
    """None: pages of other origins can read no response, unless the upstream lets them."""
    shadow: bool = False
    """Whether requests that would be refused pass, and are counted (`core.shadow`)."""

    @property
    def audience(self) -> str:
        """The name of the service that assertions are for: the upstream, or the route if a front forwards."""
        return self.upstream or self.name


@dataclass(slots=True)
class Credential:
    """A raw bearer token, and the digest that it is remembered by. It is never changed."""

    raw: bytes
    digest: bytes
    """The SHA-256 of its bytes."""

    @classmethod
    def of(cls, raw: bytes) -> "Credential":
        return cls(raw, hashlib.sha256(raw).digest())


@dataclass(slots=True)
class Request:
    """The head of a client's request as it stood on the wire (RFC 9112 §3).

    It is never changed; freezing an object that each request makes would cost more than all else of it.
    """

    method: str
    target: str
    """The request-target: path and query, undecoded."""
    headers: tuple[Header, ...]
    peer: str
    """The address of the connection's other end, not of whom it claims to speak for."""
    scheme: Literal["http", "https"]
    id: str
    """The request id: in the answer, in the log, and upstream."""
    may_upgrade: bool = False
    """True for HTTP/1.1 without a body, whose connection may be switched (RFC 9110 §7.8)."""
    recurring: object | None = None
    """The same object each time that this head comes, whatever its token; None for one that is new."""
    credential: Credential | None = None
    """The bearer token, where it is another one than in `headers`: the rest of the head came before."""
    spoken_for: str | None = None
    """The client that a trusted proxy speaks for; None: the peer speaks for itself."""
    trace: int = field(init=False, repr=False, compare=False)
    """The number of its trace, if that began here. Else it is not set: see `requests.trace_context`."""

    @property
    def client(self) -> str:
        """The address of the client, by which logs, limits and conditions go; empty on a Unix socket."""
        return self.spoken_for or self.peer


RevocationKind: TypeAlias = Literal["jti", "user", "issuer"]


@dataclass(frozen=True, slots=True)
class Resolution:
    """What the identity tiers know of one token's user at this moment."""

    user: User | None
    """None: there is no such user, and a store that is up said so."""
    tier: Tier
    """Where `user` came from."""
    revoked: RevocationKind | None
    """The kind of the revocation that hits this token, if any does."""
    revocation_tier: Tier | None
    """Where `revoked` came from; None when no store could be asked and the operator allows that."""
    stale: bool = False
    """True when `user` is older than the cache's time, because the store behind it is down."""


@dataclass(slots=True)
class Validity:
    """How long an answer from memory is valid: until its time is over, or a change concerns it."""

    claims: Claims
    answer: Resolution
    until: float
    """By the clock of the local tier."""
    ticket: int
    """No change that was received up to here concerns it."""


class StoreUnavailable(Exception):
    """A store could not be asked: refused, timed out, failing over, not migrated.

    Never means that a user does not exist.
    """

    def __init__(self, store: Tier, detail: str) -> None:
        super().__init__(f"{store} is unavailable: {detail}")
        self.store = store
        self.detail = detail


class RecordUnusable(StoreUnavailable):
    """A store answered with a record that cannot be read: nothing older may stand in for what it says now."""
