"""The blacklist in Redis: keys, which other programs may set, too, and records of those that mirror Postgres.

Revocations come from Postgres in two ways. Postgres reports each *change* with an order: of two changes of
one row, the later has the higher order, so that a late worker does not undo a later change. And periodically,
a *fill* reads all rows. It sets missing keys, and deletes recorded keys whose row is gone because no worker
listened when it was deleted.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, cast
from uuid import uuid4

import redis.asyncio as aioredis

from gateway.core.model import StoreUnavailable, Tier
from gateway.core.revocations import Revocation, Revoked, Target, counts
from gateway.stores.redis.answers import Filling
from gateway.stores.redis.errors import translated
from gateway.stores.redis.keys import Keys
from gateway.stores.redis.ownership import Ownership
from gateway.stores.redis.scripts import blacklist as scripts

_BATCH: Final = 500
_FILLING_TIME: Final = 300.0
"""Seconds that a fill may take, with all its batches."""
_LIFTED_TIME: Final = 300.0
"""Seconds for which a lifted revocation stays on record. No worker is as late as that."""
_LIFTED: Final = "-"


@dataclass(frozen=True, slots=True)
class KeyState:
    """The state of a key."""

    value: bytes | None
    """None if the key does not exist."""
    expires_in: float | None = None
    """Seconds to live; None: for ever."""
    recorded: bool = False
    """Whether it equals its record: its row is in Postgres."""
    deleted: bool = False
    """It was on record, and a client has deleted it; Redis has not lost it."""
    lost: bool = False
    """It does not exist, and Redis may have lost or evicted it."""


class RecordOutcome(IntEnum):
    """The result of putting a key on record."""

    DONE = 1
    CHANGED = 0
    """It has got another value since then."""
    DELETED = -1
    """A client has deleted it since then."""
    EMPTIED = -2
    """Redis has been emptied, restarted or replaced since then, or has evicted keys."""


class RedisBlacklist:
    """Writes the keys below `<prefix>revoked:`. Each method may raise `StoreUnavailable`."""

    def __init__(self, client: aioredis.Redis, ownership: Ownership, address: str, keys: Keys) -> None:
        self._redis = client
        self._ownership = ownership
        self._address = address
        self._keys = keys
        self.on_deleted: Callable[[Target], None] = lambda _: None
        """Called with each learnt revocation whose key a fill has found deleted."""

    async def revoke(self, revocations: Sequence[Revocation]) -> None:
        """Put revocations on the blacklist. Their `issuer` is the configured name.

        Existing entries are only extended.
        """
        await self._change((self._set(row) for row in revocations), filling=None)

    async def lift(self, revocations: Sequence[Revocation]) -> int:
        """Remove revocations from the blacklist, also those of other programs; return how many there were.

        A fill in progress, which may have read them before, fails.
        """
        return await self._change((self._lifting(row) for row in revocations), filling=None)

    async def apply(self, changes: Sequence[Revoked]) -> None:
        """Apply changes of Postgres, at most one per row.

        A change is ignored if a later change of the same row has been applied.
        """
        # A full Redis allows a script to set keys only after it has deleted some.
        lifted_first = sorted(changes, key=lambda change: not change.lifted)
        await self._change(
            (
                self._lifting(change.revocation, change.order)
                if change.lifted
                else self._set(change.revocation, change.order)
                for change in lifted_first
            ),
            filling=None,
        )

    async def examine(self, targets: Sequence[Target]) -> tuple[bytes, list[KeyState]]:
        """Return the states of keys, and the era: while it lasts, missing keys were deleted or have expired.

        Only the first caller learns that a key on record is gone.
        """
        keys = self._keys
        era, *found = await self._ownership.run(
            scripts.EXAMINE,
            (keys.records, keys.complete, keys.era, keys.fillings, *map(keys.revoked, targets)),
            (uuid4().hex,),
        )
        return era, [
            KeyState(each[0], None if each[1] == -1 else each[1] / 1000, recorded=each[2] == 1)
            if isinstance(each, list)
            else KeyState(None, deleted=each == b"deleted", lost=each == b"lost")
            for each in found
        ]

    async def record(self, examined: Sequence[tuple[Target, KeyState]], era: bytes) -> list[RecordOutcome]:
        """Put keys on record that now have a row, if they are unchanged since they were examined."""
        done = await self._ownership.run(
            scripts.RECORD,
            (
                self._keys.records,
                self._keys.complete,
                self._keys.era,
                self._keys.fillings,
                *(self._keys.revoked(target) for target, _ in examined),
            ),
            (uuid4().hex, era, *(found.value or b"" for _, found in examined)),
        )
        return [RecordOutcome(each) for each in done]

    async def begin_filling(self) -> Filling:
        """Begin a fill of the blacklist. Read the revocations after this call."""
        loading = self._keys.loading(str(uuid4()))
        number = await self._ownership.run(
            scripts.BEGIN_FILLING,
            (self._keys.fillings, loading, self._keys.era),
            (_milliseconds(_FILLING_TIME), uuid4().hex),
        )
        return Filling(loading, int(number))

    async def fill(self, revocations: Sequence[Revocation], filling: Filling) -> bool:
        """Put all revocations on the blacklist, and mark it as complete.

        Entries of rows that are gone are removed. Entries of other programs stay. Return False if a fill that
        began later is already complete: rows of this one may be gone, and must be read again.
        """
        rows = (self._set(row, scripts.LEARNT if row.learnt else 0) for row in revocations)
        skipped: list[str] = []
        done = await self._change(rows, filling, skipped)
        self._report(skipped)
        if done == scripts.OVERTAKEN:
            return False
        if done == scripts.LIFTED_SINCE:
            raise StoreUnavailable(
                Tier.REDIS, f"{self._address}: a revocation was lifted while they were loaded"
            )
        if done < 0 or not (await self._sweep(filling) and await self._complete(filling)):
            raise StoreUnavailable(
                Tier.REDIS, f"{self._address}: it was emptied or replaced while revocations were loaded"
            )
        return True

    def _report(self, keys: Sequence[str]) -> None:
        """Report keys of learnt rows that a fill has found deleted."""
        for key in keys:
            meaning = self._keys.read(key)
            if meaning is not None and meaning[0] != "tombstone":
                self.on_deleted(meaning)

    async def take_turn(self, seconds: float) -> bool:
        """Return True to one of all processes in so many seconds."""
        done = await self._ownership.run(scripts.TAKE_TURN, (self._keys.turn,), (_milliseconds(seconds),))
        return bool(done == 1)

    async def _change(
        self,
        entries: Iterable[tuple[str, str, int, int]],
        filling: Filling | None,
        skipped: list[str] | None = None,
    ) -> int:
        """Apply changes, each a key, its value, milliseconds to live and order.

        Return how many keys were deleted, or CHANGE's reason to abandon the fill. Add to `skipped` the keys
        that a client has deleted.
        """
        wanted = [entry for entry in entries if entry[2] != 0]
        deleted = 0
        for start in range(0, len(wanted), _BATCH):
            batch = wanted[start : start + _BATCH]
            done = await self._ownership.run(
                scripts.CHANGE,
                (
                    self._keys.records,
                    self._keys.fillings,
                    self._keys.filled,
                    self._keys.complete,
                    *(key for key, *_ in batch),
                ),
                (
                    "" if filling is None else str(filling.number),
                    _milliseconds(_LIFTED_TIME),
                    *(str(argument) for _, *arguments in batch for argument in arguments),
                ),
            )
            if isinstance(done, int):
                return done
            deleted += int(done[0])
            if skipped is not None:
                skipped += [batch[place][0] for place in done[1]]
        return deleted

    async def _sweep(self, filling: Filling) -> bool:
        """Remove the entries that no fill since this one has found; return False if Redis was emptied."""
        cursor = 0
        while True:
            with translated(self._address):
                cursor, found = await self._redis.hscan(self._keys.records, cursor, count=_BATCH)
            records = cast("dict[bytes, bytes]", found)  # no value is decoded
            gone = {key: record for key, record in records.items() if _filling_of(record) < filling.number}
            if gone:
                swept = await self._ownership.run(
                    scripts.SWEEP,
                    (self._keys.records, filling.loading, *gone),
                    tuple(gone.values()),
                )
                if swept != 1:
                    return False
            if cursor == 0:
                return True

    async def _complete(self, filling: Filling) -> bool:
        done = await self._ownership.run(
            scripts.COMPLETE,
            (self._keys.complete, filling.loading, self._keys.filled),
            (str(filling.number),),
        )
        return bool(done == 1)

    def _set(self, revocation: Revocation, order: int = 0) -> tuple[str, str, int, int]:
        ttl = _ttl_ms(revocation, time.time())
        return self._keys.revoked(revocation.target), repr(revocation.revoked_at), ttl, order

    def _lifting(self, revocation: Revocation, order: int = 0) -> tuple[str, str, int, int]:
        return self._keys.revoked(revocation.target), _LIFTED, -1, order


def _ttl_ms(revocation: Revocation, now: float) -> int:
    """Return the milliseconds for which a revocation still counts; -1: for ever, 0: it has expired."""
    if revocation.expires_at is None or math.isinf(revocation.expires_at):
        return -1
    if not counts(revocation.expires_at, now):
        return 0
    return math.ceil((revocation.expires_at - now) * 1000)


def _filling_of(record: bytes) -> int:
    number, _, _ = record.partition(b" ")
    return int(number) if number.isdigit() else -1


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))
