"""Whose Redis it is: what it holds below a prefix belongs to one system of record, and to no other.

A *system of record* is a schema of one database of one server. The key `<prefix>owner` names it, as JSON:

- `system`: the server's system identifier (`pg_control_system()`), where the role may read it;
- `copy`: an id that `gateway migrate` has the database make up (`gateway_database_copy()`), where it has;
- `oid`, `database`, `schema`: the database's number and name, and the schema of the tables;
- `id`: made up when Redis was claimed. Every cached user carries it. It comes first, never changes, and is
  all that reads and scripts compare: the rest may become better known without disturbing other gateways.

`<prefix>owner:places` holds digests of the addresses under which gateways have reached it.

Two are the same when oid and schema are, and the system identifier; the copy decides where one of the two
lacks that. A gateway that has not heard from Postgres yet goes by the address that it is configured with.

Every read brings the owner along, and every script compares it in the same step. So nothing of another's
is read or written at any moment, also when Redis is emptied, restored, or replaced by another server.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import uuid4

import orjson
import redis.asyncio as aioredis
from redis.exceptions import ResponseError

from gateway.core import json_text
from gateway.core.model import StoreUnavailable, Tier
from gateway.stores.redis import scripts
from gateway.stores.redis.errors import translated
from gateway.stores.redis.keys import Keys
from gateway.stores.system_of_record import SystemOfRecord

_PLACES: Final = 1000
"""Addresses that are remembered, the latest ones: an address on `localhost` is one for each host."""
_ATTEMPTS: Final = 3
"""Changes of the owner that one command goes along with."""
_UNKNOWN: Final = b"?"
"""Stands for an owner that is none: no key ever holds it."""


class ForeignRedis(StoreUnavailable):
    """What Redis holds belongs to another system of record: it is neither read nor written."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The system of record that Redis belongs to."""

    id: str
    record: SystemOfRecord

    def encode(self) -> bytes:
        record = self.record
        members = {"id": self.id, "oid": record.oid, "database": record.database,
                  "schema": record.schema, "system": record.system, "copy": record.copy}  # fmt: skip
        return orjson.dumps(members)

    @property
    def mark(self) -> bytes:
        """What the key's value begins with for as long as this owns Redis."""
        return b'{"id":%b' % orjson.dumps(self.id)

    def knowing(self, record: SystemOfRecord) -> "Owner":
        """Return the owner with what is newly known of it."""
        known = replace(
            record, system=record.system or self.record.system, copy=record.copy or self.record.copy
        )
        return replace(self, record=known)


def owner_from(value: bytes) -> Owner | None:
    """Read the key's value; None when it names no owner."""
    try:
        json_text.check_depth(value)
        members = orjson.loads(value)
        texts = [members["database"], members["schema"], members["id"]]
        optional = [members["system"], members["copy"]]
        if not isinstance(members["oid"], int) or not all(isinstance(text, str) for text in texts):
            return None
        if not all(text is None or isinstance(text, str) for text in optional):
            return None
        record = SystemOfRecord(members["oid"], members["database"], members["schema"], *optional)
        owner = Owner(members["id"], record)
        return owner if value.startswith(owner.mark) else None
    except (ValueError, KeyError, TypeError):
        return None


