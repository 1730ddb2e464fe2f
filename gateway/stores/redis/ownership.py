"""The owner of Redis: the data below a prefix belongs to exactly one system of record.

A *system of record* is a schema of one database of one server. The key `<prefix>owner` names it, as JSON:

- `system`: the server's system identifier (`pg_control_system()`), if the role may read it;
- `copy`: an id that the database generates in `gateway migrate` (`gateway_database_copy()`), if there is one;
- `oid`, `database`, `schema`: the database's number and name, and the schema of the tables;
- `id`: generated when Redis is claimed. Every cached user has it. It comes first and never changes. Reads and
  scripts compare only the id, so that details may be added without an effect on other gateways.

`<prefix>owner:places` has digests of the addresses under which gateways have reached the owner.

Two systems of record are the same if oid, schema and system identifier are equal. If one of them has no
system identifier, the copy decides. A gateway that has no answer from Postgres yet uses its configured
address instead.

Each read also fetches the owner, and each script compares it in the same step. So a gateway never reads or
writes another owner's data, even while Redis is emptied, restored, or replaced by another server.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import uuid4

import orjson
import redis.asyncio as aioredis
from redis.exceptions import ResponseError

from gateway.core.model import StoreUnavailable, Tier
from gateway.core.text import json_text
from gateway.stores.redis.errors import translated
from gateway.stores.redis.keys import Keys
from gateway.stores.redis.scripts import ownership as scripts
from gateway.stores.redis.scripts.common import NOT_OURS
from gateway.stores.system_of_record import SystemOfRecord

_PLACES: Final = 1000
"""The number of addresses that are kept, the latest ones. `localhost` counts once for each host."""
_ATTEMPTS: Final = 3
"""How often a command is repeated because the owner changes."""
_UNKNOWN: Final = b"?"
"""Stands for an invalid owner. No key ever has this value."""


class ForeignRedis(StoreUnavailable):
    """Redis belongs to another system of record: it is neither read nor written."""


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
        """The beginning of the key's value while this owner owns Redis."""
        return b'{"id":%b' % orjson.dumps(self.id)

    def knowing(self, record: SystemOfRecord) -> "Owner":
        """Return the owner with newly known details."""
        known = replace(
            record, system=record.system or self.record.system, copy=record.copy or self.record.copy
        )
        return replace(self, record=known)


