"""The time from a committed change until the last worker follows it."""

import asyncio
import math
import random
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import monotonic
from typing import Final

import asyncpg
import redis.asyncio as aioredis
import uvloop
from rich.console import Console

from bench.gateways import PREFIX, Gateway, share
from bench.polling import Poll, poll_each
from bench.processes import HOST, Process, Refused, moved
from bench.report import Report, Target
from bench.stage import Stage
from bench.tokens import ISSUER, ISSUER_NAME, subject

WORKERS: Final = 4
CHANGES: Final = 300
"""Changes of each kind. Each is also undone."""
SQL_LIMIT_MS: Final = 25
REDIS_LIMIT_MS: Final = 5
_PAUSE: Final = (0.02, 0.04)
"""The range of seconds between two changes, so that they do not align with periodic work."""

_Change = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class _Kind:
    """A change, and the function that undoes it. Both return after the commit."""

    title: str
    limit_ms: int
    status: int
    """The status of the answer after the change."""
    make: _Change
    unmake: _Change


def measure(stage: Stage, console: Console) -> Report:
    """Suspend a user and revoke a token, hundreds of times. Raises Refused."""
    gateway = Gateway(stage, upstream=stage.upstream, workers=WORKERS)
    # The workers run on all cores of the proxy, as in production. On a busy machine, a store that is kept to
    # one core can wait there for up to a second.
    with moved(stage.cores.all), gateway.start(cores=stage.cores.all) as process:
        process.until(lambda: gateway.ready)
        # The client shares the cores with the workers, so it must use little CPU.
        return uvloop.run(_measure(stage, gateway, process, console))


async def _measure(stage: Stage, gateway: Gateway, process: Process, console: Console) -> Report:
    jti = str(uuid.uuid4())
    token = stage.signer.token(subject(0), jti)
    request = f"GET / HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    postgres = await asyncpg.connect(stage.postgres)
    redis = aioredis.Redis.from_url(stage.redis)
    rows, targets = [], []
    polls = await poll_each(gateway.workers(process), gateway.port, request)
    remembered = []
    try:
        for kind in (_suspension(postgres, await _user(postgres)), _revocation(redis, jti)):
            console.print(f"  {CHANGES} × {kind.title}, and back", style="dim")
            before = gateway.lookups
            there, back = await _repeat(kind, polls)
            remembered.append(share(gateway.lookups - before, "local"))
            rows += [_row(kind.title, there), _row(f"{kind.title}: taken back", back)]
            found = _percentile(there, 0.99)
            targets.append(
                Target(
                    f"{kind.title}: p99 < {kind.limit_ms} ms", f"{found:.2f} ms", met=found < kind.limit_ms
                )
            )
    finally:
        for poll in polls:
            poll.close()
        await redis.aclose()
        await postgres.close()
    intervals = [1000 * seconds for poll in polls for seconds in poll.intervals]
    return Report(
        title=f"From the commit to the last of {WORKERS} workers; {CHANGES} changes of each kind",
        rows=rows,
        targets=targets,
        notes=[
            f"each worker is asked on a kept connection of its own, once in {median(intervals):.1f} ms in "
            f"the median and {_percentile(intervals, 0.99):.1f} ms at p99; no time can be told more finely",
            "from the moment when the commit, or the command, has returned to when the first answer that "
            "goes by the change has arrived from the last worker; its own way and that answer's are in it",
            "found in memory: {:.0%} of the users in the first kind; {:.0%} in the second, where each "
            "request with a revoked token asks Redis".format(*remembered),
        ],
    )


def _suspension(postgres: "asyncpg.Connection[asyncpg.Record]", user: uuid.UUID) -> _Kind:
    def update(status: str) -> _Change:
        return lambda: postgres.execute("UPDATE users SET status = $1 WHERE id = $2", status, user)

    return _Kind("UPDATE users SET status", SQL_LIMIT_MS, 401, update("suspended"), update("active"))


def _revocation(redis: aioredis.Redis, jti: str) -> _Kind:
    key = f"{PREFIX}revoked:jti:{ISSUER_NAME}:{jti}"
    return _Kind(
        "SET gateway:revoked:jti:…", REDIS_LIMIT_MS, 401,
        lambda: redis.set(key, "1", ex=600), lambda: redis.delete(key),
    )  # fmt: skip


async def _user(postgres: "asyncpg.Connection[asyncpg.Record]") -> uuid.UUID:
    user: uuid.UUID = await postgres.fetchval(
        "SELECT user_id FROM identities WHERE issuer = $1 AND subject = $2", ISSUER, subject(0)
    )
    return user


async def _repeat(kind: _Kind, polls: Sequence[Poll]) -> tuple[list[float], list[float]]:
    """Return the milliseconds that each change took, and each undoing."""
    there, back = [], []
    for _ in range(CHANGES):
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