class Ownership:
    """Lets through what concerns one's own data, and claims a Redis without an owner.

    `place` is that of the configured address (`place_of`); with None nothing is compared. With `read_only`
    nothing is claimed, nor written down of an owner: a Redis without one reads as it would after a claim.
    """

    def __init__(
        self, client: aioredis.Redis, address: str, keys: Keys, place: str | None, *, read_only: bool = False
    ) -> None:
        self.key = keys.owner
        self._keys = keys
        self._redis = client
        self._address = address
        self._place = place
        self._read_only = read_only
        self._record: SystemOfRecord | None = None
        self._mark = b"" if place is None else _UNKNOWN
        """What the key's value begins with, when it is one's own; empty: nothing is compared."""
        self.id = ""
        """What cached users carry."""
        self.foreign = False
        """Whether Redis belongs to another, as far as is known."""
        self.unclaimed = False
        """Whether Redis had no owner when it was last read: with `read_only` it is left at that."""

    @property
    def record(self) -> SystemOfRecord | None:
        """Where Postgres was heard from last; None before that."""
        return self._record

    def heard(self, record: SystemOfRecord) -> None:
        """Take note of which system of record Postgres is: another one after a fail-over, perhaps."""
        if record != self._record and self._place is not None:
            self._record = record
            self._mark, self.id = _UNKNOWN, ""

    def owns(self, value: bytes | None) -> bool:
        """Tell at a glance whether what was read along with this value of the key counts."""
        return not self._mark or (value is not None and value.startswith(self._mark))

    async def run(self, script: str, keys: Sequence[str | bytes], arguments: Sequence[str | bytes]) -> Any:  # noqa: ANN401 -- whatever the script returns
        """Run a script, which begins with `scripts.OWNED`. Raises `StoreUnavailable`."""
        for attempt in range(_ATTEMPTS):
            try:
                with translated(self._address):
                    return await self._redis.eval(
                        script, 1 + len(keys), self.key, *keys, self._mark, *arguments
                    )
            except StoreUnavailable as error:
                cause = error.__cause__
                if not (isinstance(cause, ResponseError) and str(cause).startswith(scripts.NOT_OURS)):
                    raise
                if attempt + 1 == _ATTEMPTS:
                    raise
            await self.settle(await self._held())
        raise AssertionError("unreachable")

    def voided(self, key: str) -> bool:
        """Tell whether a claim, of a Redis that has no owner, would delete this key."""
        return self.unclaimed and key in {self._keys.epoch, self._keys.ended_epoch, self._keys.complete}

    async def settle(self, held: bytes | None) -> bool:
        """Find out whether Redis is one's own; claims it when it has no owner, unless that is forbidden.

        `held` is what the key was found to hold. True: what was read along with that counts; False: it is
        to be read again. Raises `ForeignRedis`, or `StoreUnavailable` when it cannot be known.
        """
        counts = held is not None
        for _ in range(_ATTEMPTS):
            if held is None:
                if self._record is None:
                    raise self._refusal("not used before Postgres has answered: nothing says whose it is")
                if self._record.system is None and self._record.copy is None:
                    raise self._refusal(
                        f"not used, for nothing tells {self._record} from a copy of it:"
                        " run `gateway migrate`, or GRANT EXECUTE ON FUNCTION pg_control_system()"
                    )
                if self._read_only:
                    # No cached user carries it, as none would carry that of a new owner.
                    self._mark, self.id = _UNKNOWN, uuid4().hex
                    self.foreign, self.unclaimed = False, True
                    return True
                held = await self._exchange(None, Owner(uuid4().hex, self._record))
                continue
            owner = owner_from(held)
            if owner is None or not await self._is_own(owner):
                raise self._belongs_to(owner)
            if self._record is not None and not self._read_only:
                # A server that can only be read from serves all the same.
                with suppress(StoreUnavailable):
                    held = await self._describe(owner, held)
                if not held.startswith(owner.mark):
                    continue
            self._mark, self.id = owner.mark, owner.id
            self.foreign = self.unclaimed = False
            return counts
        raise self._refusal("its owner changes all the time")

    async def _describe(self, owner: Owner, held: bytes) -> bytes:
        """Write down what is newly known of the owner, and the address; returns what the key holds then."""
        known = owner if self._record is None else owner.knowing(self._record)
        if known != owner:
            # Another may have been quicker: the owner is the same then.
            held = await self._exchange(held, known)
        if held.startswith(owner.mark) and self._place is not None:
            with translated(self._address):
                await self._redis.eval(
                    scripts.REMEMBER_PLACE, 2, self.key, self._keys.places,
                    owner.mark, owner.id, self._place, str(_PLACES),
                )  # fmt: skip
        return held

    async def is_own(self) -> bool:
        """Tell whether Redis has been claimed for one's own system of record."""
        owner = owner_from(await self._held() or b"")
        return owner is not None and await self._is_own(owner)

    async def mark(self) -> bytes:
        """Return what the key's value begins with when it is one's own; else an empty text."""
        owner = owner_from(await self._held() or b"")
        return owner.mark if owner is not None and await self._is_own(owner) else b""

    async def other(self) -> SystemOfRecord | None:
        """Return the other system of record that Redis belongs to; None when it is one's own, or free."""
        held = await self._held()
        if held is None:
            return None
        owner = owner_from(held)
        if owner is None:
            return SystemOfRecord(0, "unknown", "unknown")
        return None if await self._is_own(owner) else owner.record

    async def claim(self) -> None:
        """Take Redis over from any owner.

        Cached users, the epoch and the completeness of revocations are void from this moment on. Raises
        `StoreUnavailable`, also while Postgres has not been heard from.
        """
        if self._record is None or (self._record.system is None and self._record.copy is None):
            raise self._refusal("Postgres does not say which database is to own it: run `gateway migrate`")
        for _ in range(_ATTEMPTS):
            held = await self._held()
            own = Owner(uuid4().hex, self._record)
            if await self._exchange(held, own) == own.encode():
                await self.settle(own.encode())
                return
        raise self._refusal("its owner changes all the time")

    async def _held(self) -> bytes | None:
        with translated(self._address):
            held: bytes | None = await self._redis.eval(scripts.READ_OWNER, 1, self.key)
        return held

    async def _is_own(self, owner: Owner) -> bool:
        if self._record is not None:
            return owner.record.is_same(self._record)
        with translated(self._address):
            places: bytes | None = await self._redis.eval(scripts.READ_OWNER, 1, self._keys.places)
        whose, *known = (places or b"").decode(errors="replace").split(" ")
        return whose == owner.id and self._place in known

    async def _exchange(self, held: bytes | None, owner: Owner) -> bytes:
        """Name an owner in the place of the value that was found; returns what the key holds after that."""
        keys = self._keys
        with translated(self._address):
            value = await self._redis.eval(
                scripts.SET_OWNER, 5, keys.owner, keys.places, keys.epoch, keys.ended_epoch, keys.complete,
                held or b"", owner.encode(), owner.id,
            )  # fmt: skip
        return bytes(value)

    def _belongs_to(self, owner: Owner | None) -> ForeignRedis:
        whose = "no owner that can be read" if owner is None else str(owner.record)
        mine = "Postgres has not answered yet" if self._record is None else f"this is {self._record}"
        detail = f"{self._address}: belongs to another database: {whose}; {mine}"
        self._mark, self.id = _UNKNOWN, ""
        self.foreign, self.unclaimed = True, False
        return ForeignRedis(Tier.REDIS, detail)

    def _refusal(self, why: str) -> StoreUnavailable:
        return StoreUnavailable(Tier.REDIS, f"{self._address}: {why}")
