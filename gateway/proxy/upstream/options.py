"""The settings of an upstream as values. Durations are seconds; `dial` reads the files."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TlsRules:
    """How the gateway verifies an https upstream, and identifies itself to it."""

    verify: bool = True
    """Whether the certificate must be valid, and for the upstream's name."""
    ca: Path | None = None
    """PEM file with the only authorities to trust; None: those of the system."""
    certificate: Path | None = None
    """PEM file with the gateway's client certificate, for an upstream that asks for one."""
    key: Path | None = None
    """PEM file with its private key; None: the key is in the same file."""
    server_name: str | None = None
    """The name to send (SNI, RFC 6066 §3) and to verify in the certificate; None: the host of the URL."""
    strict: bool = False
    """Whether certificates must follow RFC 5280 strictly."""


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """Active health checks."""

    path: str
    interval: float = 10.0
    timeout: float = 2.0
    healthy_after: int = 2
    """Successful checks in a row until an endpoint gets requests again."""
    unhealthy_after: int = 3
    """Failed checks in a row until an endpoint gets no more requests."""


@dataclass(frozen=True, slots=True)
class Ejection:
    """Outlier detection: when and how long a failing endpoint is ejected."""

    failures: int = 3
    """Failures in a row until the endpoint is ejected. 0: never."""
    base_time: float = 1.0
    """The time of the first ejection. It doubles with each ejection, until a request succeeds."""
    max_time: float = 60.0


@dataclass(frozen=True, slots=True)
class UpstreamRules:
    """The addresses of an upstream, and its timeouts, limits and checks."""

    name: str
    urls: tuple[str, ...]
    """`http://host:port`, `https://host:port` or `unix:/path`."""
    connect_timeout: float = 2.0
    """How long to wait for a connection: for a look-up, for opening one, or for a free one."""
    response_timeout: float = 30.0
    """From the end of the request to the head of its response."""
    idle_timeout: float = 300.0
    """The longest silence within a body, in either direction; a stream has no other limit."""
    keep_alive: float = 4.0
    """How long to keep an idle connection. Most servers close theirs after 5 s or more."""
    max_age: float = 600.0
    """The age at which a connection is replaced, so that traffic follows changes behind one address."""
    max_connections: int = 1024
    """The largest number of connections to each endpoint."""
    max_pending: int = 1024
    """Requests that wait for a connection to each endpoint."""
    retry_budget: float = 0.2
    """Retries as a share of the requests of the last 10 s; 0: no retries."""
    ejection: Ejection = field(default_factory=Ejection)
    dns_ttl: float = 30.0
    """How often names are resolved again."""
    buffer_requests: int | None = None
    """The largest chunked body that is awaited, to be sent with its length; None: none is."""
    host: str = "preserve"
    """The Host header: `preserve` (the client's), `upstream` (the URL's), or this host."""
    tls: TlsRules = field(default_factory=TlsRules)
    health_check: HealthCheck | None = None