def owner_from(value: bytes) -> Owner | None:
    """Parse the key's value; None if it names no owner."""
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
    """Allows access only to this database's data, and claims a Redis without an owner.

    `place` is that of the configured address (`place_of`); with None, owners are not compared. With
    `read_only`, it claims and writes nothing: it reads a Redis without an owner as it would after a claim.
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
        """The beginning of the key's value if Redis is this database's; empty: owners are not compared."""
        self.id = ""
        """The owner's id, which cached users have."""
        self.foreign = False
        """Whether Redis belongs to another owner, as far as is known."""
        self.unclaimed = False
        """Whether Redis had no owner when it was last read. With `read_only`, it stays without one."""

    @property
    def record(self) -> SystemOfRecord | None:
        """The system of record that Postgres reported last; None before its first answer."""
        return self._record

    def heard(self, record: SystemOfRecord) -> None:
        """Record which system of record Postgres is. It may be another one after a fail-over."""
        if record != self._record and self._place is not None:
            self._record = record
            self._mark, self.id = _UNKNOWN, ""

    def owns(self, value: bytes | None) -> bool:
        """Return whether data that was read with this value of the key counts, without asking Redis."""
        return not self._mark or (value is not None and value.startswith(self._mark))

    async def run(
        self,
        script: str,
        keys: Sequence[str | bytes],
        arguments: Sequence[str | bytes],
        evaluate: Callable[..., Awaitable[Any]] | None = None,
    ) -> Any:  # noqa: ANN401 -- the result of the script
        """Run a script that begins with `OWNED`. Raises `StoreUnavailable`.

        `evaluate` sends it: `RedisLine.evaluate`, or by default the client for background work.
        """
        send = evaluate or self._redis.eval
        for attempt in range(_ATTEMPTS):
            try:
                with translated(self._address):
                    return await send(script, 1 + len(keys), self.key, *keys, self._mark, *arguments)
            except StoreUnavailable as error:
                cause = error.__cause__
                if not (isinstance(cause, ResponseError) and str(cause).startswith(NOT_OURS)):
                    raise
                if attempt + 1 == _ATTEMPTS:
                    raise
            await self.settle(await self._held())
        raise AssertionError("unreachable")

    def voided(self, key: str) -> bool:
        """Return whether a claim of a Redis without an owner would delete this key."""
        return self.unclaimed and key in {self._keys.epoch, self._keys.ended_epoch, self._keys.complete}

    async def settle(self, held: bytes | None) -> bool:
        """Find out whether Redis is this database's. Claim it if it has no owner, unless that is forbidden.

        `held` is the value of the key that was read. True: the data read with it counts. False: read it
        again. Raises `ForeignRedis`, or `StoreUnavailable` when the owner cannot be determined.
        """
        counts = held is not None
        for _ in range(_ATTEMPTS):
            if held is None:
                if self._record is None:
                    raise self._refusal("not used before Postgres has answered: its owner is not known")
                if self._record.system is None and self._record.copy is None:
                    raise self._refusal(
                        f"not used, because {self._record} cannot be told from a copy of it:"
                        " run `gateway migrate`, or GRANT EXECUTE ON FUNCTION pg_control_system()"
                    )
                if self._read_only:
                    # No cached user has it, just as no cached user has the id of a new owner.
                    self._mark, self.id = _UNKNOWN, uuid4().hex
                    self.foreign, self.unclaimed = False, True
                    return True
                held = await self._exchange(None, Owner(uuid4().hex, self._record))
                continue
            owner = owner_from(held)
            if owner is None or not await self._is_own(owner):
                raise self._belongs_to(owner)
            if self._record is not None and not self._read_only:
                # A read-only server still serves reads.
                with suppress(StoreUnavailable):
                    held = await self._describe(owner, held)
                if not held.startswith(owner.mark):
                    continue
            self._mark, self.id = owner.mark, owner.id
            self.foreign = self.unclaimed = False
            return counts
        raise self._refusal("its owner keeps changing")

    async def _describe(self, owner: Owner, held: bytes) -> bytes:
        """Write new details of the owner, and the address; return the key's new value."""
        known = owner if self._record is None else owner.knowing(self._record)
        if known != owner:
            # Another gateway may have been faster. Then the owner is the same.
            held = await self._exchange(held, known)
        if held.startswith(owner.mark) and self._place is not None:
            with translated(self._address):
                await self._redis.eval(
                    scripts.REMEMBER_PLACE, 2, self.key, self._keys.places,
                    owner.mark, owner.id, self._place, str(_PLACES),
                )  # fmt: skip
        return held

    async def is_own(self) -> bool:
        """Return whether Redis is claimed for this system of record."""
        owner = owner_from(await self._held() or b"")
        return owner is not None and await self._is_own(owner)

    async def mark(self) -> bytes:
        """Return the beginning of the key's value if Redis is this database's; else an empty text."""
        owner = owner_from(await self._held() or b"")
        return owner.mark if owner is not None and await self._is_own(owner) else b""

    async def other(self) -> SystemOfRecord | None:
        """Return the other system of record that owns Redis; None if it is this database's or free."""
        held = await self._held()
        if held is None:
            return None
        owner = owner_from(held)
        if owner is None:
            return SystemOfRecord(0, "unknown", "unknown")
        return None if await self._is_own(owner) else owner.record

    async def claim(self) -> None:
        """Claim Redis from any owner.

        Cached users, the epoch and the completeness of the blacklist become void. Raises `StoreUnavailable`,
        also before Postgres has answered.
        """
        if self._record is None or (self._record.system is None and self._record.copy is None):
            raise self._refusal("the database has no identity that Postgres reports: run `gateway migrate`")
        for _ in range(_ATTEMPTS):
            held = await self._held()
            own = Owner(uuid4().hex, self._record)
            if await self._exchange(held, own) == own.encode():
                await self.settle(own.encode())
                return
        raise self._refusal("its owner keeps changing")

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
        """Replace the value that was found by an owner; return the key's new value."""
        keys = self._keys
        with translated(self._address):
            value = await self._redis.eval(
                scripts.SET_OWNER, 5, keys.owner, keys.places, keys.epoch, keys.ended_epoch, keys.complete,
                held or b"", owner.encode(), owner.id,
            )  # fmt: skip
        return bytes(value)

    def _belongs_to(self, owner: Owner | None) -> ForeignRedis:
        whose = "its owner cannot be read" if owner is None else str(owner.record)
        mine = "Postgres has not answered yet" if self._record is None else f"this is {self._record}"
        detail = f"{self._address}: belongs to another database: {whose}; {mine}"
        self._mark, self.id = _UNKNOWN, ""
        self.foreign, self.unclaimed = True, False
        return ForeignRedis(Tier.REDIS, detail)

    def _refusal(self, why: str) -> StoreUnavailable:
        return StoreUnavailable(Tier.REDIS, f"{self._address}: {why}")
