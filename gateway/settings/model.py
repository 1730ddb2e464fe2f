"""Every setting, section by section, with its default and its meaning.

The texts below the fields are the documentation: `gateway schema` and docs/configuration.md are
made from them. Durations are seconds and sizes are bytes once read.
"""

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    PositiveInt,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails

from gateway.settings.routes import Match, Route
from gateway.settings.rules import ASYMMETRIC_ALGORITHMS, AsymmetricAlgorithm, findings
from gateway.settings.section import Section
from gateway.settings.upstreams import Upstream
from gateway.settings.urls import POSTGRES_EXAMPLE, REDIS_EXAMPLE, KeyUrl, PostgresDsn, RedisUrl
from gateway.settings.values import (
    MISTAKE,
    AdminToken,
    ClaimPath,
    Duration,
    HeaderName,
    IdentityValue,
    Listen,
    Name,
    Network,
    SchemaName,
    Size,
    Text,
    Timeout,
    Workers,
    address,
    duration,
    mistake,
    size,
)

__all__ = ["Issuer", "Limits", "Match", "Postgres", "Redis", "Route", "Settings", "Tls", "Upstream"]

Algorithm: TypeAlias = Literal[AsymmetricAlgorithm, "HS256", "HS384", "HS512"]


class Tls(Section):
    """A certificate for the gateway's own listener; read again when its files change."""

    certificate: Path | None = None
    """PEM file: the certificate, then its chain."""
    key: Path | None = None
    """PEM file: the certificate's private key."""


class Limits(Section):
    """What one client may take of a worker. Sizes are of the request as it stands on the wire."""

    head_size: Size = size("64KiB")
    """Request line and all header fields together; more gets 431. Trailers have as much."""
    header_count: PositiveInt = 100
    """Header fields of one request; more get 431."""
    field_size: Size = size("32KiB")
    """One header field; a longer one gets 431. A token has at most 16 KiB."""
    target_length: Size = size("8KiB")
    """Path and query; longer ones get 414."""
    header_timeout: Timeout = duration("10s")
    """The longest that a request's head may take from its first byte; then 408."""
    keepalive_timeout: Timeout = duration("75s")
    """The longest that a connection may wait for its next request; then it is closed."""
    keepalive_requests: PositiveInt = 10_000
    """Requests on one connection; the last one is answered with `Connection: close`."""
    body_size: Size = size("1GiB")
    """A request's body, unless the route has a `max_body`; a larger one gets 413."""
    body_min_rate: Size = size("240B")
    """Bytes per second that a request's body must bring; slower ones get 408. `0B` asks for none."""
    response_min_rate: Size = size("240B")
    """Bytes per second that a client must take of what waits for it, or it is cut off. `0B` asks for none."""
    rate_grace: Timeout = duration("10s")
    """How far a body may fall behind these two rates."""
    connections_per_client: PositiveInt | None = 1000
    """Connections of one IPv4 address or IPv6 /64; more get 429. Not of trusted proxies; `null`: no limit."""
    max_connections: PositiveInt = 20_000
    """Connections of all clients; the next gets 503. Needs as many open files, and more for upstreams."""


class Server(Section):
    """The data plane: where clients connect."""

    listen: Listen = address("0.0.0.0:8080")
    """Address and port, 0 for a free one; or `unix:` and the path of a Unix socket."""
    workers: Workers = "auto"
    """Processes that serve: a number, or `auto` for one per core."""
    shutdown_delay: Duration = duration("0s")
    """When told to stop: how long to be not ready but to serve on, so that load balancers notice."""
    drain_timeout: Duration = duration("30s")
    """When told to stop or to reload: how long requests in flight may take before they are cut off."""
    trusted_proxies: tuple[Network, ...] = ()
    """Networks of proxies in front, whose `X-Forwarded-*` are believed; from anyone else they are dropped."""
    limits: Limits = Field(default_factory=Limits)
    """What one client may take."""
    tls: Tls = Field(default_factory=Tls)
    """Both files, or neither: then the listener speaks plain HTTP."""


class Admin(Section):
    """The control plane, on a port of its own: health, metrics, the admin API and the console."""

    listen: Listen = address("127.0.0.1:9901")
    """Address and port, or `unix:` and a path; keep it off the public network."""
    token: AdminToken | None = None
    """The bearer token of the admin API (docs/admin-api.md), off without one. 16 characters or more."""


