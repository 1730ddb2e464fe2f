"""The settings of the routes."""

from pydantic import Field

from gateway.core.model import Auth, MissingUser
from gateway.core.routes import Liberty
from gateway.settings.http_values import (
    CredentialName,
    HostPattern,
    Method,
    Origin,
    PathPattern,
    PathPrefix,
    UpgradeProtocol,
)
from gateway.settings.sections.cors import Cors
from gateway.settings.sections.section import Section
from gateway.settings.values import Cel, Mode, Name, Scope, Size, Text, Timeout, duration


class Match(Section):
    """The requests that a route matches."""

    path: PathPattern = Field(examples=["/orders/**"])
    """`*` matches one segment; `**` at the end matches the rest, or nothing."""
    methods: tuple[Method, ...] = ()
    """HTTP methods; empty: any."""
    hosts: tuple[HostPattern, ...] = ()
    """Host names without port; empty: any. `*.example.com` is any name below example.com, of one or more
    labels."""
    allow: tuple[Liberty, ...] = ()
    """Spellings that servers read in different ways: `encoded_slash` (`%2F`), `semicolon` (`;`) and
    `empty_segment` (`//`). They are forwarded as they are matched (docs/http.md)."""


class Require(Section):
    """The requirements of a route beyond a valid token and an active user."""

    scopes: tuple[Scope, ...] = ()
    """The token must have all of these scopes."""
    roles: tuple[Text, ...] = ()
    """The user must have one of these roles."""
    token_roles: tuple[Text, ...] = ()
    """The token must have one of these roles, at the paths of the issuer's `claims.roles`."""
    tenant: Text | None = None
    """The only tenant that is admitted."""
    condition: Cel | None = None
    """What else must be true of `user`, `claims`, `request`, `client.ip`, `now`, in CEL: docs/policy.md."""
    condition_mode: Mode = "enforce"
    """`shadow`: requests that do not meet the condition pass, and are counted."""


class Credentials(Section):
    """Other places for the token than Authorization, which browsers cannot set on a WebSocket."""

    cookie: CredentialName | None = None
    """The name of a cookie. Other sites can make a browser send it: see `allowed_origins`."""
    query: CredentialName | None = None
    """The name of a query parameter of GET requests. Note that servers and proxies log URLs."""
    subprotocol: CredentialName | None = None
    """The WebSocket subprotocol that precedes the token, as in `bearer, <token>` or `bearer.<token>`."""


class Route(Section):
    """A route. The first route that matches a request wins."""

    name: Name = Field(examples=["orders"])
    """A unique name; the metrics label."""
    match: Match
    """The requests that the route matches."""
    upstream: Text | None = Field(examples=["orders"])
    """The name of an upstream. `null`: only other proxies ask (`decision`), and nothing is forwarded."""
    strip_prefix: PathPrefix | None = None
    """The beginning of `match.path`. It is removed from the path and sent as `X-Forwarded-Prefix`."""
    auth: Auth = Auth.REQUIRED
    """`required`: a valid token. `optional`: a valid token or none. `none`: tokens are not checked."""
    require: Require = Field(default_factory=Require)
    """The requirements for token and user."""
    forward_authorization: bool | None = None
    """Whether the upstream gets Authorization: the token, or with `auth: none` what the client sent, of any
    scheme. `null`: `headers.forward_authorization`."""
    allow_inactive: bool = False
    """Also admit suspended, locked, pending and deleted users; `X-User-Status` tells the upstream."""
    missing_user: MissingUser = MissingUser.DENY
    """What becomes of a valid token without a user. `forward`: it passes, with `X-User-Missing: true`.
    `provision`: the gateway creates the user, if the issuer has `provisioning`."""
    credentials: Credentials = Field(default_factory=Credentials)
    """Other places for the token than Authorization. The token is removed before the request is forwarded."""
    allowed_origins: tuple[Origin, ...] = ()
    """Other sites whose pages may use the cookie for WebSockets and for methods other than GET, HEAD,
    OPTIONS."""
    upgrade: tuple[UpgradeProtocol, ...] = ("websocket",)
    """The protocols that a client may upgrade to. `*`: any except HTTP itself; `[]`: none."""
    tunnel_timeout: Timeout = duration("1h")
    """How long a tunnel, such as a WebSocket, may be silent in both directions."""
    close_on_revocation: bool = True
    """End streams, downloads and tunnels when the token expires or is revoked, or the user is refused."""
    cors: Cors | None = None
    """The pages of other origins that may use the route; `null`: the upstream decides."""
    mode: Mode = "enforce"
    """`shadow`: requests that would be refused pass, without an identity that is not proven, and are counted
    (docs/policy.md)."""
    max_body: Size | None = None
    """The largest request body; a larger one gets 413. `null`: `server.limits.body_size`."""
