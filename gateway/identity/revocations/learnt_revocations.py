"""Revocations that another program has set in Redis only are remembered, and written to Postgres.

A revocation that exists in Redis only is lost with Redis. So a worker examines its key, as soon as it
refuses a token for it, or Redis notifies the worker that the key was touched. The worker continues to refuse
while Redis cannot be asked. It writes the revocation to Postgres as learnt
(`migrations/0009_learnt_revocations.sql`), from where it is mirrored like any other.

If a key is deleted while a gateway listens, its learnt row is deleted, too. If Redis was emptied, was
restarted, failed over or has evicted keys, a missing key does not mean that it was lifted, and the row stays.
If a key is lost like that before a worker has examined it, the worker writes it with the data of the refused
token. But first it must be certain that the key was not the copy of a row that had been lifted.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Final, Protocol

import structlog

from gateway.core.caches import LRU
from gateway.core.model import Claims, RevocationKind, StoreUnavailable, User
from gateway.core.revocations import Learning, Learnt, Target, counts
from gateway.core.tokens.issuer_patterns import IssuerNames
from gateway.identity.revocations.backoff import Backoff, Observer
from gateway.identity.revocations.remembered_revocations import (
    MOST,
    Hearing,
    Known,
    RememberedRevocations,
    Told,
    instant,
    known_from,
    learnable,
    row_of,
    targets_of,
)
from gateway.stores.redis.blacklist import KeyState, RecordOutcome, RedisBlacklist
from gateway.stores.redis.ownership import ForeignRedis

_BATCH: Final = 500
_PAUSE: Final = 0.25
"""Seconds between two batches, which bound the keys that are examined and written in a second."""
_HANDOVER: Final = 10.0
"""Seconds for which memory keeps a revocation that Postgres has; no earlier query takes longer."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class SystemOfRecord(Protocol):
    """Postgres. Every method raises `StoreUnavailable`."""

    async def learn(self, revocations: Sequence[Learnt]) -> Learning | None:
        """Write the revocations that no row of an operator covers; None if Postgres takes no more."""

    async def unlearn(self, targets: Sequence[Target]) -> int:
        """Delete learnt rows; returns their number."""


