"""The effect of a change when its response arrives, without notifications from Postgres."""

import math
import time
import uuid
from collections.abc import AsyncIterator

import pytest

from gateway.admin.api.write_through import WriteThrough
from gateway.core.model import Claims, Identity, StoreUnavailable, User, UserStatus
from gateway.core.revocations import Revocation, Revocations
from gateway.identity.local_cache import LocalCache
from gateway.stores.postgres.directory.user_rows import UserRecord
from gateway.stores.redis.shared_tier import RedisTier
from gateway.stores.redis.user_documents import CachedUser

ISS = "https://idp.example.com/"
ANN = User(str(uuid.uuid4()), UserStatus.ACTIVE)
VERSION = 7


def claims(subject: str, jti: str = "one") -> Claims:
    return Claims(ISS, "main", subject, (), None, 1.0, jti, None, (), (), {})


class World:
    """A worker's memory and a Redis that both know Ann, under two subjects, and her tokens."""

    def __init__(self, redis: RedisTier) -> None:
        self.redis = redis
        self.local = LocalCache(ttl=60, max_users=9, max_tokens=9, clock=time.monotonic)
        self.write_through = WriteThrough(self.local, redis, {ISS: "main"})

    async def learn(self) -> None:
        epoch = await self.redis.begin_epoch("beat")
        self.local.open()
        for subject in ("ann", "alias"):
            await self.redis.store_user(
                claims(subject), CachedUser(ANN, 1.0, epoch.name), 60, horizon=VERSION
            )
            self.local.fill(self.local.ticket(), claims(subject), ANN, 1.0, Revocations(), math.inf)

    async def known(self, subject: str) -> tuple[bool, bool]:
        """Tell whether memory, and Redis, answer for a subject."""
        shared = await self.redis.read(claims(subject), None)
        current = shared.cached is not None and shared.cached.epoch == shared.epoch
        return self.local.recall(claims(subject)) is not None, current


@pytest.fixture
async def world(redis_url: str) -> AsyncIterator[World]:
    redis = RedisTier(redis_url, timeout=5)
    world = World(redis)
    await world.learn()
    assert await world.known("ann") == await world.known("alias") == (True, True)
    yield world
    await redis.close()


def record(*subjects: str) -> UserRecord:
    return UserRecord(ANN, tuple(Identity(ISS, each) for each in subjects), 1.0, 1.0, None, VERSION)


async def test_a_user_is_dropped_under_its_old_and_new_identities(world: World) -> None:
    await world.write_through.user(record("ann", "of-nobody"), Identity(ISS, "alias"))
    assert await world.known("ann") == await world.known("alias") == (False, False)
    # What was read before the change cannot be put back.
    epoch = await world.redis.epoch()
    late = CachedUser(ANN, 1.0, "" if epoch is None else epoch.name)
    assert not await world.redis.store_user(claims("ann"), late, 60, horizon=VERSION)
    assert await world.redis.store_user(claims("ann"), late, 60, horizon=VERSION + 1)


async def test_a_flush_drops_everything(world: World) -> None:
    await world.write_through.flushed(VERSION)
    assert await world.known("ann") == await world.known("alias") == (False, False)


@pytest.mark.parametrize(
    "revocation",
    [
        Revocation("jti", "main", "one", 5.0),
        Revocation("user", "", ANN.id, 5.0),
        Revocation("issuer", "main", "", 5.0),
    ],
)
async def test_a_revocation_is_on_the_blacklist_and_memory_does_not_answer(
    world: World, revocation: Revocation
) -> None:
    await world.write_through.revoked(revocation)
    assert world.local.recall(claims("ann")) is None
    found = (await world.redis.read(claims("ann"), ANN.id)).revocations
    assert found.against(1.0) == revocation.kind
    assert await world.write_through.lifted(revocation) == 1
    assert (await world.redis.read(claims("ann"), ANN.id)).revocations.against(1.0) is None
    assert await world.write_through.lifted(revocation) == 0


async def test_without_redis_memory_is_still_dropped(world: World) -> None:
    nowhere = RedisTier("redis://127.0.0.1:1/0")
    write_through = WriteThrough(world.local, nowhere, {ISS: "main"})
    await write_through.user(record("ann", "alias"))
    await write_through.revoked(Revocation("jti", "main", "one", 5.0))
    await write_through.flushed(VERSION)
    assert world.local.recall(claims("ann")) is None
    await nowhere.close()


async def test_without_redis_the_blacklist_is_not_known_and_memory_is_dropped(
    world: World,
) -> None:
    nowhere = RedisTier("redis://127.0.0.1:1/0")
    with pytest.raises(StoreUnavailable):
        await WriteThrough(world.local, nowhere, {ISS: "main"}).lifted(Revocation("jti", "main", "one", 5.0))
    assert world.local.recall(claims("ann")) is None
    await nowhere.close()
