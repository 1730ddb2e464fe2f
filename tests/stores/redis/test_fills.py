import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis as Client

from gateway.core.model import StoreUnavailable, User, UserStatus
from gateway.stores.redis.batching import MAX_BATCH
from gateway.stores.redis.shared_tier import RedisTier
from gateway.stores.redis.user_documents import CachedUser
from tests.stores.cable import Cable
from tests.stores.examples import claims

ANN = User(id="0e5f2a31-7d0c-4d6e-9c2b-1f3a5b7c9d01", status=UserStatus.ACTIVE)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator["Client"]:
    """Another program."""
    async with Client.from_url(redis_url) as client:
        yield client


async def scripts_run(client: "Client") -> int:
    statistics = await client.info("commandstats")
    return int(statistics.get("cmdstat_eval", {}).get("calls", 0))


def stored(redis: RedisTier, subject: str, epoch: str, horizon: int = 50) -> "asyncio.Task[bool]":
    cached = CachedUser(ANN, 1.0, epoch)
    return asyncio.create_task(redis.store_user(claims(subject), cached, 60, horizon=horizon))


async def test_answers_that_are_stored_together_share_a_script(redis: RedisTier, client: "Client") -> None:
    epoch = (await redis.begin_epoch("h1")).name
    before = await scripts_run(client)
    subjects = [f"user-{n}" for n in range(MAX_BATCH)]
    assert all(await asyncio.gather(*(stored(redis, subject, epoch) for subject in subjects)))
    assert await scripts_run(client) == before + 1
    for subject in (subjects[0], subjects[-1]):
        assert (await redis.read(claims(subject), None)).cached == CachedUser(ANN, 1.0, epoch)
        assert 59 <= await client.ttl(f"gateway:user:main:{subject}") <= 60


async def test_each_answer_of_a_batch_is_judged_by_itself(redis: RedisTier, client: "Client") -> None:
    epoch = (await redis.begin_epoch("h1")).name
    await redis.bury([("main", "changed"), ("main", "changed-before")], 50)
    await client.hset("gateway:tombstone:main:odd", "no", "version")
    results = await asyncio.gather(
        stored(redis, "first", epoch),
        stored(redis, "changed", epoch, horizon=50),
        stored(redis, "changed-before", epoch, horizon=51),
        stored(redis, "odd", epoch),
        stored(redis, "of-another-epoch", "another"),
        stored(redis, "without-epoch", ""),
        stored(redis, "last", epoch),
    )
    assert results == [True, False, True, False, False, False, True]
    subjects = ("first", "changed", "changed-before", "odd", "of-another-epoch", "without-epoch", "last")
    kept = [await client.exists(f"gateway:user:main:{subject}") for subject in subjects]
    assert kept == [1, 0, 1, 0, 0, 0, 1]


async def test_an_epoch_that_ended_refuses_a_whole_batch(redis: RedisTier) -> None:
    epoch = (await redis.begin_epoch("h1")).name
    await redis.end_epoch(100)
    assert not any(await asyncio.gather(*(stored(redis, f"{n}", epoch, horizon=200) for n in range(3))))


async def test_a_redis_that_is_silent_stores_nothing_and_is_named(redis_url: str) -> None:
    async with Cable(redis_url) as cable:
        redis = RedisTier(cable.url, timeout=0.02)
        assert await stored(redis, "ann", "") is False
        cable.freeze()
        waiting = [stored(redis, f"{n}", "") for n in range(3)]
        failures = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(failure, StoreUnavailable) for failure in failures)
        assert "no answer in time" in str(failures[0])
        cable.thaw()
        assert await stored(redis, "ann", "") is False
        await redis.close()


async def test_closing_lets_no_caller_wait_for_ever(redis_url: str) -> None:
    async with Cable(redis_url) as cable:
        redis = RedisTier(cable.url, timeout=10.0)
        cable.freeze()
        waiting = stored(redis, "ann", "")
        await asyncio.sleep(0)
        await redis.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            await waiting
