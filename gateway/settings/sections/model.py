"""The settings, section by section, with their defaults and texts.

The texts below the fields are the documentation: `gateway schema` and docs/configuration.md are generated
from them. After reading, durations are in seconds and sizes in bytes.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails

from gateway.core.headers import STRIPPED
from gateway.settings.http_values import HeaderName, HealthPath, Pseudonym, StrippedName
from gateway.settings.issuers import presets
from gateway.settings.issuers.model import Claims, Introspection, Issuer, Keys
from gateway.settings.issuers.provisioning import Provisioning
from gateway.settings.listening import SERVER_ADDRESS
from gateway.settings.rules import DEFAULT_IDENTITY, findings
from gateway.settings.sections.admin import Admin
from gateway.settings.sections.assertion import Assertion
from gateway.settings.sections.limits import RequestLimit
from gateway.settings.sections.record import Record
from gateway.settings.sections.routes import Match, Route
from gateway.settings.sections.section import Section
from gateway.settings.sections.upstreams import Upstream
from gateway.settings.urls import POSTGRES_EXAMPLE, REDIS_EXAMPLE, PostgresDsn, ProxyUrl, RedisUrl
from gateway.settings.users.source import UserSource
from gateway.settings.values import (
    MISTAKE,
    AskingNetwork,
    Duration,
    IdentityValue,
    Listen,
    Mode,
    Name,
    Network,
    SchemaName,
    Share,
    Size,
    Timeout,
    Workers,
    address,
    duration,
    mistake,
    size,
)

__all__ = [
    "Admin",
    "Assertion",
    "Claims",
    "Introspection",
    "Issuer",
    "Keys",
    "Limits",
    "Match",
    "Postgres",
    "Provisioning",
    "Record",
    "Redis",
    "RequestLimit",
    "Route",
    "Settings",
    "Tls",
    "Upstream",
]


class Tls(Section):
    """The certificate of the gateway's listener. The gateway reads the files again when they change."""

    certificate: Path | None = None
    """PEM file: the certificate, then its chain."""
    key: Path | None = None
    """PEM file: the certificate's private key."""


class Limits(Section):
    """The limits of one client. Sizes are those of the request on the wire."""

    head_size: Size = size("64KiB")
    """The size of the request line and all header fields; more get 431. The same limit applies to
    trailers."""
    header_count: PositiveInt = 100
    """The number of header fields of a request; more get 431."""
    field_size: Size = size("32KiB")
    """The size of one header field; a longer one gets 431. A token has at most 16 KiB."""
    target_length: Size = size("8KiB")
    """The length of path and query; longer ones get 414."""
    header_timeout: Timeout = duration("10s")
    """The time limit for a request's head, from its first byte; then 408."""
    keepalive_timeout: Timeout = duration("75s")
    """How long a connection may wait for its next request; then it is closed."""
    keepalive_requests: PositiveInt = 10_000
    """The number of requests on one connection. The last response has `Connection: close`."""
    body_size: Size = size("1GiB")
    """The size of a request's body, unless the route has a `max_body`; a larger one gets 413."""
    body_min_rate: Size = size("240B")
    """The lowest rate of a request's body per second; a slower one gets 408. `0B`: no limit."""
    response_min_rate: Size = size("240B")
    """The lowest rate per second at which a client must read a response; a slower one is cut off. `0B`: no
    limit."""
    rate_grace: Timeout = duration("10s")
    """How far, in time, a body may fall behind these two rates."""
    connections_per_client: PositiveInt | None = 1000
    """Connections of one IPv4 address or IPv6 /64; more get 429. Trusted proxies are exempt; `null`: no
    limit."""
    max_connections: PositiveInt = 20_000
    """Connections of all clients; more get 503. Each needs an open file, and so does each to an upstream."""


class Server(Section):
    """The data plane, to which clients connect."""

    listen: Listen = address(SERVER_ADDRESS)
    """Address and port, or `unix:` and a path. Port 0 picks a free one."""
    workers: Workers = "auto"
    """The number of worker processes, or `auto` for one per core."""
    reload: Literal["signal", "watch"] = "signal"
    """When the configuration is read again: `signal` on SIGHUP, `watch` also when the file has changed, for
    example a ConfigMap."""
    shutdown_delay: Duration = duration("0s")
    """How long a stopping gateway still serves while it reports not ready, so that load balancers notice."""
    drain_timeout: Duration = duration("30s")
    """How long requests in flight may take when the gateway stops or reloads; then they are cut off."""
    trusted_proxies: tuple[Network, ...] = ()
    """Networks of proxies whose `X-Forwarded-*` headers are trusted. Those of other clients are removed.

    The client is the last address in `X-Forwarded-For` that is in none of these networks."""
    proxy_protocol: bool = False
    """Connections of trusted proxies begin with a header of the PROXY protocol, version 1 or 2."""
    health_path: HealthPath | None = None
    """A path of this listener that says 200 or 503, as `/readyz` does, without a token. `null`: none."""
    mode: Mode = "enforce"
    """`shadow`: as if each route had `mode: shadow`, for a gateway's first days (docs/policy.md)."""
    limits: Limits = Field(default_factory=Limits)
    """The limits of one client."""
    tls: Tls = Field(default_factory=Tls)
    """Give both files, or neither; without them, the listener speaks plain HTTP."""


