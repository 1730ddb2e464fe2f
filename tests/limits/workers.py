"""Simulated workers of several gateways: each has its own leases and connections to one real Redis."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from redis.asyncio import Redis

from gateway.core.model import StoreUnavailable, Tier
from gateway.limits.lease_manager import GRACE_SECONDS, LeaseManager
from gateway.limits.ledger import Ask, Beat, Grant, Usage
from gateway.limits.rules import Limit
from gateway.stores.redis.keys import Keys
from gateway.stores.redis.limits import RedisLimits
from gateway.stores.redis.ownership import Ownership
from gateway.stores.redis.topology import server_at
from tests.fakes import Clock


@dataclass
class KeptUsages:
    """A system of record."""

    rows: dict[tuple[str, str, str], int] = field(default_factory=dict)
    down: bool = False

    async def used(self, limit: str, subject: str, period: str) -> int:
        self._check()
        return self.rows.get((limit, subject, period), 0)

    async def save(self, usages: Sequence[Usage]) -> None:
        self._check()
        for each in usages:
            key = each.limit, each.subject, each.period
            self.rows[key] = max(each.used, self.rows.get(key, 0))

    def _check(self) -> None:
        if self.down:
            raise StoreUnavailable(Tier.POSTGRES, "pulled")


class Line:
    """A worker's way to Redis, which a test can cut; counts what goes over it."""

    def __init__(self, limits: RedisLimits) -> None:
        self.limits = limits
        self.down = False
        self.asks = 0

    async def lease(self, ask: Ask) -> Grant | None:
        self.asks += 1
        self._check()
        return await self.limits.lease(ask)

    async def beat(self, worker: str) -> Beat:
        self._check()
        return await self.limits.beat(worker)

    async def leave(self, worker: str) -> None:
        self._check()
        await self.limits.leave(worker)

    def _check(self) -> None:
        if self.down:
            raise StoreUnavailable(Tier.REDIS, "cut")


@dataclass
class Worker:
    """One worker."""

    manager: LeaseManager
    line: Line

    async def take(self, limit: str, subject: str = "ann") -> bool:
        """Let one request of a subject in, or refuse it."""
        budget = self.manager.budgets[limit]
        bucket = budget.bucket(subject)
        taken = budget.try_take(bucket, self.manager.clock())
        return await budget.take(bucket) if taken is None else taken

    def end(self, limit: str, subject: str = "ann") -> None:
        """End a request of a concurrency."""
        budget = self.manager.budgets[limit]
        budget.put_back(budget.bucket(subject))

    async def idle(self) -> None:
        """Wait for what it asks in the background."""
        while self.manager._tasks:
            await asyncio.gather(*self.manager._tasks)
            # From Python 3.12 on, waiting for tasks that have ended lets nothing else run.
            await asyncio.sleep(0)


class Floor:
    """All workers."""

    def __init__(self, url: str, client: Redis, limits: Sequence[Limit], clock: Clock) -> None:
        self.usages = KeptUsages()
        self.clock = clock
        self.workers: list[Worker] = []
        self._url = url
        self._client = client
        self._limits = limits
        self._made = 0

    async def hire(self, number: int) -> None:
        """Add workers, and let each know of the others."""
        for _ in range(number):
            self._made += 1
            name = f"worker-{self._made:03}"
            keys, server = Keys("gateway:"), server_at(self._url, "gateway:")
            ownership = Ownership(self._client, server.address, keys, None)
            line = Line(RedisLimits(server, ownership, keys, name, timeout=5.0, connect_timeout=5.0))
            manager = LeaseManager(self._limits, line, self.usages, worker=name, clock=self.clock)
            self.workers.append(Worker(manager, line))
            await manager.beat()
        await self.beat()

    async def kill(self, worker: Worker) -> None:
        """End a worker without a word."""
        self.workers.remove(worker)
        await worker.line.limits.close()

    async def beat(self) -> None:
        for worker in self.workers:
            await worker.manager.beat()

    async def sweep(self) -> None:
        for worker in self.workers:
            await worker.manager.sweep()

    async def pass_time(self, seconds: float) -> None:
        """Let time pass by the workers' clocks, with their heartbeats."""
        while seconds > 0:
            self.clock.now += min(1.0, seconds)
            seconds -= 1.0
            await self.beat()
            await self.sweep()

    def cut(self, *, down: bool = True) -> None:
        """Cut Redis off from all workers, or bring it back."""
        for worker in self.workers:
            worker.line.down = down

    async def come_back(self) -> None:
        """Bring Redis back, and wait until all take leases again."""
        self.cut(down=False)
        await self.pass_time(GRACE_SECONDS + 2)
        assert all(worker.manager.share is None for worker in self.workers)

    async def close(self) -> None:
        for worker in self.workers:
            await worker.idle()
            await worker.line.limits.close()


@asynccontextmanager
async def floor(url: str, client: Redis, *limits: Limit, workers: int = 8) -> AsyncIterator[Floor]:
    """Run workers, which share limits."""
    all_workers = Floor(url, client, limits, Clock())
    try:
        await all_workers.hire(workers)
        yield all_workers
    finally:
        await all_workers.close()
