"""The settings of the services behind the gateway."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt

from gateway.settings.section import Section
from gateway.settings.urls import UpstreamUrl
from gateway.settings.values import Host, PlainPath, Share, Timeout, UpstreamHost, duration


class UpstreamTls(Section):
    """How an https upstream is recognised, and how the gateway shows who it is."""

    verify: bool = True
    """Whether its certificate must be valid, and for its name; `false` trusts whoever answers."""
    ca: Path | None = None
    """PEM file of the only authorities to trust; `null`: those of the system."""
    certificate: Path | None = None
    """PEM file of the gateway's own certificate, for an upstream that asks for one."""
    key: Path | None = None
    """PEM file of its private key; `null` when it is in the same file."""
    server_name: Host | None = None
    """The name to ask for (SNI) and to find in its certificate; `null`: the host of the URL."""
    strict: bool = False
    """Whether certificates must follow RFC 5280 to the letter, as with an Authority Key Identifier."""


class HealthCheck(Section):
    """Asking each endpoint now and then, whether or not there are requests for it; each worker asks."""

    path: PlainPath = Field(examples=["/healthz"])
    """Asked with GET; a 2xx in time is healthy."""
    interval: Timeout = duration("10s")
    """The time between two checks."""
    timeout: Timeout = duration("2s")
    """The longest that a check may take."""
    healthy_after: PositiveInt = 2
    """Good answers in a row until an endpoint gets requests again."""
    unhealthy_after: PositiveInt = 3
    """Bad or missing answers in a row until it gets none."""


class Ejection(Section):
    """When an endpoint that fails gets no more requests, unless all do.

    A failure is a connection that cannot be opened, or a response that breaks off or is no HTTP.
    """

    failures: Annotated[int, Field(ge=0)] = 3
    """Failures in a row; 0 never ejects."""
    base_time: Timeout = duration("1s")
    """How long the first time; each time without a success between lasts twice as long."""
    max_time: Timeout = duration("1m")
    """The longest time."""


class Upstream(Section):
    """A service behind the gateway. Counts are per worker."""

    urls: tuple[UpstreamUrl, ...] = Field(min_length=1, examples=[["http://127.0.0.1:9000"]])
    """Its instances: `http://host:port`, `https://host:port`, `unix:/path`. Each address of a name is one."""
    connect_timeout: Timeout = duration("2s")
    """The longest wait for a connection to open (then 504), or for one to be free (then 503)."""
    response_timeout: Timeout = duration("30s")
    """The longest wait for the head of the response; then 504."""
    idle_timeout: Timeout = duration("5m")
    """The longest silence within a body; nothing else limits how long a response or a stream lasts."""
    keep_alive: Timeout = duration("4s")
    """How long an idle connection is kept; less than the upstream keeps it, which is often 5 s."""
    max_age: Timeout = duration("10m")
    """How old a connection may become before it is replaced."""
    max_connections: PositiveInt = 1024
    """Open connections to each endpoint."""
    max_pending: Annotated[int, Field(ge=0)] = 1024
    """Requests that may wait for a connection to an endpoint; more get 503 `overloaded`."""
    retry_budget: Share = 0.2
    """Retries as a share of the requests of the last 10 s, but 3 a second at least; 0: none at all."""
    ejection: Ejection = Field(default_factory=Ejection)
    """When an endpoint that fails gets no more requests."""
    health_check: HealthCheck | None = None
    """Active health checks; `null`: endpoints are judged by their requests alone."""
    dns_ttl: Timeout = duration("30s")
    """How often names are looked up again; a look-up that fails keeps the addresses known."""
    host: UpstreamHost = "preserve"
    """The Host it is sent: `preserve` the client's, `upstream` for that of the URL, or a host of your own."""
    tls: UpstreamTls = Field(default_factory=UpstreamTls)
    """For `https` URLs."""
