"""The settings of the ways through the gateway."""

from pydantic import Field

from gateway.core.model import Auth
from gateway.settings.section import Section
from gateway.settings.values import (
    CredentialName,
    Host,
    Method,
    Name,
    Origin,
    PathPattern,
    PathPrefix,
    Scope,
    Size,
    Text,
    Timeout,
    UpgradeProtocol,
    duration,
)


class Match(Section):
    """Which requests a route is for."""

    path: PathPattern = Field(examples=["/orders/**"])
    """`*` stands for one segment, `**` at the end for the rest, or for nothing."""
    methods: tuple[Method, ...] = ()
    """HTTP methods; empty: any."""
    hosts: tuple[Host, ...] = ()
    """Host names without port; empty: any."""


class Require(Section):
    """What a route asks for beyond a good token and an active user."""

    scopes: tuple[Scope, ...] = ()
    """Scopes that must all be in the token."""
    roles: tuple[Text, ...] = ()
    """Roles of which the user needs one."""
    tenant: Text | None = None
    """The only tenant that may pass."""


class Credentials(Section):
    """Where tokens may come from besides Authorization: browsers cannot set it on a WebSocket."""

    cookie: CredentialName | None = None
    """The name of a cookie. Other sites can make browsers send it: see `allowed_origins`."""
    query: CredentialName | None = None
    """The name of a query parameter, of GET requests. URLs end up in other people's logs."""
    subprotocol: CredentialName | None = None
    """What announces the token among WebSocket subprotocols, as in `bearer, <token>` or `bearer.<token>`."""


class Route(Section):
    """A way through the gateway; the first route that matches a request wins."""

    name: Name = Field(examples=["orders"])
    """Unique; the metrics label."""
    match: Match
    """Which requests it is for."""
    upstream: Text = Field(examples=["orders"])
    """The name of an upstream."""
    strip_prefix: PathPrefix | None = None
    """How `match.path` begins; forwarded as `X-Forwarded-Prefix` instead of in the path."""
    auth: Auth = Auth.REQUIRED
    """`required`: a good token. `optional`: none, or a good one. `none`: tokens are not looked at."""
    require: Require = Field(default_factory=Require)
    """What the user must have."""
    credentials: Credentials = Field(default_factory=Credentials)
    """Where tokens may come from besides Authorization; removed before a request is forwarded."""
    allowed_origins: tuple[Origin, ...] = ()
    """Other sites whose pages may use the cookie for WebSockets and for methods that change something."""
    upgrade: tuple[UpgradeProtocol, ...] = ("websocket",)
    """Protocols that a connection may be switched to; `*` any but HTTP itself, `[]` none."""
    tunnel_timeout: Timeout = duration("1h")
    """How long a WebSocket, or another switched connection, may be silent both ways."""
    close_on_revocation: bool = True
    """End streams, downloads and tunnels when the token expires or is revoked, or the user may not go on."""
    max_body: Size | None = None
    """The largest body of a request; a larger one gets 413. `null`: `server.limits.body_size`."""
