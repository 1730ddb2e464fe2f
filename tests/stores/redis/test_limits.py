"""The budgets of limits in a real Redis."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis as Client

from gateway.core.model import StoreUnavailable
from gateway.limits.ledger import Ask, Grant
from gateway.stores.redis.keys import Keys
from gateway.stores.redis.limits import RedisLimits
from gateway.stores.redis.ownership import Ownership
from gateway.stores.redis.topology import server_at


@pytest.fixture
async def limits(redis_url: str, client: Client) -> AsyncIterator[RedisLimits]:
    keys, server = Keys("gateway:"), server_at(redis_url, "gateway:")
    ownership = Ownership(client, server.address, keys, None)
    made = RedisLimits(server, ownership, keys, "one", timeout=5.0, connect_timeout=5.0)
    yield made
    await made.close()


def ask(era: str, *, kind: str = "rate", want: int = 1, ahead: int = 0, **rest: int) -> Ask:
    told = {"registered": 0, "epoch": -1, "keep": 0, "back": 0, "debt": 0, "seed": -1, **rest}
    return Ask(
        "a", "ann", "", kind, 10, 3600.0, 4e9 if kind == "quota" else 0.0, want, ahead, era=era, **told  # type: ignore[arg-type]
    )  # fmt: skip


async def test_a_rate_counts_down_and_expires(limits: RedisLimits, client: Client) -> None:
    era = (await limits.beat("one")).era
    grants = [await limits.lease(ask(era)) for _ in range(11)]
    assert [each and (each.granted, each.left) for each in grants] == [
        *((1, left) for left in range(9, -1, -1)), (0, 0),
    ]  # fmt: skip
    last = grants[-1]
    assert last is not None
    assert 3590 < last.wait <= 3600
    (key,) = [each async for each in client.scan_iter("gateway:limit:a:*")]
    assert 36_000_000 - 60_000 < await client.pttl(key) <= 36_000_000 + 8_000
    assert b"ann" not in key


async def test_what_is_given_back_may_be_spent_again(limits: RedisLimits) -> None:
    era = (await limits.beat("one")).era
    taken = await limits.lease(ask(era, want=10))
    assert taken is not None
    assert (taken.granted, taken.left) == (10, 0)
    again = await limits.lease(ask(era, want=5, back=3, epoch=taken.epoch))
    assert again is not None
    assert (again.granted, again.left) == (3, 0)


async def test_another_era_changes_nothing(limits: RedisLimits, client: Client) -> None:
    era = (await limits.beat("one")).era
    await client.flushdb()
    assert await limits.lease(ask(era)) is None
    assert [each async for each in client.scan_iter("gateway:limit:*")] == []
    assert (await limits.beat("one")).era != era


async def test_a_quota_that_redis_does_not_know(limits: RedisLimits) -> None:
    era = (await limits.beat("one")).era
    assert await limits.lease(ask(era, kind="quota")) == Grant(0, 0, -1, -1, 0.0, unknown=True)
    seeded = await limits.lease(ask(era, kind="quota", seed=7))
    assert seeded is not None
    assert (seeded.granted, seeded.left) == (1, 2)


async def test_a_command_that_comes_late_does_nothing(limits: RedisLimits) -> None:
    era = (await limits.beat("one")).era
    ahead, limits._ahead = limits._ahead, 0.0
    with pytest.raises(StoreUnavailable, match="LATE"):
        await limits.lease(ask(era))
    limits._ahead = ahead
    granted = await limits.lease(ask(era))
    assert granted is not None
    assert granted.left == 9


async def test_a_command_is_never_run_twice(
    limits: RedisLimits, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    era = (await limits.beat("one")).era

    class _Same:
        hex = "same"

    monkeypatch.setattr("gateway.stores.redis.limits.uuid4", _Same)
    assert await limits.lease(ask(era)) is not None
    with pytest.raises(StoreUnavailable, match="AGAIN"):
        await limits.lease(ask(era))


async def test_workers_that_are_not_heard_of_are_no_more(limits: RedisLimits, client: Client) -> None:
    await limits.beat("two")
    beat = await limits.beat("one")
    assert (beat.workers, beat.rank) == (2, 0)
    await client.zadd("gateway:limits:workers", {"two": 0})
    assert (await limits.beat("one")).workers == 1
    await limits.leave("one")
    assert await client.zcard("gateway:limits:workers") == 0


async def test_a_budget_is_read_and_reset(limits: RedisLimits) -> None:
    era = (await limits.beat("one")).era
    assert await limits.budget("a", "", "ann") is None
    assert not await limits.reset("a", "", "ann")
    await limits.lease(ask(era, want=10))
    assert await limits.budget("a", "", "ann") is not None
    assert await limits.reset("a", "", "ann")
    anew = await limits.lease(ask(era))
    assert anew is not None
    assert anew.left == 9


async def test_a_value_of_another_program_is_overwritten(limits: RedisLimits, client: Client) -> None:
    era = (await limits.beat("one")).era
    await limits.lease(ask(era))
    (key,) = [each async for each in client.scan_iter("gateway:limit:a:*")]
    await client.set(key, "odd")
    granted = await limits.lease(ask(era))
    assert granted is not None
    assert granted.left == 9