class ClientTls(Section):
    """How a server's certificate is checked, in addition to the settings in its URL."""

    strict: bool = False
    """Whether certificates must follow RFC 5280 strictly, for example have an Authority Key Identifier."""


class Jwks(Section):
    """How the gateway fetches and keeps issuers' keys."""

    timeout: Timeout = duration("5s")
    """The time limit of one fetch, from connecting to the last byte."""
    max_stale: Timeout = duration("24h")
    """How long the last keys stay in use while the issuer is unreachable; then its tokens get 503."""
    ca: Path | None = None
    """PEM file with the only authorities to trust, such as a private one. `null`: those of the system."""
    proxy: ProxyUrl | None = None
    """The egress proxy, such as `http://user:password@proxy:3128`. `null`: none, also with `HTTPS_PROXY`."""
    tls: ClientTls = Field(default_factory=ClientTls)
    """For issuers at `https` URLs."""


class Postgres(Section):
    """The system of record: users, identities, revocations."""

    dsn: PostgresDsn = Field(examples=[POSTGRES_EXAMPLE])
    """`postgresql://user@host:port/database`. Of several hosts, `h1:p1,h2:p2`, the gateway uses the
    primary."""
    replica_dsn: PostgresDsn | None = None
    """A read replica, which is asked for users first. The primary is asked if the replica fails or lags."""
    listen_dsn: PostgresDsn | None = None
    """The primary without PgBouncer's transaction pooling, for the change stream. `null`: `dsn`."""
    schema_name: SchemaName = Field("public", alias="schema")
    """The schema of the tables."""
    pool_min: Annotated[int, Field(ge=0)] = 2
    """The connections that each worker keeps open."""
    pool_max: PositiveInt = 10
    """The largest number of connections of each worker."""
    connect_timeout: Timeout = duration("2s")
    """The time limit for getting a connection, new or from the pool."""
    statement_timeout: Timeout = duration("1s")
    """The time limit of one query."""
    tls: ClientTls = Field(default_factory=ClientTls)
    """For a DSN whose `sslmode` verifies the server's certificate."""
    prepared_statements: Literal["auto", "named", "unnamed"] = "auto"
    """`named`: kept per session. `unnamed`: one per transaction, for poolers. `auto`: detected."""


class Users(Section):
    """How the gateway looks up users."""

    creation_grace: Duration = duration("10s")
    """If no user is found for a token issued less than this ago, the primary is asked, too."""
    source: UserSource | None = None
    """The tables of another system that has the users (docs/existing-users.md). `null`: the gateway's own."""


class Redis(Section):
    """The shared tier: cached users and the blacklist."""

    url: RedisUrl = Field(examples=[REDIS_EXAMPLE])
    """`redis://host:port/db`, `rediss://`, `unix://`, `redis+sentinel://hosts/service/db`, `redis+cluster://hosts`."""
    prefix: str = "gateway:"
    """The prefix of every key, so that several gateways can share one Redis."""
    connect_timeout: Timeout = duration("1s")
    """The time limit for connecting."""
    timeout: Timeout = duration("250ms")
    """The time limit of one command; then Postgres is asked."""
    tls: ClientTls = Field(default_factory=ClientTls)
    """For `rediss` URLs."""


class Cache(Section):
    """How long and how many answers the gateway remembers."""

    local_ttl: Duration = duration("30s")
    """How long a worker remembers users that it has read from Postgres and that Redis does not have yet."""
    user_ttl: Duration = duration("5m")
    """How long users stay in Redis. A change counts after this time at the latest, even without
    invalidation."""
    negative_ttl: Duration = duration("5s")
    """How long the answer that there is no such user is remembered."""
    stale_if_error: Duration = duration("5m")
    """How much longer a known user is served while Postgres is down."""
    max_users: PositiveInt = 50_000
    """The number of users that each worker remembers."""
    max_tokens: PositiveInt = 50_000
    """The number of verified tokens that each worker remembers, by their SHA-256."""
    max_budgets: PositiveInt = 100_000
    """The number of users, clients and so on that each worker remembers for each of `limits`."""


