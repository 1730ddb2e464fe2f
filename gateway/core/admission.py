"""The positive outcome: what is needed to forward a request, and to account for it."""

from dataclasses import dataclass

from gateway.core.model import Claims, Resolution, Route, User
from gateway.core.verified import VerifiedToken


@dataclass(slots=True)
class Forwarding:
    """Where a request goes, and what its upstream is told of it whoever sends it. Nobody changes it."""

    route: Route
    method: str
    line: bytes
    """The request line (RFC 9112 §3): the path that was matched, less the route's prefix, and the query."""
    host: bytes
    """The client's Host, as it was."""
    fields: bytes
    """Other fields, each with its line end; without framing (RFC 9112 §6)."""
    upgrade: bytes | None
    """The protocol that the upstream is asked to switch to; its 101 is then the way to a tunnel."""


@dataclass(slots=True)
class Admission:
    """A request that may pass, whose it is, and how it is forwarded. Nobody changes it."""

    forwarding: Forwarding
    fields: bytes
    """What the upstream is told of the token and its user, as fields that each have their line end."""
    token: VerifiedToken | None
    """None: nobody asked for one, or it may be missing and is."""
    resolution: Resolution | None
    stale: bool
    """True when the user is older than the cache's time, because the store behind it is down."""

    @property
    def claims(self) -> Claims | None:
        return None if self.token is None else self.token.claims

    @property
    def user(self) -> User | None:
        return None if self.resolution is None else self.resolution.user
