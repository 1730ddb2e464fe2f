"""The settings of the services behind the gateway."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt

from gateway.settings.http_values import Host, PlainPath, UpstreamHost
from gateway.settings.sections.section import Section
from gateway.settings.urls import UpstreamUrl, base_path
from gateway.settings.values import Share, Size, Timeout, duration


class UpstreamTls(Section):
    """How the gateway verifies an https upstream, and identifies itself to it."""

    verify: bool = True
    """Whether the certificate must be valid, and for the upstream's name. `false`: any server is trusted."""
    ca: Path | None = None
    """PEM file with the only authorities to trust. `null`: those of the system."""
    certificate: Path | None = None
    """PEM file with the gateway's client certificate, for an upstream that asks for one."""
    key: Path | None = None
    """PEM file with its private key. `null`: the key is in the same file."""
    server_name: Host | None = None
    """The name to send (SNI) and to verify in the certificate. `null`: the host of the URL."""
    strict: bool = False
    """Whether certificates must follow RFC 5280 strictly, for example have an Authority Key Identifier."""


class HealthCheck(Section):
    """Active health checks. Each worker checks each endpoint periodically, even without requests."""

    path: PlainPath = Field(examples=["/healthz"])
    """The whole path of the GET request. A 2xx within `timeout` is healthy."""
    interval: Timeout = duration("10s")
    """The time between two checks."""
    timeout: Timeout = duration("2s")
    """The time limit of a check."""
    healthy_after: PositiveInt = 2
    """Successful checks in a row until an endpoint gets requests again."""
    unhealthy_after: PositiveInt = 3
    """Failed checks in a row until an endpoint gets no more requests."""


class Ejection(Section):
    """Outlier detection: a failing endpoint gets no requests for a while, unless all endpoints fail.

    A failure is a connection that cannot be opened, or a response that breaks off or is not HTTP.
    """

    failures: Annotated[int, Field(ge=0)] = 3
    """Failures in a row until the endpoint is ejected. 0: never."""
    base_time: Timeout = duration("1s")
    """The time of the first ejection. It doubles with each ejection, until a request succeeds."""
    max_time: Timeout = duration("1m")
    """The longest time of an ejection."""


class Upstream(Section):
    """A service behind the gateway. Counts are per worker."""

    urls: tuple[UpstreamUrl, ...] = Field(min_length=1, examples=[["http://127.0.0.1:9000"]])
    """Its instances: `http://host:port`, `https://host:port`, `unix:/path`. Each address of a name is an
    endpoint. A path, as in `http://host:port/base`, is put before that of the request; all need the same."""
    connect_timeout: Timeout = duration("2s")
    """How long to wait until a connection opens (then 504), or is free (then 503)."""
    response_timeout: Timeout = duration("30s")
    """How long to wait for the head of the response; then 504."""
    idle_timeout: Timeout = duration("5m")
    """The longest silence within a body. Responses and streams have no other time limit."""
    keep_alive: Timeout = duration("4s")
    """How long to keep an idle connection. Set it below the upstream's own value, which is often 5 s."""
    max_age: Timeout = duration("10m")
    """The age at which a connection is replaced."""
    max_connections: PositiveInt = 1024
    """The largest number of connections to each endpoint."""
    max_pending: Annotated[int, Field(ge=0)] = 1024
    """The requests that may wait for a connection to an endpoint; more get 503 `overloaded`."""
    retry_budget: Share = 0.2
    """Retries as a share of the requests of the last 10 s, but at least 3 per second. 0: no retries."""
    ejection: Ejection = Field(default_factory=Ejection)
    """Outlier detection."""
    health_check: HealthCheck | None = None
    """Active health checks. `null`: none."""
    dns_ttl: Timeout = duration("30s")
    """How often names are resolved again. If that fails, the known addresses stay."""
    buffer_requests: Size | None = None
    """A chunked body up to this size is sent with `Content-Length` once it is complete, for servers that lose
    chunked bodies (WSGI). A larger one is streamed. `null`: all are."""
    host: UpstreamHost = "preserve"
    """The Host header for the upstream: `preserve` (the client's), `upstream` (the URL's), or a host of your
    own."""
    tls: UpstreamTls = Field(default_factory=UpstreamTls)
    """For `https` URLs."""

    @property
    def base_path(self) -> str:
        """The path of all URLs, without its final slash."""
        return base_path(self.urls[0])
