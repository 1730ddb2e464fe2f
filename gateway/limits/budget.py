"""One limit, and the buckets that this worker has for it: where requests spend."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final, Protocol

from gateway.core.caches import LRU
from gateway.limits import fields
from gateway.limits.bucket import Bucket, Share
from gateway.limits.periods import period_at
from gateway.limits.rules import Limit

_SLICE: Final = 500
"""Buckets that are looked at before requests go on: less than a millisecond."""


class Settler(Protocol):
    """What asks Redis: `gateway.limits.lease_manager.LeaseManager`."""

    share: Share | None
    clock: Callable[[], float]

    def unix(self) -> float: ...

    def settle_soon(self, budget: "Budget", bucket: Bucket) -> "asyncio.Task[bool]":
        """Settle a lease and take the next one, in a task."""

    def has_spare(self, budget: "Budget", bucket: Bucket) -> bool: ...


class BudgetBucket(Bucket):
    """A bucket that knows its budget: what a request that one limit counts has spent of."""

    __slots__ = ("budget",)

    def __init__(self, subject: str, budget: "Budget") -> None:
        super().__init__(subject)
        self.budget = budget

    def fields(self) -> bytes:
        """Return the header fields of a response that only this limit counted; none of one in shadow."""
        budget = self.budget
        limit = budget.limit
        return b"" if limit.shadow else fields.complete(budget.head, limit, self, budget.manager.clock)

    def release(self) -> None:
        """End a request: of a concurrency, another one may begin."""
        if self.budget.limit.kind == "concurrency":
            self.budget.put_back(self)


class Budget:
    """One limit, and the buckets that this worker has for it."""

    __slots__ = ("_is_concurrency", "allowed", "buckets", "head", "limit", "manager", "policy")

    def __init__(self, limit: Limit, manager: Settler, capacity: int) -> None:
        self.limit = limit
        self._is_concurrency = limit.kind == "concurrency"
        self.policy = fields.policy(limit)
        """The item of `RateLimit-Policy`."""
        self.head = fields.head(limit)
        """The beginning of the fields of a response that only this limit counted."""
        self.manager = manager
        self.allowed = 0
        """The requests that passed, which metrics read."""
        self.buckets: LRU[str, BudgetBucket] = LRU(capacity)

    def bucket(self, subject: str) -> BudgetBucket:
        """Return the bucket of a subject, a new one if there is none; it is the one that was used last."""
        bucket = self.buckets.get(subject)
        if bucket is None:
            bucket = BudgetBucket(subject, self)
            self.buckets.put(subject, bucket)
        return bucket

    def touch(self, bucket: Bucket) -> None:
        """Note that a bucket is in use: the one that was used least recently is forgotten first.

        Not for each token of a lease, which would cost as much as to spend it: when the lease is renewed.
        """
        self.buckets.get(bucket.subject)

    async def slices(self) -> AsyncIterator[list[BudgetBucket]]:
        """Yield all buckets that there are now, in slices, between which requests go on."""
        buckets = [bucket for _, bucket in self.buckets.newest()]
        for start in range(0, len(buckets), _SLICE):
            yield buckets[start : start + _SLICE]
            await asyncio.sleep(0)

    def try_take(self, bucket: Bucket, now: float) -> bool | None:
        """Spend a token without waiting; None: Redis must be asked, by `take`."""
        manager, tokens = self.manager, bucket.tokens
        if tokens > 0 and now < bucket.until and manager.share is None:
            # As `Bucket.take`, with fewer calls: most requests end here.
            bucket.tokens = tokens = tokens - 1
            if self._is_concurrency:
                bucket.running += 1
            if tokens == bucket.low and bucket.flight is None:
                manager.settle_soon(self, bucket)
            return True
        self.touch(bucket)
        limit = self.limit
        if limit.kind == "quota" and (now >= bucket.ends or not bucket.period):
            self._begin_period(bucket, now)
        share = manager.share
        if share is None:
            return False if now < bucket.refused_until else None
        if limit.kind != "concurrency" and bucket.take(limit, now):
            return True
        return bucket.take_local(limit, now, share)

    async def take(self, bucket: Bucket) -> bool:
        """Spend a token; wait for a lease, not longer than Redis may take. Never raises."""
        bucket.waiting += 1
        try:
            while True:
                taken = self.try_take(bucket, self.manager.clock())
                if taken is not None:
                    return taken
                task = bucket.flight
                if not isinstance(task, asyncio.Task):
                    task = self.manager.settle_soon(self, bucket)
                # It serves other requests, too: the end of this one must not cancel it.
                await asyncio.shield(task)
        finally:
            bucket.waiting -= 1
            self._give_back(bucket)

    def put_back(self, bucket: Bucket) -> None:
        """Undo a `take`, or end a request of a concurrency."""
        bucket.put_back(self.limit)
        self._give_back(bucket)

    def _give_back(self, bucket: Bucket) -> None:
        if (
            self.limit.kind == "concurrency"
            and bucket.flight is None
            and self.manager.has_spare(self, bucket)
        ):
            self.manager.settle_soon(self, bucket)

    def _begin_period(self, bucket: Bucket, now: float) -> None:
        limit, unix = self.limit, self.manager.unix()
        period = period_at(unix, limit.unit, limit.time_zone)
        bucket.begin(period.name, now + period.ends - unix)
