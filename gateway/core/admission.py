"""The positive outcome: what is needed to forward a request, and to account for it."""

from dataclasses import dataclass
from typing import NamedTuple

from gateway.core.headers import Fields
from gateway.core.model import Claims, Credential, Resolution, Route, User


class Forwarding(NamedTuple):
    """What the head of a request says: where it goes, and what its upstream is told of any user's request."""

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
    credential: Credential | None
    """The bearer token; None: the route asks for none, or it may be missing and is."""
    client_fields: Fields
    """The client's own fields, sorted."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was settled for one token on one route: it may pass, as this user, told upstream in these fields.

    It depends on the route, the token's claims and the resolution alone. It dies as a whole.
    """

    route: Route
    resolution: Resolution
    identity: bytes
    """What the upstream is told of the token and its user, as fields that each have their line end."""


@dataclass(slots=True)
class Admission:
    """A request that may pass, whose it is, and how it is forwarded. It is never changed."""

    forwarding: Forwarding
    fields: bytes
    """What the upstream is told of the token and its user, as fields that each have their line end."""
    claims: Claims | None = None
    """None: the route asks for no token, or it may be missing and is."""
    decision: Decision | None = None
    """None together with `claims`."""

    @property
    def user(self) -> User | None:
        return None if self.decision is None else self.decision.resolution.user

    @property
    def stale(self) -> bool:
        """True when the user is older than the cache's time, because the store behind it is down."""
        return self.decision is not None and self.decision.resolution.stale
