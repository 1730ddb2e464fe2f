"""Redis, the shared tier: cached users and the blacklist, read in one round trip per request.

Cached users count under the *epoch* in which Postgres was asked: a key with a short life that workers
keep alive while they hear of every change in Postgres. When none does, the epoch lapses, and every
document with it, without a search for them. A change leaves a *tombstone* with its version, under which
nothing can be stored that was read before it.

Every key of the blacklist counts, a gateway's and another program's: any value revokes a `jti`, a Unix time
revokes what was issued until then, and a value that is no time revokes everything. It is complete only
while its marker is there, which no Redis has that came back empty. Gateways that share a prefix share
their list of issuers, and Redis must not evict keys (`maxmemory-policy noeviction`).
"""

import math
from collections.abc import Iterable, Sequence
from typing import Final
from uuid import uuid4

import redis.asyncio as aioredis
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.core.model import Claims, StoreUnavailable, Tier
from gateway.core.revocations import Revocations
from gateway.stores.availability import Availability
from gateway.stores.redis import scripts
from gateway.stores.redis.answers import Epoch, SharedAnswer, epoch_from, version_of
from gateway.stores.redis.batching import BatchedReads
from gateway.stores.redis.blacklist import RedisBlacklist
from gateway.stores.redis.errors import translated
from gateway.stores.redis.keys import Keys
from gateway.stores.redis.ownership import ForeignRedis, Ownership
from gateway.stores.redis.reader import RedisReader
from gateway.stores.redis.topology import server_at
from gateway.stores.redis.user_documents import CachedUser, decode, encode

