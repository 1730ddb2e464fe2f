"""The budgets of limits in Redis: a `gateway.limits.ledger.Ledger`.

The accounts of many leases go in one command, over a connection of their own. A command is never repeated and
never runs late: it has an id, and a deadline by the clock of Redis. So an account whose answer is missing was
either settled in time or not at all, and a Redis that comes back after a freeze grants nothing to requests
that no longer wait.
"""

import time
from typing import Any, Final
from uuid import uuid4

from gateway.core.model import StoreUnavailable, Tier
from gateway.limits.ledger import LEASE_SECONDS, Ask, Beat, Grant
from gateway.limits.rules import SPARE
from gateway.limits.subjects import digest_of
from gateway.stores.redis.batching import Batches
from gateway.stores.redis.keys import Keys
from gateway.stores.redis.line import RedisLine
from gateway.stores.redis.ownership import Ownership
from gateway.stores.redis.scripts import limits as scripts
from gateway.stores.redis.topology import RedisServer

_MICROSECONDS: Final = 1_000_000
_UNKNOWN: Final = -2


class RedisLimits(Batches[Ask, Grant | None]):
    """`worker` names this process. `timeout` is in seconds. Every method raises `StoreUnavailable`."""

    def __init__(
        self, server: RedisServer, ownership: Ownership, keys: Keys, worker: str, *, timeout: float,
        connect_timeout: float,
    ) -> None:  # fmt: skip
        super().__init__(timeout, server.address)
        self._line = RedisLine(server, connect_timeout=connect_timeout)
        self._beats = RedisLine(server, connect_timeout=connect_timeout)
        self._ownership = ownership
        self._keys = keys
        self._worker = worker
        self._ahead: float | None = None
        """How far the clock of Redis is ahead of `time.monotonic`, in seconds; at most a round trip more."""

    async def lease(self, ask: Ask) -> Grant | None:
        """Settle one lease and take the next one; None: Redis has lost what it knew, and nothing was done."""
        return await self._ask(ask)

    async def beat(self, worker: str) -> Beat:
        """Tell that a worker lives, and learn of the others."""
        keys, sent = (self._keys.limits_era, self._keys.limits_workers), time.monotonic()
        answer = await self._call(
            self._ownership.run(scripts.BEAT, keys, (uuid4().hex, worker), self._beats.evaluate)
        )
        now, era, names = int(answer[0]) / _MICROSECONDS, answer[1].decode(), sorted(answer[2])
        self._ahead = now - sent
        return Beat(now, era, len(names), names.index(worker.encode()))

    async def leave(self, worker: str) -> None:
        """Tell that a worker ends."""
        await self._call(
            self._ownership.run(scripts.LEAVE, (self._keys.limits_workers,), (worker,), self._beats.evaluate)
        )

    async def budget(self, limit: str, period: str, subject: str) -> str | None:
        """Return the text of a budget (`scripts.limits`); None if there is none."""
        key = self._keys.budget(limit, period, digest_of(subject))
        held: bytes | None = await self._call(
            self._ownership.run(scripts.READ, (key,), (), self._beats.evaluate)
        )
        return None if held is None else held.decode()

    async def reset(self, limit: str, period: str, subject: str, ends: float | None = None) -> bool:
        """Make a budget as new; return whether there was one. `ends`: of a quota, when its period ends."""
        key = self._keys.budget(limit, period, digest_of(subject))
        deleted = await self._call(
            self._ownership.run(
                scripts.RESET, (key,), (str(round((ends or 0) * 1000)),), self._beats.evaluate
            )
        )
        return bool(deleted)

    async def close(self) -> None:
        await super().close()
        await self._line.close()
        await self._beats.close()

    async def _carry(self, questions: list[Ask]) -> list[Grant | None]:
        if self._ahead is None:
            raise StoreUnavailable(Tier.REDIS, f"{self._address}: its clock is not known yet")
        keys = [self._keys.limits_era, self._keys.last_command(self._worker)]
        deadline = time.monotonic() + self._ahead + self._timeout
        arguments = [
            str(round(deadline * _MICROSECONDS)),
            uuid4().hex,
            str(round(LEASE_SECONDS * _MICROSECONDS)),
            str(SPARE),
        ]
        for ask in questions:
            keys.append(self._keys.budget(ask.limit, ask.period, digest_of(ask.subject)))
            arguments += _arguments(ask)
        answers = await self._call(self._ownership.run(scripts.LEASE, keys, arguments, self._line.evaluate))
        if isinstance(answers, bytes):
            raise StoreUnavailable(Tier.REDIS, f"{self._address}: no answer in time ({answers.decode()})")
        return list(map(_grant, answers))


def _arguments(ask: Ask) -> list[str]:
    interval, ends = ask.interval * _MICROSECONDS, round(ask.ends * 1000)
    numbers = (
        ask.capacity, interval, ends, ask.want, ask.ahead, ask.registered, ask.epoch, ask.keep, ask.back,
        ask.debt, ask.seed,
    )  # fmt: skip
    return [ask.era, ask.kind, *map(str, numbers)]


def _grant(answer: Any) -> Grant | None:  # noqa: ANN401 -- the server's reply
    if isinstance(answer, int):
        return Grant(0, 0, -1, -1, 0.0, unknown=True) if answer == _UNKNOWN else None
    granted, ahead, epoch, left, wait = answer
    return Grant(granted, ahead, epoch, left, wait / _MICROSECONDS)
