"""Workers of several gateways over one real Redis: what they let in together."""

import asyncio
import tracemalloc
from typing import cast

import pytest
from redis.asyncio import Redis

from gateway.limits.budget import Budget
from gateway.limits.lease_manager import LeaseManager
from gateway.limits.ledger import LEASE_SECONDS, Ledger, Usages
from gateway.limits.rules import Limit
from tests.limits.workers import Floor, Worker, floor

RATE = Limit("rate", "user", "rate", 1000, period=86_400.0, burst=1000)
SMALL = Limit("small", "user", "rate", 20, period=86_400.0, burst=20)
FAST = Limit("fast", "user", "rate", 2000, period=1.0, burst=50)
QUOTA = Limit("quota", "user", "quota", 1000)
SLOTS = Limit("slots", "user", "concurrency", 100)
FEW = Limit("few", "user", "concurrency", 5)


async def spend(workers: list[Worker], limit: str, each: int) -> int:
    """Send requests to all workers in turn; return how many get in."""
    got = 0
    for _ in range(each):
        got += sum(await asyncio.gather(*(worker.take(limit) for worker in workers)))
    return got


@pytest.mark.parametrize("limit", [RATE, SMALL, QUOTA], ids=lambda limit: limit.name)
async def test_workers_let_in_what_the_limit_allows(redis_url: str, client: Redis, limit: Limit) -> None:
    async with floor(redis_url, client, limit) as all_workers:
        got = await spend(all_workers.workers, limit.name, limit.amount // 4)
        # While it runs, a second or two of the rate may come back.
        assert limit.capacity * 0.9 <= got <= limit.capacity + 1


async def test_one_worker_may_spend_all_of_it(redis_url: str, client: Redis) -> None:
    async with floor(redis_url, client, RATE) as all_workers:
        assert await spend(all_workers.workers[:1], "rate", 1200) in (1000, 1001)


async def test_no_round_trip_for_each_request(redis_url: str, client: Redis) -> None:
    async with floor(redis_url, client, RATE) as all_workers:
        for _ in range(8):
            for _ in range(10):
                assert await spend(all_workers.workers, "rate", 1) == 8
                for worker in all_workers.workers:
                    await worker.idle()
                all_workers.clock.now += 0.1
        # 640 requests; the first ones of each worker ask, then leases last.
        assert sum(worker.line.asks for worker in all_workers.workers) < 320


async def test_one_round_trip_for_a_request_that_comes_once(redis_url: str, client: Redis) -> None:
    async with floor(redis_url, client, RATE, QUOTA, workers=1) as all_workers:
        (worker,) = all_workers.workers
        for name in ("rate", "quota"):
            for number in range(10):
                assert await worker.take(name, f"user-{number}")
        asked = worker.line.asks
        await all_workers.pass_time(6)
        assert worker.line.asks == asked
        # What they spent is known nevertheless, when Redis forgets it.
        await client.flushdb()
        await worker.take("rate", "another")
        await all_workers.come_back()
        assert await spend_of(worker, "user-3", 1100) in (999, 1000)


async def spend_of(worker: Worker, subject: str, number: int) -> int:
    return sum([await worker.take("rate", subject) for _ in range(number)])


async def test_a_steady_load_stays_within_the_limit(redis_url: str, client: Redis) -> None:
    loop = asyncio.get_running_loop()
    async with floor(redis_url, client, FAST) as all_workers:
        for worker in all_workers.workers:
            worker.manager.clock = loop.time
        began, got = loop.time(), 0
        while loop.time() - began < 1.0:
            got += await spend(all_workers.workers, "fast", 5)
            await asyncio.sleep(0.001)
        allowed = FAST.burst + (loop.time() - began) * FAST.amount
        assert got <= allowed * 1.01


async def test_redis_gone_each_worker_goes_on_with_its_share(redis_url: str, client: Redis) -> None:
    async with floor(redis_url, client, RATE, QUOTA, SMALL) as all_workers:
        before = {name: await spend(all_workers.workers, name, 10) for name in ("rate", "quota", "small")}
        assert before == {"rate": 80, "quota": 80, "small": 20}
        all_workers.cut()
        for limit in (RATE, QUOTA, SMALL):
            more = await spend(all_workers.workers, limit.name, 200)
            # What was leased before, and the slack.
            assert limit.extra <= more <= limit.extra + 0.05 * limit.capacity
            assert before[limit.name] + more <= limit.capacity * (1 + limit.slack)


async def test_a_share_fills_at_the_rate_of_all_divided_by_the_workers(redis_url: str, client: Redis) -> None:
    limit = Limit("rate", "user", "rate", 60, period=60.0, burst=60)
    async with floor(redis_url, client, limit, workers=4) as all_workers:
        all_workers.cut()
        assert await spend(all_workers.workers, "rate", 10) == limit.extra
        all_workers.clock.now += 20.0
        assert await spend(all_workers.workers, "rate", 20) == 20


async def test_what_was_spent_meanwhile_is_not_spent_again(redis_url: str, client: Redis) -> None:
    async with floor(redis_url, client, RATE, QUOTA) as all_workers:
        got = {name: await spend(all_workers.workers, name, 50) for name in ("rate", "quota")}
        all_workers.cut()
        for name in got:
            got[name] += await spend(all_workers.workers, name, 50)
        await all_workers.come_back()
        for name in got:
            got[name] += await spend(all_workers.workers, name, 200)
            assert 950 <= got[name] <= 1005, name


async def test_busy_workers_come_back_at_once(redis_url: str, client: Redis) -> None:
    """There is no moment without a request that was just counted in the share."""
    limit = Limit("rate", "user", "rate", 1000, period=60.0, burst=1000)
    async with floor(redis_url, client, limit, workers=2) as all_workers:
        all_workers.cut()
        await all_workers.beat()
        busy = True

        async def load(worker: Worker) -> None:
            number = 0
            while busy:
                number += 1
                await worker.take("rate", f"user-{number % 50}")
                await asyncio.sleep(0)

        loads = [asyncio.create_task(load(worker)) for worker in all_workers.workers]
        try:
            await asyncio.sleep(0.02)
            await all_workers.come_back()
            await asyncio.sleep(0.02)
        finally:
            busy = False
            await asyncio.gather(*loads)
        for worker in all_workers.workers:
            await worker.idle()
            assert await worker.manager._owing() == []


async def test_many_buckets_are_looked_at_in_parts() -> None:
    manager = LeaseManager([RATE], cast("Ledger", None), cast("Usages", None), capacity=20_000)
    budget, others = manager.budgets["rate"], 0
    for number in range(20_000):
        budget.bucket(f"user-{number}")
    looking = asyncio.create_task(manager._owing())
    while not looking.done():
        await asyncio.sleep(0)
        others += 1
    assert others > 8


async def test_debts_are_told_without_another_request(redis_url: str, client: Redis) -> None:
    async with floor(redis_url, client, RATE, QUOTA, workers=4) as all_workers:
        all_workers.cut()
        got = {name: await spend(all_workers.workers[:2], name, 100) for name in ("rate", "quota")}
        assert got == {"rate": 50, "quota": 50}
        await all_workers.come_back()
        for name in got:
            assert await spend(all_workers.workers[2:], name, 600) in (950, 951), name


async def test_a_redis_that_came_back_empty_is_told_what_was_spent(redis_url: str, client: Redis) -> None:
    async with floor(redis_url, client, RATE, QUOTA) as all_workers:
        got = {name: await spend(all_workers.workers, name, 100) for name in ("rate", "quota")}
        assert got == {"rate": 800, "quota": 800}
        await client.flushdb()
        for name in got:
            got[name] += await spend(all_workers.workers, name, 5)
        await all_workers.come_back()
        for name in got:
            got[name] += await spend(all_workers.workers, name, 200)
            assert 900 <= got[name] <= 1010, name


async def test_quotas_outlive_redis_and_every_worker(redis_url: str, client: Redis) -> None:
    async with floor(redis_url, client, QUOTA) as all_workers:
        assert await spend(all_workers.workers, "quota", 100) == 800
        for worker in tuple(all_workers.workers):
            await worker.manager._save()
            await all_workers.kill(worker)
        await client.flushdb()
        await all_workers.hire(8)
        assert 150 <= await spend(all_workers.workers, "quota", 100) <= 200


async def test_what_is_to_be_copied_is_bounded(redis_url: str, client: Redis) -> None:
    async with floor(redis_url, client, QUOTA, workers=1) as all_workers:
        (worker,) = all_workers.workers
        worker.manager._capacity = 5
        for number in range(10):
            assert await worker.take("quota", f"user-{number}")
        assert await worker.take("quota", "user-0")
        await worker.manager._save()
        assert len(all_workers.usages.rows) == 5


async def test_a_quota_that_no_store_knows_is_refused(redis_url: str, client: Redis) -> None:
    async with floor(redis_url, client, QUOTA, workers=1) as all_workers:
        all_workers.usages.down = True
        assert not await all_workers.workers[0].take("quota")
        all_workers.usages.down = False
        all_workers.clock.now += 1.5
        assert await all_workers.workers[0].take("quota")


async def test_idle_workers_give_their_leases_back(redis_url: str, client: Redis) -> None:
    async with floor(redis_url, client, RATE, workers=2) as all_workers:
        first, second = all_workers.workers
        for _ in range(20):
            assert await first.take("rate")
            all_workers.clock.now += 0.01
            await first.idle()
        assert first.manager.budgets["rate"].bucket("ann").tokens > 0
        await all_workers.pass_time(3)
        assert first.manager.budgets["rate"].bucket("ann").tokens == 0
        assert await spend([second], "rate", 1000) >= 980


async def test_a_worker_that_ends_gives_its_leases_back(redis_url: str, client: Redis) -> None:
    async with floor(redis_url, client, QUOTA, workers=2) as all_workers:
        first, second = all_workers.workers
        for _ in range(20):
            assert await first.take("quota")
            all_workers.clock.now += 0.01
            await first.idle()
        await first.manager.close()
        assert await spend([second], "quota", 1000) == 980
        assert (await second.line.beat("worker-002")).workers == 1


async def test_killed_workers_are_replaced(redis_url: str, client: Redis) -> None:
    async with floor(redis_url, client, RATE) as all_workers:
        got = await spend(all_workers.workers, "rate", 30)
        for worker in all_workers.workers[:4]:
            await all_workers.kill(worker)
        await all_workers.hire(4)
        got += await spend(all_workers.workers, "rate", 200)
        assert 900 <= got <= 1001


@pytest.mark.parametrize("limit", [SLOTS, FEW], ids=lambda limit: limit.name)
async def test_a_concurrency_is_of_all_workers_together(redis_url: str, client: Redis, limit: Limit) -> None:
    async with floor(redis_url, client, limit) as all_workers:
        running = [
            worker for _ in range(20) for worker in all_workers.workers if await worker.take(limit.name)
        ]
        assert limit.amount * 0.9 <= len(running) <= limit.amount
        for worker in running:
            worker.end(limit.name)
        for worker in all_workers.workers:
            await worker.idle()
        all_workers.clock.now += 0.1
        assert await spend(all_workers.workers[:1], limit.name, 200) >= limit.amount * 0.9


async def test_running_requests_stay_on_record(redis_url: str, client: Redis) -> None:
    async with floor(redis_url, client, FEW, workers=2) as all_workers:
        first, second = all_workers.workers
        assert await spend([first], "few", 8) == 5
        for _ in range(5):
            await all_workers.pass_time(2)
            assert not await second.take("few")


async def test_without_redis_each_worker_has_its_part_of_a_concurrency(redis_url: str, client: Redis) -> None:
    async with floor(redis_url, client, FEW, workers=4) as all_workers:
        all_workers.cut()
        await all_workers.beat()
        assert await spend(all_workers.workers, "few", 5) == 5
        await all_workers.come_back()
        assert await spend(all_workers.workers, "few", 5) == 0


async def test_a_redis_that_was_never_there(redis_url: str, client: Redis) -> None:
    async with floor(redis_url, client, RATE, workers=0) as all_workers:
        await hire_apart(all_workers)
        assert await spend(all_workers.workers, "rate", 200) == RATE.extra
        await all_workers.come_back()
        assert 890 <= await spend(all_workers.workers, "rate", 2000) <= 910


async def hire_apart(all_workers: Floor) -> None:
    await all_workers.hire(1)
    worker = all_workers.workers[0]
    worker.manager.__init__(  # type: ignore[misc] # a worker that starts while Redis is down
        [RATE], worker.line, all_workers.usages, worker="worker-001", clock=all_workers.clock
    )
    worker.line.down = True


@pytest.mark.parametrize("hours", [1, 24])
async def test_a_clock_of_redis_that_goes_back_locks_no_one_out(
    redis_url: str, client: Redis, hours: int
) -> None:
    async with floor(redis_url, client, SMALL, RATE, workers=1) as all_workers:
        assert await spend(all_workers.workers, "rate", 100) == 100
        assert await spend(all_workers.workers, "small", 5) == 5
        for worker in all_workers.workers:
            await worker.manager.close()
        # The same as a clock that shows less: what is on record is from later.
        for key in await client.keys("gateway:limit:*"):
            held_there = await client.get(key)
            assert held_there is not None
            base, epoch, *held = held_there.split()
            later = hours * 3600
            shifted = (float(base) + later * 1e6, int(epoch) + later // 4, *map(int, held))
            await client.set(key, "{:.2f} {} {} {}".format(*shifted))
        await all_workers.hire(1)
        assert 890 <= await spend(all_workers.workers[1:], "rate", 1000) <= 900
        assert await spend(all_workers.workers[1:], "small", 20) in (14, 15)


@pytest.mark.parametrize(
    ("amount", "left"), [(40, 25), (21, 6), (20, 5), (16, 1), (10, 0)], ids=lambda value: str(value)
)
async def test_what_was_spent_counts_under_another_rate_of_that_name(
    redis_url: str, client: Redis, amount: int, left: int
) -> None:
    async with floor(redis_url, client, SMALL, workers=1) as before:
        assert await spend(before.workers, "small", 15) == 15
    changed = Limit("small", "user", "rate", amount, period=3600.0, burst=amount)
    async with floor(redis_url, client, changed, workers=1) as after:
        assert await spend(after.workers, "small", 50) == left


async def test_a_limit_that_is_made_smaller_locks_no_one_out_for_longer_than_it_takes_to_fill_twice(
    redis_url: str, client: Redis
) -> None:
    async with floor(redis_url, client, SMALL, workers=1) as before:
        assert await spend(before.workers, "small", 30) == 20
    smaller = Limit("small", "user", "rate", 2, period=1.0, burst=2)
    async with floor(redis_url, client, smaller, workers=1) as after:
        worker = after.workers[0]
        assert not await worker.take("small")
        assert worker.manager.budgets["small"].bucket("ann").retry_at - after.clock() <= 2.0


def test_what_a_subject_takes_is_bounded() -> None:
    """docs/limits.md says about 0.6 KiB."""
    manager = LeaseManager([RATE], cast("Ledger", None), cast("Usages", None))
    budget = manager.budgets["rate"]
    tracemalloc.start()
    try:
        for number in range(2000):
            budget.bucket(f"01234567-89ab-cdef-0123-{number:012}")
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used / 2000 < 720


async def test_memory_is_bounded(redis_url: str, client: Redis) -> None:
    async with floor(redis_url, client, RATE, workers=1) as all_workers:
        manager = all_workers.workers[0].manager
        budget = type(manager.budgets["rate"])(RATE, manager, 100)
        for number in range(1000):
            budget.bucket(f"user-{number}")
        assert len(budget.buckets) == 100


async def test_who_spends_a_lease_is_not_forgotten_first(redis_url: str, client: Redis) -> None:
    async with floor(redis_url, client, RATE, workers=1) as all_workers:
        (worker,) = all_workers.workers
        manager = worker.manager
        manager.budgets["rate"] = budget = Budget(RATE, manager, 2)
        assert await spend([worker], "rate", 20) == 20
        all_workers.clock.now += 1.0
        assert await spend([worker], "rate", 5) == 5
        await worker.idle()
        ann = budget.bucket("ann")
        budget.bucket("ben")
        asked = worker.line.asks
        assert budget.try_take(ann, manager.clock())
        assert worker.line.asks == asked
        await all_workers.pass_time(LEASE_SECONDS / 2)
        budget.bucket("cyn")
        assert [budget.buckets.peek(name) for name in ("ann", "ben")] == [ann, None]