EPOCH_LIFETIME: Final = 3.0
"""Seconds after which an epoch lapses that no worker keeps alive."""
TOMBSTONE_TIME: Final = 300.0
"""Seconds for which nothing older than a change can be stored; far more than any reader takes."""
_BEAT_TIME: Final = 10.0
"""Seconds for which a heartbeat's key stays; longer than any stream waits for word of it."""
_MAX_CONNECTIONS: Final = 64
_BATCH: Final = 500

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class RedisTier:
    """A bounded pool of connections that opens when first needed and recovers by itself.

    `url` is any that `topology` reads. `timeout` and `connect_timeout` are seconds. `place` is where
    Postgres is (`hosts.place_of`); without it everything there counts, of every owner. One that is
    `read_only`, for a diagnosis, does not claim a Redis without an owner, and is only asked. Every method
    raises `StoreUnavailable` when Redis does not answer, `ForeignRedis` when it belongs to another database.
    Raises ValueError when the URL cannot be read.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "gateway:",
        timeout: float = 0.25,
        connect_timeout: float = 1.0,
        availability: Availability | None = None,
        place: str | None = None,
        tls_strict: bool = False,
        read_only: bool = False,
    ) -> None:
        server = server_at(url, prefix, strict=tls_strict)
        self.address = server.address
        """Host and port, for messages."""
        self.keys = Keys(prefix)
        self.availability = availability or Availability()
        """As reads and pings find it; what a write is refused for says little of them."""
        self.complete = False
        """Whether the blacklist was complete when `ping` looked last."""
        self._warned = False
        pool = aioredis.BlockingConnectionPool(
            connection_class=server.connection_class,
            **{
                **server.settings,
                "max_connections": _MAX_CONNECTIONS,
                # Waiting for a connection means that this process is busy, not that Redis is down.
                "timeout": 4 * timeout,
                # A request waits for `timeout` only (see BatchedReads); this bounds calls of the background.
                "socket_timeout": 4 * timeout,
                "socket_connect_timeout": connect_timeout,
                # A connection that was closed is replaced when it is taken; for the rest there is Postgres.
                "retry": Retry(NoBackoff(), 0),
                "protocol": 2,
            },
        )
        self._redis: aioredis.Redis = aioredis.Redis(connection_pool=pool)
        self.ownership = Ownership(self._redis, self.address, self.keys, place, read_only=read_only)
        """Whose data Redis holds."""
        self.revoked = RedisBlacklist(self._redis, self.ownership, self.address, self.keys)
        """The blacklist, to be written."""
        self._reader = RedisReader(server, connect_timeout=connect_timeout)
        self._reads = BatchedReads(self._read_own, timeout, self.address, self.availability)

    async def _read_own(self, keys: list[str]) -> list[bytes | None]:
        """Return the keys' values, unless they are another's."""
        owner, *values = await self._reader.read([self.ownership.key, *keys])
        while not self.ownership.owns(owner) and not await self.ownership.settle(owner):
            owner, *values = await self._reader.read([self.ownership.key, *keys])
        if owner is None and self.ownership.unclaimed:
            return [
                None if self.ownership.voided(key) else value for key, value in zip(keys, values, strict=True)
            ]
        return values

    async def read(self, claims: Claims, user_id: str | None) -> SharedAnswer:
        """Read user, revocations, marker, epoch and era in one round trip.

        `user_id` is a guess of who is behind the token, or None; with a wrong one, ask
        `user_revoked_at` for the right one.
        """
        name = claims.issuer_name
        keys = [
            self.keys.complete,
            self.keys.epoch,
            self.keys.era,
            self.keys.user(name, claims.subject),
            self.keys.revoked_issuer(name),
        ]
        if user_id is not None:
            keys.append(self.keys.revoked_user(user_id))
        if claims.jti is not None:
            keys.append(self.keys.revoked_token(name, claims.jti))
        marker, epoch, era, document, issuer_at, *rest = await self._reads.get(keys)
        user_at = rest.pop(0) if user_id is not None else None
        current = epoch_from(epoch)
        return SharedAnswer(
            cached=None if document is None else decode(document, claims.issuer, self.ownership.id),
            revocations=Revocations(
                token=bool(rest) and rest[0] is not None,
                user_at=self._instant(user_at),
                issuer_at=self._instant(issuer_at),
            ),
            complete=marker is not None,
            epoch=None if current is None else current.name,
            era=era or b"",
        )

    async def user_revoked_at(self, user_id: str) -> float | None:
        """Return the instant until which a user's tokens are revoked, if they are."""
        (value,) = await self._reads.get([self.keys.revoked_user(user_id)])
        return self._instant(value)

    # Cached users ------------------------------------------------------------------------------------

    async def store_user(self, claims: Claims, cached: CachedUser, ttl: float, *, horizon: int) -> bool:
        """Remember for `ttl` seconds what Postgres said; tells whether that is a fresh answer.

        It is not when `cached.epoch` is not the one in force, or when the identity has changed in a
        transaction that may not have been visible: one of version `horizon`
        (`pg_snapshot_xmin(pg_current_snapshot())`) or above. Without any epoch it is stored all the
        same, to serve when Postgres is down.
        """
        name, subject = claims.issuer_name, claims.subject
        stored = await self.ownership.run(
            scripts.FILL,
            (
                self.keys.epoch,
                self.keys.ended_epoch,
                self.keys.tombstone(name, subject),
                self.keys.user(name, subject),
            ),
            (
                cached.epoch,
                str(horizon),
                encode(cached, claims.issuer, self.ownership.id),
                str(max(1, round(ttl * 1000))),
            ),
        )
        return bool(stored == 1 and cached.epoch != "")

    async def refuses(self, claims: Claims, horizon: int) -> bool:
        """Tell whether `store_user` would refuse, for a change, what was read as of `horizon`."""
        tombstone = self.keys.tombstone(claims.issuer_name, claims.subject)
        versions = await self._reads.get([self.keys.ended_epoch, tombstone])
        return any(version_of(version) >= horizon for version in versions)

    async def buried(self, claims: Claims) -> bool:
        """Tell whether any gateway has heard of a change of a token's user in `TOMBSTONE_TIME`."""
        (version,) = await self._reads.get([self.keys.tombstone(claims.issuer_name, claims.subject)])
        return version is not None

    async def bury(self, identities: Sequence[tuple[str, str]], version: int) -> None:
        """Drop cached users, each given as (issuer name, subject), and refuse what was read before.

        `version` is that of the last transaction that changed any of them.
        """
        for start in range(0, len(identities), _BATCH):
            keys = []
            for name, subject in identities[start : start + _BATCH]:
                keys += [self.keys.tombstone(name, subject), self.keys.user(name, subject)]
            await self.ownership.run(scripts.BURY, keys, (str(version), str(round(TOMBSTONE_TIME * 1000))))

    async def forget_users(self, identities: Iterable[tuple[str, str]]) -> None:
        """Drop cached users, each given as (issuer name, subject)."""
        keys = [self.keys.user(name, subject) for name, subject in identities]
        for start in range(0, len(keys), _BATCH):
            await self.ownership.run(scripts.FORGET, keys[start : start + _BATCH], ())

    async def forget_all_users(self) -> int:
        """Delete all cached users, and what is known of changes of them; returns how many keys there were."""
        forgotten = 0
        for pattern in self.keys.patterns_of_users():
            cursor = 0
            while True:
                with translated(self.address):
                    cursor, keys = await self._redis.scan(cursor, match=pattern, count=_BATCH)
                for start in range(0, len(keys), _BATCH):
                    forgotten += await self.ownership.run(scripts.FORGET, keys[start : start + _BATCH], ())
                if cursor == 0:
                    break
        return forgotten

    # The epoch ---------------------------------------------------------------------------------------

    async def epoch(self) -> Epoch | None:
        """Return the epoch in force, if there is one."""
        (value,) = await self._reads.get([self.keys.epoch])
        return epoch_from(value)

    async def begin_epoch(self, heartbeat: str, version: int = 0) -> Epoch:
        """Begin an epoch, unless there is one; returns the one in force.

        With replicas that may lag, `version` is that of the last transaction before it; what
        is read of an earlier state is not stored.
        """
        value = await self.ownership.run(
            scripts.BEGIN_EPOCH,
            (self.keys.complete, self.keys.epoch, self.keys.ended_epoch),
            (
                uuid4().hex,
                heartbeat,
                str(round(EPOCH_LIFETIME * 1000)),
                str(version),
                str(round(TOMBSTONE_TIME * 1000)),
            ),
        )
        epoch = epoch_from(value)
        if epoch is None:
            raise StoreUnavailable(Tier.REDIS, f"{self.address}: {self.keys.epoch} holds what is no epoch")
        return epoch

    async def keep_epoch(self, name: str, heartbeat: str) -> bool:
        """Keep an epoch alive for another `EPOCH_LIFETIME`; False when it is not the one in force.

        A server that has restarted, or taken over from another, may have lost what was written last:
        its epoch ends, and its blacklist is to be filled again.
        """
        kept = await self.ownership.run(
            scripts.KEEP_EPOCH,
            (self.keys.complete, self.keys.epoch),
            (name, heartbeat, str(round(EPOCH_LIFETIME * 1000))),
        )
        return bool(kept == 1)

    async def end_epoch(self, version: int) -> None:
        """Void all cached users, and refuse what was read before `version`.

        The next epoch begins at once, with the same heartbeat. Of several workers that end an epoch for
        the same version, the first does.
        """
        await self.ownership.run(
            scripts.END_EPOCH,
            (self.keys.epoch, self.keys.ended_epoch),
            (str(version), str(round(TOMBSTONE_TIME * 1000)), uuid4().hex, str(round(EPOCH_LIFETIME * 1000))),
        )

    # The stream --------------------------------------------------------------------------------------

    async def beat(self, key: str) -> None:
        """Write a key that a tracking connection is to be told of, as any other program would."""
        await self.ownership.run(scripts.BEAT, (key,), (str(round(_BEAT_TIME * 1000)),))

    # Life and keys -----------------------------------------------------------------------------------

    async def ping(self) -> None:
        """Find out whether Redis answers, and have a connection for the next to read.

        A server that has restarted, or taken over from another, has no complete blacklist after this.
        """
        try:
            await self._reader.connect()
            # While Postgres is down no worker keeps an epoch, which would find that out.
            marked = await self.ownership.run(scripts.IS_COMPLETE, (self.keys.complete,), ())
        except StoreUnavailable as error:
            self.complete = False
            self.availability.failed(error.detail, lasting=isinstance(error, ForeignRedis))
            raise
        self.complete = marked == 1
        self.availability.answered()

    async def close(self) -> None:
        """Close all connections."""
        await self._reads.close()
        await self._reader.close()
        with translated(self.address):
            await self._redis.aclose(close_connection_pool=True)

    def _instant(self, value: bytes | None) -> float | None:
        """Read a revocation's Unix time; what is no time revokes everything."""
        if value is None:
            return None
        try:
            instant = float(value)
        except ValueError:
            instant = math.nan
        if not math.isnan(instant):
            return instant
        if not self._warned:
            self._warned = True
            log.warning("revocation_is_no_unix_time", effect="all tokens that it covers are refused")
        return math.inf
