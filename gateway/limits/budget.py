"""One limit, and the purses that this worker has for it: where requests spend."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final, Protocol

from gateway.core.caches import LRU
from gateway.limits import fields
from gateway.limits.periods import period_at
from gateway.limits.purse import Purse, Share
from gateway.limits.rules import Limit

_SLICE: Final = 500
"""Purses that are looked at before requests go on: less than a millisecond."""


class Settler(Protocol):
    """What asks Redis: `gateway.limits.house.House`."""

    share: Share | None
    clock: Callable[[], float]

    def unix(self) -> float: ...

    def settle_soon(self, budget: "Budget", purse: Purse) -> "asyncio.Task[bool]":
        """Settle a lease and take the next one, in a task."""

    def has_spare(self, budget: "Budget", purse: Purse) -> bool: ...


class OwnPurse(Purse):
    """A purse that knows its budget: what a request that one limit counts has spent of."""

    __slots__ = ("budget",)

    def __init__(self, subject: str, budget: "Budget") -> None:
        super().__init__(subject)
        self.budget = budget

    def fields(self) -> bytes:
        """Return the header fields of a response that only this limit counted; none of one in shadow."""
        budget = self.budget
        limit = budget.limit
        return b"" if limit.shadow else fields.complete(budget.head, limit, self, budget.house.clock)

    def release(self) -> None:
        """End a request: of a concurrency, another one may begin."""
        if self.budget.limit.kind == "concurrency":
            self.budget.put_back(self)


class Budget:
    """One limit, and the purses that this worker has for it."""

    __slots__ = ("_is_concurrency", "allowed", "head", "house", "limit", "policy", "purses")

    def __init__(self, limit: Limit, house: Settler, capacity: int) -> None:
        self.limit = limit
        self._is_concurrency = limit.kind == "concurrency"
        self.policy = fields.policy(limit)
        """The item of `RateLimit-Policy`."""
        self.head = fields.head(limit)
        """The beginning of the fields of a response that only this limit counted."""
        self.house = house
        self.allowed = 0
        """The requests that passed, which metrics read."""
        self.purses: LRU[str, OwnPurse] = LRU(capacity)

    def purse(self, subject: str) -> OwnPurse:
        """Return the purse of a subject, a new one if there is none; it is the one that was used last."""
        purse = self.purses.get(subject)
        if purse is None:
            purse = OwnPurse(subject, self)
            self.purses.put(subject, purse)
        return purse

    def touch(self, purse: Purse) -> None:
        """Note that a purse is in use: the one that was used least recently is forgotten first.

        Not for each token of a lease, which would cost as much as to spend it: when the lease is renewed.
        """
        self.purses.get(purse.subject)

    async def slices(self) -> AsyncIterator[list[OwnPurse]]:
        """Yield all purses that there are now, in slices, between which requests go on."""
        purses = [purse for _, purse in self.purses.newest()]
        for start in range(0, len(purses), _SLICE):
            yield purses[start : start + _SLICE]
            await asyncio.sleep(0)

    def try_take(self, purse: Purse, now: float) -> bool | None:
        """Spend a token without waiting; None: Redis must be asked, by `take`."""
        house, tokens = self.house, purse.tokens
        if tokens > 0 and now < purse.until and house.share is None:
            # As `Purse.take`, with fewer calls: most requests end here.
            purse.tokens = tokens = tokens - 1
            if self._is_concurrency:
                purse.running += 1
            if tokens == purse.low and purse.flight is None:
                house.settle_soon(self, purse)
            return True
        self.touch(purse)
        limit = self.limit
        if limit.kind == "quota" and (now >= purse.ends or not purse.period):
            self._begin_period(purse, now)
        share = house.share
        if share is None:
            return False if now < purse.refused_until else None
        if limit.kind != "concurrency" and purse.take(limit, now):
            return True
        return purse.take_local(limit, now, share)

    async def take(self, purse: Purse) -> bool:
        """Spend a token; wait for a lease, not longer than Redis may take. Never raises."""
        purse.waiting += 1
        try:
            while True:
                taken = self.try_take(purse, self.house.clock())
                if taken is not None:
                    return taken
                task = purse.flight
                if not isinstance(task, asyncio.Task):
                    task = self.house.settle_soon(self, purse)
                # It serves other requests, too: the end of this one must not cancel it.
                await asyncio.shield(task)
        finally:
            purse.waiting -= 1
            self._give_back(purse)

    def put_back(self, purse: Purse) -> None:
        """Undo a `take`, or end a request of a concurrency."""
        purse.put_back(self.limit)
        self._give_back(purse)

    def _give_back(self, purse: Purse) -> None:
        if self.limit.kind == "concurrency" and purse.flight is None and self.house.has_spare(self, purse):
            self.house.settle_soon(self, purse)

    def _begin_period(self, purse: Purse, now: float) -> None:
        limit, unix = self.limit, self.house.unix()
        period = period_at(unix, limit.unit, limit.time_zone)
        purse.begin(period.name, now + period.ends - unix)
