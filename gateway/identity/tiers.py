"""The stores as the resolver needs them."""

from typing import Protocol

from gateway.core.model import Claims, Identity, RevocationKind, User
from gateway.core.revocations import Revocations
from gateway.stores.postgres.look_ups import FoundUser
from gateway.stores.redis.answers import SharedAnswer
from gateway.stores.redis.user_documents import CachedUser


class SystemOfRecord(Protocol):
    """Postgres. Every method raises `StoreUnavailable`."""

    @property
    def has_replica(self) -> bool:
        """Whether a replica, which may lag behind, is asked for users."""

    async def find_user(self, identity: Identity, *, primary: bool = False) -> FoundUser:
        """Find a user."""

    async def find_user_and_revocations(self, claims: Claims) -> tuple[FoundUser, Revocations]:
        """Ask the primary for a user, and for the revocations that concern the token."""


class SharedTier(Protocol):
    """Redis. Every method raises `StoreUnavailable`."""

    async def read(self, claims: Claims, user_id: str | None) -> SharedAnswer:
        """Read everything about a token, whose user is perhaps `user_id`."""

    async def user_revoked_at(self, user_id: str) -> float | None:
        """Return the instant until which a user's tokens are revoked."""

    async def buried(self, claims: Claims) -> bool:
        """Tell whether any gateway received a change of a token's user in the last five minutes."""

    async def store_user(self, claims: Claims, cached: CachedUser, ttl: float, *, horizon: int) -> bool:
        """Store a document unless it may be outdated; tells whether it was stored."""


class LearntRevocations(Protocol):
    """The revocations that exist in Redis only, as far as this worker remembers them."""

    def told(self, claims: Claims, user: User | None, kind: RevocationKind | None, era: bytes) -> None:
        """Record what a trusted Redis said of a token, and in which era."""

    def against(self, claims: Claims, user: User | None) -> RevocationKind | None:
        """Return the kind of a remembered revocation that hits a token."""


class Blacklist(Protocol):
    """The blacklist in Redis: whether it is complete."""

    @property
    def trusted(self) -> bool:
        """False: Redis was away, and may lack a revocation."""

    def doubt(self) -> None:
        """Record that Redis did not answer."""

    def request(self) -> None:
        """Have the blacklist filled in the background."""
