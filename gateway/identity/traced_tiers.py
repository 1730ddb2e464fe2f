"""The stores with a span for each question, built only if requests are traced.

A question that several requests share has its span in the trace of the request that asked it.
"""

from typing import Final

from gateway.core.model import Claims, Identity, Resolution
from gateway.core.revocations import Revocations
from gateway.identity.tiers import SharedTier, SystemOfRecord
from gateway.stores.postgres.look_ups import FoundUser
from gateway.stores.redis.answers import SharedAnswer
from gateway.stores.redis.user_documents import CachedUser
from gateway.telemetry.metered import Directory
from gateway.telemetry.tracing.span import inside

_REDIS: Final = "redis"
_POSTGRES: Final = "postgresql"


def _attributes(system: str, operation: str) -> dict[str, str]:
    return {"db.system.name": system, "db.operation.name": operation}


class TracedDirectory:
    """The resolver, with a span while a request waits for the stores. Memory has none."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self.recall = directory.recall
        self.validity = directory.validity
        self.is_valid = directory.is_valid

    async def resolve(self, claims: Claims) -> Resolution:
        with inside("identity resolve", {"gateway.issuer": claims.issuer_name}):
            return await self._directory.resolve(claims)


class TracedSharedTier:
    """Redis."""

    def __init__(self, tier: SharedTier) -> None:
        self._tier = tier

    async def read(self, claims: Claims, user_id: str | None) -> SharedAnswer:
        with inside("redis read", _attributes(_REDIS, "read")):
            return await self._tier.read(claims, user_id)

    async def user_revoked_at(self, user_id: str) -> float | None:
        with inside("redis user_revoked_at", _attributes(_REDIS, "user_revoked_at")):
            return await self._tier.user_revoked_at(user_id)

    async def buried(self, claims: Claims) -> bool:
        with inside("redis buried", _attributes(_REDIS, "buried")):
            return await self._tier.buried(claims)

    async def store_user(self, claims: Claims, cached: CachedUser, ttl: float, *, horizon: int) -> bool:
        with inside("redis store_user", _attributes(_REDIS, "store_user")):
            return await self._tier.store_user(claims, cached, ttl, horizon=horizon)


class TracedRecord:
    """Postgres."""

    def __init__(self, record: SystemOfRecord) -> None:
        self._record = record

    @property
    def has_replica(self) -> bool:
        return self._record.has_replica

    async def find_user(self, identity: Identity, *, primary: bool = False) -> FoundUser:
        with inside("postgresql find_user", _attributes(_POSTGRES, "find_user")):
            return await self._record.find_user(identity, primary=primary)

    async def find_user_and_revocations(self, claims: Claims) -> tuple[FoundUser, Revocations]:
        operation = "find_user_and_revocations"
        with inside(f"postgresql {operation}", _attributes(_POSTGRES, operation)):
            return await self._record.find_user_and_revocations(claims)
