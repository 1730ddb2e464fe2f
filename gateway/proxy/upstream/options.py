"""What an operator chose for an upstream, as values: durations are seconds, files are read by `dial`."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TlsRules:
    """How the gateway verifies an https upstream, and identifies itself to it."""

    verify: bool = True
    """Whether its certificate must be valid, and for its name."""
    ca: Path | None = None
    """PEM file of the only authorities to trust; None trusts those of the system."""
    certificate: Path | None = None
    """PEM file with the gateway's client certificate, for an upstream that asks for one."""
    key: Path | None = None
    """PEM file of its private key; None when it is in the same file."""
    server_name: str | None = None
    """The name to ask for (SNI, RFC 6066 §3) and to find in its certificate; None: that of the URL."""
    strict: bool = False
    """Whether certificates must follow RFC 5280 to the letter."""


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """Asking each endpoint, whether or not there are requests for it."""

    path: str
    interval: float = 10.0
    timeout: float = 2.0
    healthy_after: int = 2
    """Successful checks in a row until an endpoint gets requests again."""
    unhealthy_after: int = 3
    """Failed checks in a row until an endpoint gets no more requests."""


@dataclass(frozen=True, slots=True)
class Ejection:
    """When an endpoint that fails gets no more requests, and for how long."""

    failures: int = 3
    """Failures in a row until the endpoint is ejected. 0: never."""
    base_time: float = 1.0
    """The first ejection; each one that follows without a success between lasts twice as long."""
    max_time: float = 60.0


@dataclass(frozen=True, slots=True)
class UpstreamRules:
    """Where an upstream is, how it is spoken to, and how much it may take."""

    name: str
    urls: tuple[str, ...]
    """`http://host:port`, `https://host:port` or `unix:/path`."""
    connect_timeout: float = 2.0
    """The longest wait for a connection: a name looked up, a connection opened, or one in use freed."""
    response_timeout: float = 30.0
    """From the end of the request to the head of its response."""
    idle_timeout: float = 300.0
    """The longest silence within a body, in either direction; a stream has no other limit."""
    keep_alive: float = 4.0
    """How long an idle connection is kept; most servers close theirs after 5 s or more."""
    max_age: float = 600.0
    """How old a connection may become, so that traffic follows changes behind one address."""
    max_connections: int = 1024
    """The largest number of connections to each endpoint."""
    max_pending: int = 1024
    """Requests that wait for a connection to each endpoint."""
    retry_budget: float = 0.2
    """Retries as a share of the requests of the last 10 s; 0 never retries."""
    ejection: Ejection = field(default_factory=Ejection)
    dns_ttl: float = 30.0
    """How often names are looked up again."""
    host: str = "preserve"
    """The Host sent: `preserve` the client's, the `upstream`'s own, or this one."""
    tls: TlsRules = field(default_factory=TlsRules)
    health_check: HealthCheck | None = None
