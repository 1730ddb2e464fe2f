"""A normal stop of `gateway run` logs no warning, at any time."""

import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.harness import seed, token
from tests.sockets import RawUpstream
from tests.stores.cable import Cable
from tests.workers.program import Load, Program, eventually, route, running

WORKERS: Final = 2
OUTAGE: Final = Counter(
    {
        (event, name): WORKERS
        for event in ("dependency_down", "invalidation_stream_down")
        for name in ("postgres", "redis")
    }
)
"""The warnings of an outage of both stores."""
UNFILLED: Final = Counter({("revocations_not_loaded", ""): WORKERS})
"""One more, if nothing was copied from Postgres to Redis before; that is tried every 30 seconds."""


@asynccontextmanager
async def started(folder: Path, upstream: RawUpstream, dsn: str, redis_url: str) -> AsyncIterator[Program]:
    """Run the gateway with a route that needs a user."""
    routes = [route("public", "/public/**"), route("private", "/private/**", auth="required")]
    async with running(folder, upstream, dsn, redis_url, routes=routes) as program:
        yield program


async def well(program: Program) -> None:
    """Wait until each worker receives changes, and answers from memory."""
    await program.event("local_tier_trusted", WORKERS)


def counted(program: Program) -> Counter[tuple[str, str]]:
    """Count the warnings by name and subject."""
    return Counter(
        (str(line.get("event", line)), str(line.get("dependency") or line.get("stream") or ""))
        for line in program.warnings()
    )


async def stopped(program: Program) -> None:
    program.signal(signal.SIGTERM)
    assert await program.ended() == 0


async def test_a_stop_while_idle_logs_no_warning(
    tmp_path: Path, upstream: RawUpstream, dsn: str, redis_url: str
) -> None:
    async with started(tmp_path, upstream, dsn, redis_url) as program:
        await well(program)
        await stopped(program)
        assert program.warnings() == []


async def test_a_stop_directly_after_the_start_logs_no_warning(
    tmp_path: Path, upstream: RawUpstream, dsn: str, redis_url: str
) -> None:
    async with started(tmp_path, upstream, dsn, redis_url) as program:
        await stopped(program)
        assert program.warnings() == []


async def test_a_stop_under_load_logs_no_warning(
    tmp_path: Path, upstream: RawUpstream, dsn: str, redis_url: str
) -> None:
    await seed(dsn)
    async with started(tmp_path, upstream, dsn, redis_url) as program:
        await well(program)
        load = Load(program.url, "/private/x", (b"Authorization: Bearer " + token(),))
        async with load.while_running():

            async def busy() -> bool:
                return load.answered > 200

            await eventually(busy)
            await stopped(program)
        assert load.answered > 200
        assert program.warnings() == []


@pytest.mark.parametrize("how", ["refused", "silent"])
@pytest.mark.parametrize("when", ["from the start", "after a while"])
async def test_a_stop_while_the_stores_are_down_logs_only_the_outage(
    tmp_path: Path, upstream: RawUpstream, dsn: str, redis_url: str, how: str, when: str
) -> None:
    async with Cable(dsn) as postgres, Cable(redis_url) as redis:

        async def break_down() -> None:
            for cable in (postgres, redis):
                if how == "silent":
                    cable.freeze()
                else:
                    await cable.pull()

        if when == "from the start":
            await break_down()
        async with started(tmp_path, upstream, postgres.url, redis.url) as program:
            if when == "after a while":
                await well(program)
                await break_down()

            outage = OUTAGE + (UNFILLED if when == "from the start" else Counter())

            async def told() -> bool:
                return counted(program) >= outage

            await eventually(told)
            await stopped(program)
            assert counted(program) == outage
