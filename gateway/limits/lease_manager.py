"""The buckets of one worker, and what it asks Redis for them.

======== ====================================== ======== ====================================================
State    Event                                  Next     What follows
======== ====================================== ======== ====================================================
apart    a heartbeat is answered                joining  debts are told; the worker goes on with its share
joining  `GRACE_SECONDS` have passed            shared   leases are taken
joining  Redis does not answer                  apart    the share goes on
shared   Redis does not answer in time          apart    the worker goes on with its share
shared   Redis has lost what it knew            joining  all that was spent is told
======== ====================================== ======== ====================================================

`joining` is for debts: no worker takes a lease before each other one has had the time to tell what it owes.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final
from uuid import uuid4

import structlog

from gateway.core.model import StoreUnavailable
from gateway.limits.bucket import LONGEST_REFUSAL, Bucket, Share
from gateway.limits.budget import Budget
from gateway.limits.ledger import LEASE_SECONDS, Ask, Beat, Grant, Ledger, Usage, Usages
from gateway.limits.rules import Limit

BEAT_SECONDS: Final = 1.0
"""Seconds between two heartbeats of a worker."""
GRACE_SECONDS: Final = 2.5
"""Seconds in which every worker has noticed that Redis is back, and has told its debts."""
SAVE_SECONDS: Final = 2.0
"""Seconds between two copies of the quotas to the system of record."""
_EMPTIED: Final = "Redis has lost its data"
_TOGETHER: Final = 200
"""Leases that are settled at the same time, in the background."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class LeaseManager:
    """All limits of one worker."""

    def __init__(
        self,
        limits: Sequence[Limit],
        ledger: Ledger,
        usages: Usages,
        *,
        worker: str | None = None,
        workers: int = 1,
        capacity: int = 100_000,
        clock: Callable[[], float] = time.monotonic,
        unix: Callable[[], float] = time.time,
        report: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        """`workers` is how many share the limits before Redis has told. `capacity` is in buckets of a limit.

        `clock` only measures durations; `unix` counts until Redis has told its time. `report` is called with
        the reason when the worker goes on with its share, and with None when it takes leases again.
        """
        self.clock = clock
        self._unix = unix
        self._ledger = ledger
        self._usages = usages
        self.worker = worker or uuid4().hex
        self.budgets = {limit.name: Budget(limit, self, capacity) for limit in limits}
        self._capacity = capacity
        self._workers, self._rank = max(1, workers), 0
        self._outages = 1
        self.share: Share | None = Share(self._workers, 0, 1, clock())
        """The share with which this worker goes on; None while Redis answers."""
        self.era = ""
        self._ahead: float | None = None
        """The clock of Redis less that of this worker."""
        self._joined_at = math.inf
        self._report = report
        self._told: str | None = None
        self._leases: dict[Bucket, tuple[Budget, float]] = {}
        """The buckets that have a lease, and since when; the oldest first."""
        self._used: dict[tuple[str, str, str], Usage] = {}
        """The quotas that have not been copied to the system of record."""
        self._tasks: set[asyncio.Task[bool]] = set()
        self._beating: asyncio.Task[None] | None = None
        self._closed = False
        self._quotas_unknown = False
        """Whether the system of record could not tell a quota; it is logged once."""

    def unix(self) -> float:
        """Return the time by the clock of Redis, in Unix seconds."""
        return self._unix() if self._ahead is None else self.clock() + self._ahead

    @property
    def workers(self) -> int:
        """How many workers share the limits, as far as is known."""
        return self._workers

    # Life --------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Ask Redis once, and go on to do so in the background."""
        await self.beat()
        self._beating = asyncio.create_task(self._live())

    async def close(self) -> None:
        """Give back all leases, and copy the quotas. Waits no longer than the stores may take."""
        self._closed = True
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
        if self.share is None:
            leases = [(budget, bucket) for bucket, (budget, _) in self._leases.items()]
            await self._settle_all(leases, keep=False)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(StoreUnavailable):
            await self._save()
        with suppress(StoreUnavailable):
            await self._ledger.leave(self.worker)

    async def _live(self) -> None:
        saved = self.clock()
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            try:
                await self.beat()
                await self.sweep()
                if self.clock() - saved >= SAVE_SECONDS:
                    saved = self.clock()
                    await self._save()
            except StoreUnavailable:
                # Of the system of record: the numbers stay, and are copied the next time.
                pass
            except Exception:  # a bug must not end the heartbeats
                log.exception("limits_failed")

    # Redis -------------------------------------------------------------------------------------------

    async def beat(self) -> None:
        """Tell Redis that this worker lives; come back to it, if it answers again."""
        sent = self.clock()
        try:
            beat = await self._ledger.beat(self.worker)
        except StoreUnavailable as error:
            self._part(error.detail)
            return
        await self._heard(beat, sent)
        if self.share is not None:
            await self._join()

    async def _heard(self, beat: Beat, sent: float) -> None:
        self._ahead = beat.now - sent
        if self.share is None or beat.workers > self._workers:
            # A Redis that has come back does not know all workers at once.
            self._workers, self._rank = max(1, beat.workers), beat.rank
        if self.era and beat.era != self.era:
            self._part(_EMPTIED)
        if not self.era:
            # This worker has never taken a lease from Redis, but may have spent its share.
            self._joined_at = math.inf if await self._owing() else -math.inf
        self.era = beat.era

    def _part(self, why: str) -> None:
        """Go on with the share."""
        self._joined_at = math.inf
        if self._told is None:
            self._told = why
            self._report(why)
        if self.share is None:
            self._outages += 1
            self.share = Share(self._workers, self._rank, self._outages, self.clock())

    async def _join(self) -> None:
        """Come back to Redis: tell it all debts, and take leases once all workers have done so."""
        now = self.clock()
        if self._joined_at == math.inf:
            self._joined_at = now + GRACE_SECONDS
        share = self.share
        if share is not None and (share.workers, share.rank) != (self._workers, self._rank):
            self.share = Share(self._workers, self._rank, share.outage, share.since)
        if not await self._settle_all(await self._owing(), keep=True) or self.clock() < self._joined_at:
            return
        if self._told is not None:
            self._report(None)
        self.share, self._told = None, None
        # Requests went on meanwhile. What they spent is within the slack: waiting for a moment without any
        # would keep a busy worker from ever coming back.
        await self._settle_all(await self._owing(), keep=True)

    async def _owing(self) -> list[tuple[Budget, Bucket]]:
        """Return the buckets of which Redis must be told. Requests go on meanwhile."""
        now = self.clock()
        found: list[tuple[Budget, Bucket]] = []
        for budget in self.budgets.values():
            async for buckets in budget.slices():
                found += [(budget, bucket) for bucket in buckets if bucket.owes(budget.limit, now, self.era)]
        return found

    # Leases ------------------------------------------------------------------------------------------

    def settle_soon(self, budget: Budget, bucket: Bucket) -> "asyncio.Task[bool]":
        """Settle a lease and take the next one, in a task."""
        budget.touch(bucket)
        task = asyncio.create_task(self._settle(budget, bucket, keep=True))
        bucket.flight = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _settle(self, budget: Budget, bucket: Bucket, *, keep: bool) -> bool:
        """Settle a lease and take the next one; return whether Redis has answered. Never raises."""
        limit, sent = budget.limit, self.clock()
        bucket.flight = bucket.flight or asyncio.current_task()
        ends = self.unix() + bucket.ends - sent if limit.kind == "quota" else 0.0
        more = self.share is None and (keep or bucket.waiting > 0)
        ask = bucket.ask(limit, sent, self._workers, self.era, keep=keep, more=more, ends=ends)
        try:
            grant = await self._ledger.lease(ask)
            if grant is not None and grant.unknown:
                grant = await self._ledger.lease(await self._seeded(ask))
            if grant is None:
                bucket.unanswered()
                self._part(_EMPTIED)
                return False
            self._take_in(budget, bucket, ask, grant, sent)
            return True
        except _SeedMissing:
            bucket.unanswered()
            bucket.refuse(self.clock(), LONGEST_REFUSAL)
            return False
        except StoreUnavailable as error:
            bucket.unanswered()
            self._part(error.detail)
            return False
        finally:
            bucket.flight = None
            if limit.kind == "concurrency" and not self._closed and self.has_spare(budget, bucket):
                # Some requests have ended meanwhile.
                self.settle_soon(budget, bucket)

    def has_spare(self, budget: Budget, bucket: Bucket) -> bool:
        """Tell whether a worker holds more of a concurrency than it may hold in advance."""
        return self.share is None and bucket.tokens > bucket.spare(budget.limit, self._workers)

    async def _seeded(self, ask: Ask) -> Ask:
        """Return an account that tells Redis what has been spent of a quota."""
        try:
            used = await self._usages.used(ask.limit, ask.subject, ask.period)
        except StoreUnavailable as error:
            if not self._quotas_unknown:
                self._quotas_unknown = True
                log.warning("quotas_unavailable", detail=error.detail)
            raise _SeedMissing from error
        self._quotas_unknown = False
        return replace(ask, seed=max(used, ask.seed))

    def _take_in(self, budget: Budget, bucket: Bucket, ask: Ask, grant: Grant, sent: float) -> None:
        limit, now = budget.limit, self.clock()
        bucket.answered(limit, ask, grant, sent, now)
        self._leases.pop(bucket, None)
        if bucket.is_due(limit):
            self._leases[bucket] = budget, now
        if limit.kind == "quota":
            usage = Usage(limit.name, ask.subject, ask.period, limit.amount - grant.left, ask.ends)
            key = usage.limit, usage.subject, usage.period
            # Bounded while the system of record is away: what is left out is copied when it is spent again.
            if len(self._used) < self._capacity or key in self._used:
                self._used[key] = usage

    async def sweep(self) -> None:
        """Give back the leases that are not used, and renew the others, before they end."""
        now, due = self.clock(), []
        for bucket, (budget, since) in self._leases.items():
            if now - since < LEASE_SECONDS / 2:
                break
            due.append((budget, bucket))
        for _, bucket in due:
            del self._leases[bucket]
        # A subject that comes once in a while is asked for when it comes again.
        due = [each for each in due if not each[1].is_void()]
        if self.share is None:
            used = [each for each in due if not each[1].is_idle()]
            for budget, bucket in used:
                budget.touch(bucket)
            await self._settle_all(used, keep=True)
            await self._settle_all([each for each in due if each[1].is_idle()], keep=False)

    async def _settle_all(self, leases: Sequence[tuple[Budget, Bucket]], *, keep: bool) -> bool:
        """Settle leases that have something to settle; return whether Redis has answered each time."""
        answered = True
        for start in range(0, len(leases), _TOGETHER):
            settling = [
                self._settle(budget, bucket, keep=keep)
                for budget, bucket in leases[start : start + _TOGETHER]
                if bucket.flight is None
            ]
            answered = all(await asyncio.gather(*settling)) and answered
            if not answered:
                break
        return answered

    async def _save(self) -> None:
        """Copy the quotas to the system of record. Raises `StoreUnavailable`."""
        used, self._used = self._used, {}
        if not used:
            return
        try:
            await self._usages.save(list(used.values()))
        except StoreUnavailable:
            self._used = used | self._used
            raise


class _SeedMissing(Exception):
    """The system of record cannot tell what has been spent of a quota that Redis does not have."""
