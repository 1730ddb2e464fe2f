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
        """Ask the primary for a user and what is known against the token."""


class SharedTier(Protocol):
    """Redis. Every method raises `StoreUnavailable`."""

    async def read(self, claims: Claims, user_id: str | None) -> SharedAnswer:
        """Read everything about a token, whose user is perhaps `user_id`."""

    async def user_revoked_at(self, user_id: str) -> float | None:
        """Return the instant until which a user's tokens are revoked."""

    async def buried(self, claims: Claims) -> bool:
        """Tell whether any gateway has heard of a change of a token's user in the last five minutes."""

    async def store_user(self, claims: Claims, cached: CachedUser, ttl: float, *, horizon: int) -> bool:
        """Store a document unless it may be outdated; tells whether it was stored."""


class LearntRevocations(Protocol):
    """What is remembered of revocations that Redis alone knows."""

    def told(self, claims: Claims, user: User | None, kind: RevocationKind | None, era: bytes) -> None:
        """Take note of what Redis, which can be relied on, said of a token, and in which era."""

    def against(self, claims: Claims, user: User | None) -> RevocationKind | None:
        """Return the kind of a revocation that is remembered and hits a token."""


class Blacklist(Protocol):
    """Whether what Redis says of revocations is all there is to say."""

    @property
    def trusted(self) -> bool:
        """False: Redis was away, and may have missed something."""

    def doubt(self) -> None:
        """Take note that Redis did not answer."""

    def request(self) -> None:
        """Have it filled."""