class Revocation(Section):
    """How the gateway decides when it cannot check revocations."""

    on_unavailable: Literal["deny", "allow"] = "deny"
    """With Redis and Postgres both down: `deny` answers 503, `allow` admits known users without the check."""


class Errors(Section):
    """What clients learn about a denial."""

    detail: Literal["generic", "full"] = "generic"
    """`generic` hides which users exist. `full` gives clients the exact reason: for test environments."""


class Log(Section):
    """The log: JSON, one event per line, on stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest level to log."""
    access: bool = False
    """Log one line per request. Denials are logged in any case; floods of bad tokens share lines."""
    access_format: Literal["json", "ecs", "common", "combined"] = "json"
    """The form of those lines: an event like all others, JSON with the names of the Elastic Common Schema, or
    the Common or Combined Log Format (docs/operations.md#logs)."""
    access_output: Literal["stderr", "stdout"] = "stderr"
    """Where those lines go, if their form is not `json`."""
    denial_level: Literal["warning", "info"] = "warning"
    """The level at which denials are logged."""
    denial_sample: Share = 1.0
    """The share of the denials that are logged, drawn at random. Metrics and `/v1/denials` have all."""
    subjects: Literal["hashed", "plain", "none"] = "hashed"
    """How subjects appear. `hashed`: the same subject has the same hash, and is not named."""


class Tracing(Section):
    """Traces for OpenTelemetry, which its own variables configure (docs/tracing.md)."""

    user_id: bool = False
    """Whether the spans of requests have the id of the user (`user.id`)."""


class Headers(Section):
    """The identity headers for upstreams."""

    identity: dict[HeaderName, IdentityValue] = Field(default_factory=lambda: dict(DEFAULT_IDENTITY))
    """The headers for upstreams, and their sources. The gateway removes a client's own in any spelling."""
    forward_authorization: bool = False
    """Also send the token to the upstream, unless the route says otherwise."""
    forwarded: bool = False
    """Also send `Forwarded` (RFC 7239), and continue that of a trusted proxy."""
    x_real_ip: bool = False
    """Also send `X-Real-IP` with the client's address."""
    via: Pseudonym | None = None
    """The gateway's name in the `Via` header for upstreams (RFC 9110 §7.6.3). `null`: no `Via` of its own."""
    strip: tuple[StrippedName, ...] = STRIPPED
    """Headers of clients that are removed, in any spelling, besides those of `identity`."""


class Decision(Section):
    """The decision listener, where other proxies ask for the verdict (docs/front-doors.md)."""

    listen: Listen | None = None
    """Address and port, or `unix:` and a path; `null`: off. All that can open a Unix socket may ask."""
    grpc_listen: Listen | None = None
    """Address and port for Envoy's gRPC (`gateway[grpc]`). `null`: off."""
    trusted_proxies: tuple[AskingNetwork, ...] = ()
    """Networks of the proxies that may ask, and may describe the original request. Others get 403."""


class Settings(Section):
    """The whole configuration."""

    server: Server = Field(default_factory=Server)
    decision: Decision = Field(default_factory=Decision)
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
    tracing: Tracing = Field(default_factory=Tracing)
    headers: Headers = Field(default_factory=Headers)
    assertion: Assertion | None = None
    limits: tuple[RequestLimit, ...] = ()
    record: Record | None = None
    upstreams: dict[Name, Upstream] = Field(examples=[{"orders": {"urls": ["http://127.0.0.1:9000"]}}])
    routes: Annotated[tuple[Route, ...], Field(min_length=1)]

    @model_validator(mode="wrap")
    @classmethod
    def _all_mistakes_at_once(
        cls, data: object, handler: ModelWrapValidatorHandler["Settings"]
    ) -> "Settings":
        """Unfold presets, and check the rules between fields, even when single fields are wrong, too."""
        data, of_presets = presets.unfolded(data)
        errors = [
            InitErrorDetails(type=mistake(found.message, found.hint, found.at), loc=found.where, input=None)
            for found in (*of_presets, *findings(data))
        ]
        try:
            settings = handler(data)
        except ValidationError as invalid:
            errors = [*map(_repeated, invalid.errors(include_input=False)), *errors]
        else:
            if not errors:
                return settings
        # Without a cause: the list contains the errors of the fields, and pydantic would print them twice.
        raise ValidationError.from_exception_data(cls.__name__, errors, hide_input=True) from None


def _repeated(error: ErrorDetails) -> InitErrorDetails:
    """Copy an error into another ValidationError, without the value that caused it."""
    context = error.get("ctx", {})
    if error["type"] == MISTAKE:
        return InitErrorDetails(type=mistake(**context), loc=error["loc"], input=None)
    return InitErrorDetails(type=error["type"], loc=error["loc"], input=None, ctx=context)