class LearntRevocations:
    """Remembers revocations that exist in Redis only, until Postgres has them, too.

    `issuers` are the configured ones, by name: a revocation of another issuer concerns no token here.
    `clock` gives Unix seconds, `pause` is in seconds.
    """

    def __init__(
        self,
        revoked: RedisBlacklist,
        postgres: SystemOfRecord,
        issuers: Mapping[str, str],
        observer: Observer,
        *,
        hearing: Callable[[], Hearing | None],
        any_user: bool = False,
        clock: Callable[[], float] = time.time,
        pause: float = _PAUSE,
    ) -> None:
        """`hearing` returns the time in which changes in Postgres are received; None: they are not received.

        `any_user`: the ids of users are those of another system, and need not be UUIDs.
        """
        self._any_user = any_user
        self._hearing = hearing
        self._lately_lifted: LRU[Target, float] = LRU(MOST)
        """When this worker was notified that a row was lifted."""
        self._all_lifted_at = -math.inf
        """When a notification came that so many rows had changed that it did not name them."""
        self._revoked = revoked
        self._postgres = postgres
        self._issuers = IssuerNames(issuers)
        self._observer = observer
        self._clock = clock
        self._pause = pause
        self._known = RememberedRevocations(clock)
        self._written: LRU[Target, bool] = LRU(MOST)
        """Revocations that Postgres has: another token that is refused for one causes no work."""
        self._unseen: dict[Target, None] = {}
        """To be examined in Redis."""
        self._unwritten: dict[Target, None] = {}
        """To be written to Postgres."""
        self._unrecorded: dict[Target, Known] = {}
        """Written to Postgres, and to be marked in Redis as recorded."""
        self._lifted: dict[Target, None] = {}
        """Deleted in Redis, and to be deleted in Postgres."""
        self._unsure: dict[Target, None] = {}
        """Deleted in both, and to be examined once more."""
        self._to_ask_redis = asyncio.Event()
        self._to_tell_postgres = asyncio.Event()
        self._workers: list[asyncio.Task[None]] = []
        self._backoff = Backoff(observer, clock)
        self._closed = False

    def start(self) -> None:
        """Begin to work in the background, until `close`."""
        # Two tasks: a slow Postgres must not delay examinations, until which a lifted revocation counts.
        self._workers = [
            asyncio.create_task(self._ask_redis()), asyncio.create_task(self._tell_postgres())
        ]  # fmt: skip

    async def close(self) -> None:
        """Stop; revocations that are not written by then are lost with this process."""
        self._closed = True
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    # Events ------------------------------------------------------------------------------------------

    def told(self, claims: Claims, user: User | None, kind: RevocationKind | None, era: bytes) -> None:
        """Record what a trusted Redis said of a token: the kind of revocation that hits it, or None.

        `era` is that of Redis at that moment; empty if it is not known.
        """
        if kind is None:
            if self._known:
                # A remembered revocation may have been lifted, or Redis has lost it.
                for target in targets_of(claims, user):
                    if self._known.peek(target) is not None:
                        self.touched(target)
            return
        for target in targets_of(claims, user):
            # If the revocation is for all tenants, Redis has notified this worker of that key.
            of_all = target[1] not in ("", claims.realm)
            if target[0] != kind or of_all or self._written.get(target) is not None:
                continue
            known = self._known.get(target)
            if known is None or not known.hits(claims, self._clock()):
                # Before the examination, the worker knows only that the revocation hits this token.
                self._remember(target, known_from(claims, kind, known, era, self._told(target)))
                self.touched(target)

    def _told(self, target: Target) -> Told | None:
        """Return this moment; None if a lifted row might be missed."""
        hearing, lifted_at = self._hearing(), self._lately_lifted.peek(target)
        now = self._clock()
        if hearing is None or now - max(lifted_at or -math.inf, self._all_lifted_at) < _HANDOVER:
            # The key may have been the copy of a row that is lifted by now.
            return None
        return Told(hearing, hearing.proofs, now)

    def touched(self, target: Target) -> None:
        """Record that a key was set, deleted or has expired, and must be examined."""
        self._written.pop(target)
        if not learnable(target, self._issuers, any_user=self._any_user) and self._known.peek(target) is None:
            return
        if len(self._unseen) >= MOST:
            self._observer.learnt("dropped", 1)
            return
        self._unseen[target] = None
        self._to_ask_redis.set()

    def lifted(self, target: Target) -> None:
        """Record that a revocation was lifted in Postgres."""
        self._lately_lifted.put(target, self._clock())
        self._forget_all_of(target)

    def lifted_unnamed(self) -> None:
        """Record that any row may have been lifted."""
        self._all_lifted_at = self._clock()
        self._written = LRU(MOST)

    def _forget_all_of(self, target: Target) -> None:
        self._written.pop(target)
        self._known.pop(target)
        self._unwritten.pop(target, None)

    def against(self, claims: Claims, user: User | None) -> RevocationKind | None:
        """Return the kind of a remembered revocation that hits a token."""
        return self._known.against(claims, user)

    @property
    def waiting(self) -> int:
        """The number of keys that are still to be examined."""
        return len(self._unseen)

    # Work --------------------------------------------------------------------------------------------

    async def _ask_redis(self) -> None:
        """Examine keys, and mark those in Redis that Postgres has; a batch of each at a time."""
        # A client that runs into a timeout at that moment may swallow the cancellation.
        while not self._closed:
            waiting = self._unseen or self._unsure or self._unrecorded
            await self._something_to_do(self._to_ask_redis, self._backoff.redis_at if waiting else None)
            for work in (self._look, self._look_again, self._record):
                if self._clock() < self._backoff.redis_at:
                    break
                try:
                    await work()
                except ForeignRedis:
                    self._abandon()
                except StoreUnavailable as error:
                    log.debug("revocations_not_looked_at", error=error.detail)
                    self._backoff.redis_failed()
                except Exception:
                    # No caller awaits this task. The keys stay to be examined.
                    log.exception("revocations_not_learnt")
                    self._backoff.redis_failed()
            await asyncio.sleep(self._pause)

    async def _tell_postgres(self) -> None:
        """Delete rows whose keys were deleted in Redis, and write new ones; a batch of each at a time."""
        while not self._closed:
            waiting = self._unwritten or self._lifted
            due = self._backoff.postgres_at if waiting else None
            await self._something_to_do(self._to_tell_postgres, due)
            if self._clock() >= self._backoff.postgres_at:
                try:
                    await self._unlearn()
                    await self._learn()
                except StoreUnavailable as error:
                    self._backoff.postgres_failed(error, len(self._unwritten))
                except Exception:
                    log.exception("revocations_not_learnt")
                    self._backoff.postgres_defect()
            await asyncio.sleep(self._pause)

    async def _something_to_do(self, told: asyncio.Event, due: float | None) -> None:
        """Wait until `due`, in Unix seconds, or until `told` is set because there is more to do."""
        told.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(None if due is None else max(0.0, due - self._clock())):
                await told.wait()

    @staticmethod
    def _some(waiting: Mapping[Target, object]) -> list[Target]:
        return list(islice(waiting, _BATCH))

    async def _look(self) -> None:
        """Examine keys that were touched."""
        await self._examine(self._unseen, again=False)

    async def _look_again(self) -> None:
        """Examine keys that were deleted in both stores: a key that is marked may have no row by now."""
        await self._examine(self._unsure, again=True)

    async def _examine(self, waiting: dict[Target, None], *, again: bool) -> None:
        targets = self._some(waiting)
        if targets:
            era, found = await self._revoked.examine(targets)
            for target, each in zip(targets, found, strict=True):
                waiting.pop(target, None)
                self._take(target, each, era, again=again)

    def _take(self, target: Target, found: KeyState, era: bytes, *, again: bool) -> None:
        if found.value is None:
            known = self._known.peek(target)
            # If Redis was emptied since, a missing key does not mean that it was lifted.
            if found.deleted or (known is not None and known.era == era and not found.lost):
                self._forget_all_of(target)
            elif known is not None and known.found is None:
                self._write(target)
            if found.deleted:
                self._lift(target)
        elif found.recorded and not again:
            self._settle(target)
        else:
            until = math.inf if target[0] == "jti" else instant(found.value)
            expires_at = math.inf if found.expires_in is None else self._clock() + found.expires_in
            self._remember(target, Known(until, expires_at, found, era))
            self._write(target)

    def _remember(self, target: Target, known: Known) -> None:
        if self._known.put(target, known):
            self._observer.learnt("dropped", 1)

    def _write(self, target: Target) -> None:
        """Have a revocation written to Postgres, if a row can hold it."""
        if learnable(target, self._issuers, any_user=self._any_user):
            self._unwritten[target] = None
            self._to_tell_postgres.set()

    def _lift(self, target: Target) -> None:
        """Have a learnt row deleted in Postgres."""
        self._lifted[target] = None
        self._to_tell_postgres.set()

    def _settle(self, target: Target) -> None:
        """Record that Postgres has a revocation, so that memory can soon forget it."""
        self._unwritten.pop(target, None)
        self._written.put(target, True)  # noqa: FBT003 -- the value of a set's entry
        known = self._known.peek(target)
        if known is not None:
            # A request may have asked Postgres before the row was there.
            asyncio.get_running_loop().call_later(_HANDOVER, self._forget, target, known)

    def _forget(self, target: Target, known: Known) -> None:
        if self._known.peek(target) is known:
            self._known.pop(target)

    def _abandon(self) -> None:
        """Leave a Redis that belongs to another database; write revocations that hit a token here."""
        for target in self._unseen:
            known = self._known.peek(target)
            if known is not None and known.found is None:
                self._write(target)
        self._unseen.clear()
        self._unsure.clear()
        for target in self._unrecorded:
            self._settle(target)
        self._unrecorded.clear()

    async def _unlearn(self) -> None:
        """Delete in Postgres what was deleted in Redis, unless it has been set again."""
        targets = self._some(self._lifted)
        if not targets:
            return
        for target in targets:
            # If it is lifted again meanwhile, that is a new request.
            del self._lifted[target]
        try:
            self._observer.learnt("lifted", await self._postgres.unlearn(targets))
        except BaseException:
            self._lifted = dict.fromkeys(targets) | self._lifted
            raise
        for target in targets:
            self._unsure[target] = None
            self._to_ask_redis.set()

    async def _learn(self) -> None:
        """Write to Postgres the revocations that exist in Redis only."""
        now = self._clock()
        batch: dict[Target, Known] = {}
        for target in tuple(self._unwritten):
            known = self._known.peek(target)
            if known is None or not counts(known.expires_at, now):
                self._forget_all_of(target)
            elif known.may_be_lifted(self._hearing(), self._all_lifted_at):
                self._observer.learnt("dropped", 1)
                self._forget_all_of(target)
            elif not known.awaits_proof:
                batch[target] = known
            if len(batch) == _BATCH:
                break
        if not batch:
            return
        learning = await self._postgres.learn(
            [self._learnt(target, known) for target, known in batch.items()]
        )
        if learning is None:
            self._backoff.postgres_is_full(len(batch))
            return
        self._backoff.postgres_took_some()
        self._observer.learnt("learnt", learning.written)
        for (target, known), said in zip(batch.items(), learning.said, strict=True):
            # A revocation that was examined again meanwhile may have to be written once more.
            if self._known.peek(target) not in (known, None):
                continue
            self._unwritten.pop(target, None)
            if said:
                # Its row is mirrored, and lifted, like any other.
                self._settle(target)
            else:
                self._unrecorded[target] = known
                self._to_ask_redis.set()

    async def _record(self) -> None:
        """Mark in Redis the keys that Postgres has."""
        batch = {target: self._unrecorded[target] for target in self._some(self._unrecorded)}
        for era in {known.looked_in for known in batch.values()}:
            same = {target: known for target, known in batch.items() if known.looked_in == era}
            examined = [(target, known.found or KeyState(None)) for target, known in same.items()]
            outcomes = await self._revoked.record(examined, era)
            for (target, known), outcome in zip(same.items(), outcomes, strict=True):
                # A revocation that was lifted meanwhile must not be set again; a row that it has is mirrored.
                if outcome is RecordOutcome.EMPTIED and self._known.peek(target) is not None:
                    await self._revoked.revoke([row_of(self._learnt(target, known))])
                if self._unrecorded.get(target) is known:
                    del self._unrecorded[target]
                if outcome is RecordOutcome.DELETED:
                    self._forget_all_of(target)
                    self._lift(target)
                    continue
                self._settle(target)
                if outcome is RecordOutcome.CHANGED:
                    self.touched(target)

    def _learnt(self, target: Target, known: Known) -> Learnt:
        return known.learnt(target, self._issuers.get(target[1]))
