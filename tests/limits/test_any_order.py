"""Leases, outages and ends of workers in any order: never over the limit, and none refused too early."""

import asyncio
import uuid
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from gateway.limits.rules import Limit
from tests.limits.workers import Floor, floor

WORKERS = 4
LIMITS = (
    Limit("rate", "user", "rate", 40, period=86_400.0, burst=40),
    Limit("quota", "user", "quota", 120, slack=0.2),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("spend"), st.integers(0, WORKERS - 1), st.integers(1, 12)),
        st.tuples(st.just("wait"), st.just(0), st.integers(1, 5)),
        st.tuples(st.just("cut"), st.just(0), st.just(0)),
        st.tuples(st.just("back"), st.just(0), st.just(0)),
        st.tuples(st.just("kill"), st.integers(0, WORKERS - 1), st.just(0)),
    ),
    max_size=25,
)


async def follow(all_workers: Floor, limit: Limit, steps: list[tuple[str, int, int]]) -> None:
    spent, lost, cut = 0, False, False
    for step, number, amount in steps:
        if step == "spend":
            for _ in range(amount):
                worker = all_workers.workers[number]
                got = await worker.take(limit.name)
                spent += got
                unspent = limit.capacity - spent
                assert got or cut or lost or unspent <= 0.1 * limit.capacity
                await worker.idle()
                all_workers.clock.now += 0.01
        elif step == "wait":
            await all_workers.pass_time(amount)
        elif step == "cut":
            cut = lost = True
            all_workers.cut()
        elif step == "back" and cut:
            await all_workers.come_back()
            cut = False
        elif step == "kill" and not cut:
            # Its lease is lost.
            lost = True
            await all_workers.kill(all_workers.workers[number])
            await all_workers.hire(1)
        assert spent <= limit.capacity + (limit.extra if lost else 0) + 1


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.name)
def test_any_order(limit: Limit, redis_url: str) -> None:
    with asyncio.Runner() as runner:

        async def once(steps: list[tuple[str, int, int]]) -> None:
            own = replace(limit, name=f"{limit.kind}-{uuid.uuid4().hex}")
            async with Redis.from_url(redis_url) as client:
                await client.flushdb()
                async with floor(redis_url, client, own, workers=WORKERS) as all_workers:
                    await follow(all_workers, own, steps)

        @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
        @given(steps=STEPS)
        def orders(steps: list[tuple[str, int, int]]) -> None:
            runner.run(once(steps))

        orders()
