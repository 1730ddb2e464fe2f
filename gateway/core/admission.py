"""The result of `admit`: everything that is needed to forward a request and to account for it."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from gateway.core.conditions import RequestCheck
from gateway.core.headers import Fields
from gateway.core.model import Claims, Credential, Resolution, Route, User
from gateway.core.shadow import Shadowed


class Forwarding(NamedTuple):
    """The meaning of a request head: its route, and the parts of the upstream's head that fit any user."""

    route: Route
    method: str
    line: bytes
    """The request line (RFC 9112 §3): the path that was matched, less the route's prefix, and the query."""
    host: bytes
    """The client's Host, unchanged."""
    fields: bytes
    """The other fields, each with its line end, without framing (RFC 9112 §6)."""
    upgrade: bytes | None
    """The protocol that the upstream is asked to switch to; after its 101, both connections are a tunnel."""
    credential: Credential | None
    """The bearer token; None if the route needs none, or if an optional token is missing."""
    client_fields: Fields
    """The client's own fields, sorted."""
    preflight: bytes | None = None
    """The fields of the gateway's own answer to a CORS preflight, or at the end of Max-Forwards; or None."""
    shadow: Shadowed | None = None
    """What is wrong with its credentials, where that is in shadow, and it passes without them."""

    @property
    def forwards_authorization(self) -> bool:
        """Whether the upstream gets Authorization: never credentials that were refused."""
        return self.route.forward_authorization and self.shadow is None


@dataclass(frozen=True, slots=True)
class Decision:
    """One token may pass on one route: as which user, and with which fields for the upstream.

    It depends only on the route, the token's claims and the resolution; an assertion in it also on the time,
    and so it ends. It is replaced as a whole.
    """

    route: Route
    resolution: Resolution
    identity: bytes
    """The header fields about the token and its user, each with its line end."""
    told: bytes = b""
    """The same for a front: every identity field, empty where there is no value. Empty if no front asks."""
    until: float = math.inf
    """When it ends by time alone, in Unix seconds: before the assertion in it expires."""
    request_check: RequestCheck | None = field(default=None, compare=False)
    """What each request must also meet, which is never remembered; None: nothing."""
    shadow: Shadowed | None = None
    """Why the policy would refuse it, if that is in shadow."""


class Spent(Protocol):
    """What limits have spent for a request: a bucket of theirs, or several."""

    def fields(self) -> bytes:
        """Return the header fields about it for the response, each with its line end."""

    def release(self) -> None:
        """End the request: of a concurrency, another one may begin. To be called once."""


@dataclass(slots=True)
class Admission:
    """A request that may pass: its user, and how it is forwarded. It is never changed, but for `spent`."""

    forwarding: Forwarding
    fields: bytes
    """The header fields about the token and its user, each with its line end."""
    claims: Claims | None = None
    """None if the route needs no token, or if an optional token is missing."""
    decision: Decision | None = None
    """None if `claims` is None."""
    spent: Spent | None = field(init=False, repr=False, compare=False)
    """Where there are limits, `limits.limiter` sets it; None: none counts the request. Else it is not set."""

    @property
    def user(self) -> User | None:
        return None if self.decision is None else self.decision.resolution.user

    @property
    def stale(self) -> bool:
        """True if the cached user is older than the cache allows, because the store is down."""
        return self.decision is not None and self.decision.resolution.stale


@dataclass(slots=True)
class AdmittedInShadow(Admission):
    """A request that passes because something is in shadow: it would be refused."""

    shadow: Shadowed = field(kw_only=True)
