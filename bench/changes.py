"""The time from a committed change until the last worker follows it."""

import asyncio
import math
import random
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from time import monotonic
from typing import Final, TypeAlias

import asyncpg
import redis.asyncio as aioredis
import uvloop
from rich.console import Console

from bench import source
from bench.gateways import PREFIX, Gateway, share
from bench.polling import Poll, poll_each
from bench.processes import HOST, Process, Refused, moved
from bench.report import Report, Target
from bench.stage import Stage
from bench.tokens import ISSUER, ISSUER_NAME, subject
from gateway.core.model import JSON

WORKERS: Final = 4
CHANGES: Final = 300
"""Changes of each kind. Each is also undone."""
SQL_LIMIT_MS: Final = 25
REDIS_LIMIT_MS: Final = 5
POLL_MS: Final = 250
POLLED_CHANGES: Final = 150
_SETTLING: Final = 20.0
"""Seconds."""
_PAUSE: Final = (0.02, 0.04)
"""The range of seconds between two changes, so that they do not align with periodic work."""

_Change = Callable[[], Awaitable[object]]
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@dataclass(frozen=True, slots=True)
class _Kind:
    """A change, and the function that undoes it. Both return after the commit."""

    title: str
    limit_ms: int
    status: int
    """The status of the answer after the change."""
    make: _Change
    unmake: _Change
    count: int = CHANGES


def measure(stage: Stage, console: Console) -> Report:
    """Suspend a user and revoke a token, hundreds of times. Raises Refused."""
    own = Gateway(stage, upstream=stage.upstream, workers=WORKERS)
    found = [_of(stage, own, _own_kinds, console)]
    with source.database(stage.postgres) as dsn:
        triggers = source.over_source(stage, dsn, workers=WORKERS)
        found.append(_of(stage, triggers, partial(_source_kinds, dsn, SQL_LIMIT_MS, CHANGES), console))
        source.remove_triggers(dsn)
        poll: dict[str, JSON] = {"changes": "poll", "poll": {"interval": f"{POLL_MS}ms"}}
        polling = source.over_source(stage, dsn, workers=WORKERS, **poll)
        kinds = partial(_source_kinds, dsn, POLL_MS + 100, POLLED_CHANGES)
        found.append(_of(stage, polling, kinds, console))
    intervals = [each for one in found for each in one.intervals]
    return Report(
        title=f"From the commit to the last of {WORKERS} workers; {CHANGES} changes of each kind",
        rows=[row for one in found for row in one.rows],
        targets=[target for one in found for target in one.targets],
        notes=[
            f"each worker is asked on a kept connection of its own, once in {median(intervals):.1f} ms in "
            f"the median and {_percentile(intervals, 0.99):.1f} ms at p99; no time can be told more finely",
            "from the moment when the commit, or the command, has returned to when the first answer that "
            "goes by the change has arrived from the last worker; its own way and that answer's are in it",
            "found in memory: {:.0%} of the users in the first kind; {:.0%} in the second, where each "
            "request with a revoked token asks Redis".format(*found[0].remembered),
            "auth_user: users in tables like Django's (`users.source`), with triggers, and polled every"
            f" {POLL_MS} ms ({POLLED_CHANGES} changes)",
        ],
    )


@dataclass(slots=True)
class _Found:
    """What was measured of one gateway."""

    rows: list[dict[str, str | int | float]] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    remembered: list[float] = field(default_factory=list)
    """The share of the users that memory answered, for each kind."""
    intervals: list[float] = field(default_factory=list)
    """Milliseconds between two requests to a worker."""


_Kinds: TypeAlias = Callable[["Connection", aioredis.Redis, str], Awaitable[list[_Kind]]]


def _of(stage: Stage, gateway: Gateway, kinds: _Kinds, console: Console) -> _Found:
    # The workers run on all cores of the proxy, as in production. On a busy machine, a store that is kept to
    # one core can wait there for up to a second.
    with moved(stage.cores.all), gateway.start(cores=stage.cores.all) as process:
        process.until(lambda: gateway.ready)
        # The client shares the cores with the workers, so it must use little CPU.
        return uvloop.run(_measure(stage, gateway, process, kinds, console))


