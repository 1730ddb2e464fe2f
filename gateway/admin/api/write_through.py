"""Write-through: a change by the admin API is in Redis, and so in each worker, before the response.

The triggers in Postgres notify each gateway of each change. These are the same steps, taken at once, so that
the change is in effect when the caller has the response.
"""

from collections.abc import Mapping
from contextlib import suppress

from gateway.core.model import Identity, StoreUnavailable
from gateway.core.revocations import Revocation
from gateway.identity.local_cache import LocalCache
from gateway.stores.postgres.directory.user_rows import UserRecord
from gateway.stores.redis.shared_tier import RedisTier


class WriteThrough:
    """Deletes changed entries from the caches. While Redis does not answer, the triggers of Postgres do it.

    `names` maps each `iss` to the configured name.
    """

    def __init__(self, local: LocalCache, redis: RedisTier, names: Mapping[str, str]) -> None:
        self._local = local
        self._redis = redis
        self._names = names

    async def user(self, record: UserRecord, *gone: Identity) -> None:
        """Delete a changed user under all its present and former identities."""
        identities = [*record.identities, *gone]
        cached = [
            (self._names[each.issuer], each.subject) for each in identities if each.issuer in self._names
        ]
        if cached and record.version is not None:
            with suppress(StoreUnavailable):
                await self._redis.bury(cached, record.version)
        self._local.forget_identities((each.issuer, each.subject) for each in identities)
        self._local.forget_users([record.user.id])

    async def revoked(self, revocation: Revocation) -> None:
        """Put a revocation on the blacklist. Its `issuer` is the configured name."""
        with suppress(StoreUnavailable):
            await self._redis.revoked.revoke([revocation])
        self._forget(revocation)

    async def lifted(self, revocation: Revocation) -> int:
        """Remove a revocation from the blacklist; return how many there were.

        Raises `StoreUnavailable`: only Redis knows the entries of other programs.
        """
        try:
            return await self._redis.revoked.lift([revocation])
        finally:
            self._forget(revocation)

    async def cached(self, realm: str, identity: Identity) -> None:
        """Delete the answer about one identity. Raises `StoreUnavailable`."""
        try:
            await self._redis.forget_users([(realm, identity.subject)])
        finally:
            self._local.forget_identities([(identity.issuer, identity.subject)])

    async def flushed(self, version: int) -> None:
        """Void everything that was remembered before `version`."""
        with suppress(StoreUnavailable):
            await self._redis.end_epoch(version)
        self._local.forget_everything()

    def _forget(self, revocation: Revocation) -> None:
        match revocation.kind:
            case "jti":
                self._local.forget_tokens([(revocation.issuer, revocation.value)])
            case "user":
                self._local.forget_users([revocation.value])
            case "issuer":
                self._local.forget_issuers([revocation.issuer])
