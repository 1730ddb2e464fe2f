"""Redis, the shared tier: cached users and the blacklist, read in one round trip per request.

Cached users count in the *epoch* in which Postgres was asked: a key with a short life that workers keep alive
while they receive every change of Postgres. When no worker does, the epoch lapses, and all documents with it,
without a search for them. A change leaves a *tombstone* with its version, so that rows read before it cannot
be stored.

Every key of the blacklist counts, a gateway's and another program's: any value revokes a `jti`, a Unix time
revokes the tokens issued until then, and a value that is not a time revokes all tokens. The blacklist is
complete only while its marker exists, which a Redis that came back empty does not have. Gateways that share a
prefix must share their list of issuers, and Redis must not evict keys (`maxmemory-policy noeviction`).
"""

import math
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Final
from uuid import uuid4

import redis.asyncio as aioredis
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.core.model import Claims, StoreUnavailable, Tier
from gateway.core.revocations import Revocations
from gateway.stores.availability import Availability
from gateway.stores.redis.answers import Epoch, SharedAnswer, epoch_from, version_of
from gateway.stores.redis.batching import BatchedReads, Values
from gateway.stores.redis.blacklist import RedisBlacklist
from gateway.stores.redis.errors import translated
from gateway.stores.redis.fills import BatchedFills, Fill
from gateway.stores.redis.keys import Keys
from gateway.stores.redis.line import RedisLine
from gateway.stores.redis.ownership import ForeignRedis, Ownership
from gateway.stores.redis.scripts import users as scripts
from gateway.stores.redis.scripts.blacklist import IS_COMPLETE
from gateway.stores.redis.topology import server_at
from gateway.stores.redis.user_documents import CachedUser, decode, encode