async def _measure(
    stage: Stage, gateway: Gateway, process: Process, kinds: _Kinds, console: Console
) -> _Found:
    jti = str(uuid.uuid4())
    token = stage.signer.token(subject(0), jti)
    request = f"GET / HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    postgres = await asyncpg.connect(stage.postgres)
    redis = aioredis.Redis.from_url(stage.redis)
    found = _Found()
    polls = await poll_each(gateway.workers(process), gateway.port, request)
    try:
        await _settled(gateway)
        for kind in await kinds(postgres, redis, jti):
            console.print(f"  {kind.count} × {kind.title}, and back", style="dim")
            before = gateway.lookups
            there, back = await _repeat(kind, polls)
            found.remembered.append(share(gateway.lookups - before, "local"))
            found.rows += [_row(kind.title, there), _row(f"{kind.title}: taken back", back)]
            p99 = _percentile(there, 0.99)
            found.targets.append(
                Target(f"{kind.title}: p99 < {kind.limit_ms} ms", f"{p99:.2f} ms", met=p99 < kind.limit_ms)
            )
    finally:
        for poll in polls:
            poll.close()
        await redis.aclose()
        await postgres.close()
    found.intervals = [1000 * seconds for poll in polls for seconds in poll.intervals]
    return found


async def _settled(gateway: Gateway) -> None:
    """Wait until memory answers: until then, workers ask the stores, and changes take no time to be seen."""
    deadline = monotonic() + _SETTLING
    while True:
        before = gateway.lookups
        await asyncio.sleep(0.5)
        if share(gateway.lookups - before, "local") > 0.95:
            return
        if monotonic() > deadline:
            raise Refused("memory does not answer")


async def _own_kinds(postgres: "Connection", redis: aioredis.Redis, jti: str) -> list[_Kind]:
    return [_suspension(postgres, await _user(postgres)), _revocation(redis, jti)]


async def _source_kinds(
    dsn: str, limit_ms: int, count: int, _: "Connection", __: aioredis.Redis, ___: str
) -> list[_Kind]:
    connection = await asyncpg.connect(dsn)

    def update(active: str) -> _Change:
        statement = f"UPDATE auth_user SET is_active = {active} WHERE username = $1"  # noqa: S608 -- ours
        return lambda: connection.execute(statement, subject(0))

    way = "triggers" if limit_ms == SQL_LIMIT_MS else f"polled every {POLL_MS} ms"
    return [_Kind(f"UPDATE auth_user ({way})", limit_ms, 401, update("false"), update("true"), count)]


def _suspension(postgres: "Connection", user: uuid.UUID) -> _Kind:
    def update(status: str) -> _Change:
        return lambda: postgres.execute("UPDATE users SET status = $1 WHERE id = $2", status, user)

    return _Kind("UPDATE users SET status", SQL_LIMIT_MS, 401, update("suspended"), update("active"))


def _revocation(redis: aioredis.Redis, jti: str) -> _Kind:
    key = f"{PREFIX}revoked:jti:{ISSUER_NAME}:{jti}"
    return _Kind(
        "SET gateway:revoked:jti:…", REDIS_LIMIT_MS, 401,
        lambda: redis.set(key, "1", ex=600), lambda: redis.delete(key),
    )  # fmt: skip


async def _user(postgres: "Connection") -> uuid.UUID:
    user: uuid.UUID = await postgres.fetchval(
        "SELECT user_id FROM identities WHERE issuer = $1 AND subject = $2", ISSUER, subject(0)
    )
    return user


async def _repeat(kind: _Kind, polls: Sequence[Poll]) -> tuple[list[float], list[float]]:
    """Return the milliseconds that each change took, and each undoing."""
    there, back = [], []
    for _ in range(kind.count):
        there.append(await _once(kind.make, polls, kind.status))
        back.append(await _once(kind.unmake, polls, 200))
    return there, back


async def _once(change: _Change, polls: Sequence[Poll], new: int) -> float:
    before = [len(poll.turns) for poll in polls]
    began = monotonic()
    await change()
    committed = monotonic()
    took = 1000 * (max([await poll.becomes(new) for poll in polls]) - committed)
    await asyncio.sleep(random.uniform(*_PAUSE))  # noqa: S311 -- no secret
    for poll, turns in zip(polls, before, strict=True):
        # If the status also turned before this change, the worker undid the earlier change.
        if len(poll.turns) != turns + 1 or poll.turns[-1][1] < began:
            told = [f"{status} at {1000 * (at - committed):.1f} ms" for status, at in poll.turns[turns - 1 :]]
            raise Refused(f"a worker did not keep to a change: {', '.join(told)}")
    return took


def _row(title: str, times: Sequence[float]) -> dict[str, str | int | float]:
    return {
        "change": title,
        "p50 ms": median(times),
        "p99 ms": _percentile(times, 0.99),
        "slowest ms": max(times),
    }


def _percentile(values: Sequence[float], part: float) -> float:
    """Return the value that this share of the values does not exceed."""
    return sorted(values)[math.ceil(part * len(values)) - 1]