class Keys(Section):
    """Where an issuer's keys come from: exactly one of these."""

    discovery: bool = False
    """Ask the issuer: OpenID Connect discovery, then RFC 8414 metadata. The issuer must be a URL."""
    jwks_uri: KeyUrl | None = None
    """URL of a JWK set (RFC 7517)."""
    jwks_file: Path | None = None
    """File with a JWK set."""
    pem_file: Path | None = None
    """PEM file with one public key or certificate."""
    secret: SecretStr | None = None
    """Shared secret for HS*; at least as long as the hash: 32, 48 or 64 bytes (RFC 7518 §3.2)."""
    secret_file: Path | None = None
    """File with the shared secret; a newline at its end is not part of it."""


class Claims(Section):
    """Where this issuer keeps what the standards leave open: dotted paths into its tokens."""

    tenant: ClaimPath = "tenant_id"
    """The tenant; when token and user both have one, they must agree."""
    scopes: ClaimPath = "scope"
    """The scopes: one string with spaces, or a list."""
    roles: ClaimPath = "roles"
    """The roles the token claims. Routes ask for the user's roles, not for these."""


def _fitting_algorithms(data: dict[str, object]) -> tuple[Algorithm, ...]:
    keys = data.get("keys")
    if isinstance(keys, Keys) and (keys.secret is not None or keys.secret_file is not None):
        return ("HS256",)
    return ASYMMETRIC_ALGORITHMS


class Issuer(Section):
    """A trusted token issuer and what its tokens must look like."""

    name: Name = Field(examples=["main"])
    """Unique; the metrics label, and part of the blacklist's keys: keep it stable."""
    issuer: Text = Field(examples=["https://idp.example.com/"])
    """The exact `iss` of its tokens; a trailing slash counts."""
    audiences: tuple[Text, ...] = Field(min_length=1, examples=[["orders-api"]])
    """A token must be meant for one of these (`aud`)."""
    keys: Keys = Field(default_factory=lambda: Keys(discovery=True))
    """Where the keys come from; when left out, `{discovery: true}`."""
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1)] = Field(
        default_factory=_fitting_algorithms
    )
    """Accepted signature algorithms (RFC 7518 §3.1). Default: RS*, PS*, ES*, EdDSA; with a secret HS256."""
    leeway: Duration = duration("30s")
    """How far the clocks of issuer and gateway may differ."""
    require: tuple[Text, ...] = ("exp", "sub")
    """Claims that must be there."""
    max_lifetime: Timeout | None = None
    """Refuse tokens whose `exp` − `iat` is longer; `null` accepts any."""
    claims: Claims = Field(default_factory=Claims)
    """Where tenant, scopes and roles are in its tokens."""


class ClientTls(Section):
    """How the certificate of a server is checked, beside what its URL says."""

    strict: bool = False
    """Whether certificates must follow RFC 5280 to the letter, as with an Authority Key Identifier."""


class Jwks(Section):
    """How issuers' keys are fetched and kept."""

    timeout: Timeout = duration("5s")
    """The longest that one fetch may take, from connecting to the last byte."""
    max_stale: Timeout = duration("24h")
    """How long the last good keys serve when an issuer cannot be reached; then its tokens get 503."""
    tls: ClientTls = Field(default_factory=ClientTls)
    """For issuers at `https` URLs."""


class Postgres(Section):
    """The system of record: users, identities, revocations."""

    dsn: PostgresDsn = Field(examples=[POSTGRES_EXAMPLE])
    """`postgresql://user@host:port/database`; of several hosts, `h1:p1,h2:p2`, the primary is used."""
    replica_dsn: PostgresDsn | None = None
    """A read replica, asked for users first; the primary is asked when that fails or lags."""
    listen_dsn: PostgresDsn | None = None
    """The primary, past a PgBouncer that pools transactions, to hear of changes; `null` takes `dsn`."""
    schema_name: SchemaName = Field("public", alias="schema")
    """The schema of the tables."""
    pool_min: Annotated[int, Field(ge=0)] = 2
    """Connections that each worker keeps open."""
    pool_max: PositiveInt = 10
    """Connections that each worker may open."""
    connect_timeout: Timeout = duration("2s")
    """The longest wait for a connection, be it a new one or a free one of the pool."""
    statement_timeout: Timeout = duration("1s")
    """The longest that one query may take."""
    tls: ClientTls = Field(default_factory=ClientTls)
    """For a DSN whose `sslmode` has the server's certificate verified."""
    prepared_statements: Literal["auto", "named", "unnamed"] = "auto"
    """`named`: kept by a session. `unnamed`: in a transaction each, for poolers. `auto` finds out which."""


class Users(Section):
    """How users are looked up."""

    creation_grace: Duration = duration("10s")
    """How long after a token was issued its user may still be about to appear; a miss is then looked into."""