EPOCH_LIFETIME: Final = 3.0
"""Seconds after which an epoch lapses if no worker keeps it alive."""
TOMBSTONE_TIME: Final = scripts.TOMBSTONE_MILLISECONDS / 1000
"""Seconds for which rows older than a change cannot be stored. No reader takes as long as that."""
_BEAT_TIME: Final = 10.0
"""Seconds for which a heartbeat's key stays. No stream waits as long as that for it."""
_MAX_CONNECTIONS: Final = 64
_BATCH: Final = 500

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class RedisTier:
    """Redis over a bounded pool of connections, which opens when first needed and recovers by itself.

    `url` is any that `topology` reads. `timeout` and `connect_timeout` are seconds. `place` is the place of
    Postgres (`hosts.place_of`); without it, the data of every owner counts. With `read_only`, for a
    diagnosis, it does not claim a Redis without an owner, and only reads. Each method raises
    `StoreUnavailable` when Redis does not answer, and `ForeignRedis` when Redis belongs to another database.
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
        users_from: str = "",
    ) -> None:
        """`users_from` tells the tables of users: documents of users from others count as missing."""
        server = server_at(url, prefix, strict=tls_strict)
        self.address = server.address
        """Host and port, for messages."""
        self.keys = Keys(prefix)
        self.availability = availability or Availability()
        """According to reads and pings. A refused write says little about reads."""
        self.complete = False
        """Whether the blacklist was complete at the last `ping`."""
        self._warned = False
        pool = aioredis.BlockingConnectionPool(
            connection_class=server.connection_class,
            **{
                **server.settings,
                "max_connections": _MAX_CONNECTIONS,
                # Waiting for a connection means that this process is busy, not that Redis is down.
                "timeout": 4 * timeout,
                # A request only waits for `timeout` (see BatchedReads); this limits background calls.
                "socket_timeout": 4 * timeout,
                "socket_connect_timeout": connect_timeout,
                # A closed connection is replaced when it is taken. For all other failures there is Postgres.
                "retry": Retry(NoBackoff(), 0),
                "protocol": 2,
            },
        )
        self._redis: aioredis.Redis = aioredis.Redis(connection_pool=pool)
        self.ownership = Ownership(self._redis, self.address, self.keys, place, read_only=read_only)
        """The owner of the data in Redis."""
        self._users_from = users_from
        self.revoked = RedisBlacklist(self._redis, self.ownership, self.address, self.keys)
        """The blacklist, for writes."""
        self._read_line = RedisLine(server, connect_timeout=connect_timeout)
        self._reads = BatchedReads(self._read_own, timeout, self.address, self.availability)
        self._fill_line = RedisLine(server, connect_timeout=connect_timeout)
        self._fills = BatchedFills(self._fill_line, self.ownership, self.keys, 4 * timeout, self.address)

    @property
    def _owner(self) -> str:
        """Whose users are in documents."""
        owner = self.ownership.id
        return f"{owner} {self._users_from}" if self._users_from else owner

    async def _read_own(self, keys: list[str]) -> list[bytes | None]:
        """Return the keys' values, unless they belong to another owner."""
        owner, *values = await self._read_line.read([self.ownership.key, *keys])
        while not self.ownership.owns(owner) and not await self.ownership.settle(owner):
            owner, *values = await self._read_line.read([self.ownership.key, *keys])
        if owner is None and self.ownership.unclaimed:
            return [
                None if self.ownership.voided(key) else value for key, value in zip(keys, values, strict=True)
            ]
        return values

    async def read(self, claims: Claims, user_id: str | None) -> SharedAnswer:
        """Read user, revocations, marker, epoch and era.

        `user_id` is a guess of the token's user, or None. The cached user tells who it really is. If that is
        another one, the batch reads the revocation of that user right after the rest.
        """
        names, keys = claims.issuer_names, self.keys
        wanted = [
            keys.complete,
            keys.epoch,
            keys.era,
            keys.user(claims.realm, claims.subject),
            *map(keys.revoked_issuer, names),
        ]
        if user_id is not None:
            wanted.append(keys.revoked_user(user_id))
        if claims.jti is not None:
            wanted += [keys.revoked_token(name, claims.jti) for name in names]
        cached: CachedUser | None = None

        def revocation_of_another_user(values: Values) -> str | None:
            nonlocal cached
            document = values[3]
            cached = None if document is None else decode(document, claims.issuer, self._owner)
            if cached is None or cached.user is None or cached.user.id == user_id:
                return None
            return keys.revoked_user(cached.user.id)

        marker, epoch, era, _, *rest, other_at = await self._reads.get(wanted, revocation_of_another_user)
        issuer_at, rest = rest[: len(names)], rest[len(names) :]
        user_at = rest.pop(0) if user_id is not None else None
        if cached is not None and cached.user is not None and cached.user.id != user_id:
            user_id, user_at = cached.user.id, other_at
        current = epoch_from(epoch)
        return SharedAnswer(
            cached=cached,
            revocations=Revocations(
                token=any(value is not None for value in rest),
                user_at=self._instant(user_at),
                issuer_at=max((at for at in map(self._instant, issuer_at) if at is not None), default=None),
            ),
            complete=marker is not None,
            epoch=None if current is None else current.name,
            era=era or b"",
            user_id=user_id,
        )

    async def user_revoked_at(self, user_id: str) -> float | None:
        """Return the time until which a user's tokens are revoked; None if they are not."""
        (value,) = await self._reads.get([self.keys.revoked_user(user_id)])
        return self._instant(value)

    # Cached users ------------------------------------------------------------------------------------

    async def store_user(self, claims: Claims, cached: CachedUser, ttl: float, *, horizon: int) -> bool:
        """Store an answer of Postgres for `ttl` seconds; return whether it is fresh.

        It is not fresh if `cached.epoch` is not the current one, or if the identity has changed in a
        transaction that may not have been visible: one of version `horizon`
        (`pg_snapshot_xmin(pg_current_snapshot())`) or above. Without an epoch it is stored, too, to serve
        when Postgres is down.
        """
        name, subject = claims.realm, claims.subject
        stored = await self._fills.store(
            Fill(
                self.keys.tombstone(name, subject),
                self.keys.user(name, subject),
                cached.epoch,
                horizon,
                encode(cached, claims.issuer, self._owner),
                max(1, round(ttl * 1000)),
            )
        )
        return stored and cached.epoch != ""

    async def refuses(self, claims: Claims, horizon: int) -> bool:
        """Return whether `store_user` would refuse a row of `horizon`, because of a change."""
        tombstone = self.keys.tombstone(claims.realm, claims.subject)
        versions = await self._reads.get([self.keys.ended_epoch, tombstone])
        return any(version_of(version) >= horizon for version in versions)

    async def buried(self, claims: Claims) -> bool:
        """Return whether any gateway has received a change of a token's user within `TOMBSTONE_TIME`."""
        (version,) = await self._reads.get([self.keys.tombstone(claims.realm, claims.subject)])
        return version is not None

    async def bury(self, identities: Sequence[tuple[str, str]], version: int) -> None:
        """Delete cached users, each given as (realm, subject), and refuse rows that were read before.

        `version` is that of the last transaction that changed any of them.
        """
        for start in range(0, len(identities), _BATCH):
            keys = []
            for name, subject in identities[start : start + _BATCH]:
                keys += [self.keys.tombstone(name, subject), self.keys.user(name, subject)]
            await self.ownership.run(scripts.BURY, keys, (str(version), str(round(TOMBSTONE_TIME * 1000))))

    async def forget_users(self, identities: Iterable[tuple[str, str]]) -> None:
        """Delete cached users, each given as (realm, subject)."""
        keys = [self.keys.user(name, subject) for name, subject in identities]
        for start in range(0, len(keys), _BATCH):
            await self.ownership.run(scripts.FORGET, keys[start : start + _BATCH], ())

    async def cached_users(self) -> AsyncIterator[Sequence[tuple[str, str, bytes]]]:
        """Return issuer name, subject and document of each cached user, in parts, in no order.

        One that is stored meanwhile may be left out.
        """
        pattern, _ = self.keys.patterns_of_users()
        cursor = 0
        while True:
            with translated(self.address):
                cursor, keys = await self._redis.scan(cursor, match=pattern, count=_BATCH)
                documents = await self._redis.mget(keys) if keys else []
            found = [
                (*self.keys.user_in(key.decode("utf-8", "replace")), document)
                for key, document in zip(keys, documents, strict=True)
                if isinstance(key, bytes) and isinstance(document, bytes)
            ]
            if found:
                yield found
            if cursor == 0:
                return

    def cached_user(self, document: bytes, iss: str) -> CachedUser | None:
        """Read a document of `cached_users`; None: it does not count, or is another issuer's."""
        return decode(document, iss, self._owner)

    async def forget_all_users(self) -> int:
        """Delete all cached users and their tombstones; return how many keys there were."""
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
        """Return the current epoch; None if there is none."""
        (value,) = await self._reads.get([self.keys.epoch])
        return epoch_from(value)

    async def begin_epoch(self, heartbeat: str, version: int = 0) -> Epoch:
        """Begin an epoch, unless there is one; return the current one.

        With replicas that may lag, `version` is that of the last transaction before it. Rows of an earlier
        state are not stored.
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
            raise StoreUnavailable(
                Tier.REDIS, f"{self.address}: {self.keys.epoch} does not have an epoch as its value"
            )
        return epoch

    async def keep_epoch(self, name: str, heartbeat: str) -> bool:
        """Keep an epoch alive for another `EPOCH_LIFETIME`; return False if it is not the current one.

        After a restart or a fail-over, the server may have lost the last writes: its epoch ends, and its
        blacklist must be refilled.
        """
        kept = await self.ownership.run(
            scripts.KEEP_EPOCH,
            (self.keys.complete, self.keys.epoch),
            (name, heartbeat, str(round(EPOCH_LIFETIME * 1000))),
        )
        return bool(kept == 1)

    async def end_epoch(self, version: int) -> None:
        """Void all cached users, and refuse rows that were read before `version`.

        The next epoch begins at once, with the same heartbeat. If several workers end an epoch for the same
        version, only the first call has an effect.
        """
        await self.ownership.run(
            scripts.END_EPOCH,
            (self.keys.epoch, self.keys.ended_epoch),
            (str(version), str(round(TOMBSTONE_TIME * 1000)), uuid4().hex, str(round(EPOCH_LIFETIME * 1000))),
        )

    # The stream --------------------------------------------------------------------------------------

    async def beat(self, key: str) -> None:
        """Write a key for a tracking connection to report, as any other program would."""
        await self.ownership.run(scripts.BEAT, (key,), (str(round(_BEAT_TIME * 1000)),))

    # Life and keys -----------------------------------------------------------------------------------

    async def ping(self) -> None:
        """Find out whether Redis answers, and open a connection for the next read.

        After a restart or a fail-over of the server, this marks the blacklist as incomplete.
        """
        try:
            await self._read_line.connect()
            # While Postgres is down, no worker keeps an epoch alive, which would detect this.
            marked = await self.ownership.run(IS_COMPLETE, (self.keys.complete,), ())
        except StoreUnavailable as error:
            self.complete = False
            self.availability.failed(error.detail, lasting=isinstance(error, ForeignRedis))
            raise
        self.complete = marked == 1
        self.availability.answered()

    async def close(self) -> None:
        """Close all connections."""
        await self._reads.close()
        await self._fills.close()
        await self._read_line.close()
        await self._fill_line.close()
        with translated(self.address):
            await self._redis.aclose(close_connection_pool=True)

    def _instant(self, value: bytes | None) -> float | None:
        """Parse a revocation's Unix time. A value that is not a time revokes all tokens."""
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
