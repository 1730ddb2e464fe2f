"""Faults of the servers: Postgres, Redis, and the gateway's own workers."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis

from gateway.demo.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.consistency.history import Store
from tests.consistency.world import World
from tests.consistency.writers import CLIENT_NAME, KeyFact, keys_lost
from tests.workers.program import eventually


@asynccontextmanager
async def crash_postgres(world: World, _: Sequence[KeyFact], __: float) -> AsyncIterator[None]:
    """End it without a checkpoint; it comes back with its data."""
    await _end(world.postgres, signal.SIGQUIT)
    try:
        yield
    finally:
        await asyncio.to_thread(world.postgres.start)


@asynccontextmanager
async def kill_redis(world: World, keys: Sequence[KeyFact], _: float) -> AsyncIterator[None]:
    """It comes back empty."""
    async with world.redis_turn:
        sent = time.monotonic()
        await _end(world.redis, signal.SIGKILL)
        keys_lost(world.history, keys, sent)
    try:
        yield
    finally:
        await asyncio.to_thread(world.redis.start)


@asynccontextmanager
async def flush_redis(world: World, keys: Sequence[KeyFact], _: float) -> AsyncIterator[None]:
    async with world.redis_turn, Redis.from_url(world.redis.url) as client:
        sent = time.monotonic()
        await client.flushall()
        keys_lost(world.history, keys, sent)
    yield


@asynccontextmanager
async def pause(target: Store, world: World, _: Sequence[KeyFact], __: float) -> AsyncIterator[None]:
    """Stop a server's processes where they are, with all connections open."""
    server = world.postgres if target == "postgres" else world.redis
    processes = _family(server)
    try:
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in reversed(processes):
            os.kill(pid, signal.SIGCONT)


async def _end(server: EmbeddedPostgres | EmbeddedRedis, number: signal.Signals) -> None:
    assert server._process is not None
    server._process.send_signal(number)
    await asyncio.to_thread(server._process.wait)


def _family(server: EmbeddedPostgres | EmbeddedRedis) -> list[int]:
    """Return the server's process and its children; who is stopped first has no more of them."""
    assert server._process is not None
    pid = server._process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [pid, *map(int, children.split())]


# Redis that runs, but serves no client ----------------------------------------------------------------


@asynccontextmanager
async def ask_for_password(world: World, _: Sequence[KeyFact], __: float) -> AsyncIterator[None]:
    async with _configured(world, "requirepass", "a password that the gateway has not"):
        yield


@asynccontextmanager
async def out_of_clients(world: World, _: Sequence[KeyFact], __: float) -> AsyncIterator[None]:
    async with _configured(world, "maxclients", "1"):
        yield


@asynccontextmanager
async def out_of_memory(world: World, _: Sequence[KeyFact], __: float) -> AsyncIterator[None]:
    """Writes are refused, reads go on."""
    async with _configured(world, "maxmemory", "1", kill=False):
        yield


@asynccontextmanager
async def _configured(world: World, name: str, value: str, *, kill: bool = True) -> AsyncIterator[None]:
    """Change a setting of Redis for a while; `kill` ends all connections, but those of the test itself."""
    async with Redis.from_url(
        world.redis.url, single_connection_client=True, client_name=CLIENT_NAME
    ) as client:
        before = (await client.config_get(name))[name] or ""
        await client.config_set(name, value)
        try:
            if kill:
                for other in await client.client_list():
                    if other["name"] != CLIENT_NAME:
                        # It may have ended in the meantime.
                        await client.client_kill_filter(_id=other["id"])
            yield
        finally:
            await client.config_set(name, before)


@asynccontextmanager
async def client_pause(mode: str, world: World, _: Sequence[KeyFact], seconds: float) -> AsyncIterator[None]:
    """Leave commands unanswered, in mode `ALL`, or in mode `WRITE` those that write."""
    async with Redis.from_url(world.redis.url, client_name=CLIENT_NAME) as client:
        await client.client_pause(round(seconds * 1000), all=mode == "ALL")
        yield
        # Nothing ends it before its time, and a command waits until then.
        await client.delete("nothing")


# Workers ------------------------------------------------------------------------------------------


@asynccontextmanager
async def kill_worker(world: World, _: Sequence[KeyFact], __: float) -> AsyncIterator[None]:
    before = set(world.program.workers())
    os.kill(min(before), signal.SIGKILL)
    yield

    async def replaced() -> bool:
        return await world.program.metric("gateway_workers") == len(before)

    await eventually(replaced)


@asynccontextmanager
async def pause_worker(world: World, _: Sequence[KeyFact], __: float) -> AsyncIterator[None]:
    pid = min(world.program.workers())
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