class Redis(Section):
    """The shared tier: cached users and the blacklist."""

    url: RedisUrl = Field(examples=[REDIS_EXAMPLE])
    """`redis://host:port/db`, `rediss://`, `unix://`, `redis+sentinel://hosts/service/db`, `redis+cluster://hosts`."""
    prefix: str = "gateway:"
    """In front of every key, so that several gateways can share one Redis."""
    connect_timeout: Timeout = duration("1s")
    """The longest wait for a new connection."""
    timeout: Timeout = duration("250ms")
    """The longest that one command may take; then Postgres is asked."""
    tls: ClientTls = Field(default_factory=ClientTls)
    """For `rediss` URLs."""


class Cache(Section):
    """How long answers are remembered, and how many."""

    local_ttl: Duration = duration("30s")
    """Users that this process has just asked Postgres for, when Redis does not have them yet."""
    user_ttl: Duration = duration("5m")
    """Users in Redis; the longest until a changed user is seen when no invalidation arrives."""
    negative_ttl: Duration = duration("5s")
    """The answer that there is no such user."""
    stale_if_error: Duration = duration("5m")
    """How much longer a known user is served when Postgres is down."""
    max_users: PositiveInt = 50_000
    """Users remembered per worker."""
    max_tokens: PositiveInt = 50_000
    """Verified tokens remembered per worker, by their SHA-256."""


class Revocation(Section):
    """What happens when revocations cannot be checked."""

    on_unavailable: Literal["deny", "allow"] = "deny"
    """With Redis and Postgres both down: `deny` answers 503, `allow` lets known users pass unchecked."""


class Errors(Section):
    """What clients are told."""

    detail: Literal["generic", "full"] = "generic"
    """`generic` hides who exists; `full` tells clients the exact reason: for test environments."""


class Log(Section):
    """What is logged: JSON, one event a line, to stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe events to log."""
    access: bool = False
    """One line per request; denials are logged in any case."""
    subjects: Literal["hashed", "plain", "none"] = "hashed"
    """How subjects appear: `hashed` finds a user again without naming them."""


class Headers(Section):
    """What upstreams are told of the user."""

    identity: dict[HeaderName, IdentityValue] = Field(
        default_factory=lambda: {
            "X-User-Id": "user.id",
            "X-User-Roles": "user.roles",
            "X-User-Tenant": "user.tenant",
            "X-Auth-Issuer": "claims.iss",
            "X-Auth-Subject": "claims.sub",
            "X-Auth-Scopes": "claims.scopes",
        }
    )
    """Headers added upstream and their sources; clients cannot send them, in any spelling."""
    forward_authorization: bool = False
    """Send the token itself upstream as well."""


class Settings(Section):
    """The whole configuration."""

    server: Server = Field(default_factory=Server)
    admin: Admin = Field(default_factory=Admin)
    issuers: Annotated[tuple[Issuer, ...], Field(min_length=1)]
    jwks: Jwks = Field(default_factory=Jwks)
    postgres: Postgres
    users: Users = Field(default_factory=Users)
    redis: Redis
    cache: Cache = Field(default_factory=Cache)
    revocation: Revocation = Field(default_factory=Revocation)
    errors: Errors = Field(default_factory=Errors)
    log: Log = Field(default_factory=Log)
    headers: Headers = Field(default_factory=Headers)
    upstreams: dict[Name, Upstream] = Field(
        min_length=1, examples=[{"orders": {"urls": ["http://127.0.0.1:9000"]}}]
    )
    routes: Annotated[tuple[Route, ...], Field(min_length=1)]

    @model_validator(mode="wrap")
    @classmethod
    def _all_mistakes_at_once(
        cls, data: object, handler: ModelWrapValidatorHandler["Settings"]
    ) -> "Settings":
        """Check what one field cannot know alone, even when single fields are wrong too."""
        errors = [
            InitErrorDetails(type=mistake(found.message, found.hint), loc=found.where, input=None)
            for found in findings(data)
        ]
        try:
            settings = handler(data)
        except ValidationError as invalid:
            errors = [*map(_repeated, invalid.errors(include_input=False)), *errors]
        else:
            if not errors:
                return settings
        # Without a cause: the errors of the fields are in the list, and pydantic would print them twice.
        raise ValidationError.from_exception_data(cls.__name__, errors, hide_input=True) from None


def _repeated(error: ErrorDetails) -> InitErrorDetails:
    """Carry an error over into another ValidationError, without the value that caused it."""
    context = error.get("ctx", {})
    if error["type"] == MISTAKE:
        return InitErrorDetails(type=mistake(**context), loc=error["loc"], input=None)
    return InitErrorDetails(type=error["type"], loc=error["loc"], input=None, ctx=context)
