"""What is done to the gateway's world: chosen by chance, undone after a while, recorded."""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal, TypeAlias

from redis.asyncio import Redis

from gateway.demo.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.backends.cable import Cable
from tests.consistency.checker import FAULTY
from tests.consistency.history import Fault
from tests.consistency.world import World
from tests.consistency.writers import KeyFact, keys_lost
from tests.workers.program import eventually

Target: TypeAlias = Literal["postgres", "redis", "worker"]
Act: TypeAlias = Callable[[World, Sequence[KeyFact]], AbstractAsyncContextManager[None]]

_LEAD: Final = 2.0
"""Seconds without faults at the beginning."""
_TAIL: Final = FAULTY + 2.0
"""Seconds without faults at the end: all must be well again."""
_SHORTEST: Final = 0.2
_LONGEST: Final = 4.0
_UNHURRIED: Final = 60.0
"""Seconds of a run from which on there is time to recover between faults, and not only at its end."""
_DELAY: Final = 0.04
"""The most seconds each way: well within every timeout, so that a slow store is still one that answers."""
_SHAKE: Final = 0.005
"""Seconds between two changes of the delay, so that one connection overtakes another."""
_TOGETHER: Final = 0.25
"""The share of faults that come with one of another target."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A way in which something fails. `act` lets it fail for as long as its context lasts."""

    name: str
    target: Target
    act: Act
    outage: bool = True
    momentary: bool = False


def _link(world: World, target: Target) -> Cable:
    return world.postgres_link if target == "postgres" else world.redis_link


# Links ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def _cut(target: Target, world: World, _: Sequence[KeyFact]) -> AsyncIterator[None]:
    await _link(world, target).cut()
    yield


@asynccontextmanager
async def _unplug(target: Target, world: World, _: Sequence[KeyFact]) -> AsyncIterator[None]:
    link = _link(world, target)
    await link.pull()
    try:
        yield
    finally:
        await link.plug()


@asynccontextmanager
async def _freeze(target: Target, world: World, _: Sequence[KeyFact]) -> AsyncIterator[None]:
    link = _link(world, target)
    link.freeze()
    try:
        yield
    finally:
        link.thaw()


@asynccontextmanager
async def _delay(target: Target, world: World, _: Sequence[KeyFact]) -> AsyncIterator[None]:
    shaking = asyncio.create_task(_shake(_link(world, target)))
    try:
        yield
    finally:
        shaking.cancel()
        await asyncio.gather(shaking, return_exceptions=True)


async def _shake(link: Cable) -> None:
    # A replay need not have the same delays: which way they go is up to the machine anyhow.
    chance = random.Random()  # noqa: S311 -- no secret
    try:
        while True:
            link.delay = chance.uniform(0, _DELAY)
            await asyncio.sleep(_SHAKE)
    finally:
        link.delay = 0.0


# Servers --------------------------------------------------------------------------------------------


@asynccontextmanager
async def _crash_postgres(world: World, _: Sequence[KeyFact]) -> AsyncIterator[None]:
    """End it without a checkpoint; it comes back with its data."""
    await _end(world.postgres, signal.SIGQUIT)
    try:
        yield
    finally:
        await asyncio.to_thread(world.postgres.start)


@asynccontextmanager
async def _kill_redis(world: World, keys: Sequence[KeyFact]) -> AsyncIterator[None]:
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
async def _flush_redis(world: World, keys: Sequence[KeyFact]) -> AsyncIterator[None]:
    async with world.redis_turn, Redis.from_url(world.redis.url) as client:
        sent = time.monotonic()
        await client.flushall()
        keys_lost(world.history, keys, sent)
    yield


@asynccontextmanager
async def _pause(target: Target, world: World, _: Sequence[KeyFact]) -> AsyncIterator[None]:
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


# Workers --------------------------------------------------------------------------------------------


@asynccontextmanager
async def _kill_worker(world: World, _: Sequence[KeyFact]) -> AsyncIterator[None]:
    before = set(world.program.workers())
    os.kill(min(before), signal.SIGKILL)
    yield

    async def replaced() -> bool:
        return await world.program.metric("gateway_workers") == len(before)

    await eventually(replaced)


@asynccontextmanager
async def _pause_worker(world: World, _: Sequence[KeyFact]) -> AsyncIterator[None]:
    pid = min(world.program.workers())
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


STORES: Final[tuple[Target, Target]] = ("postgres", "redis")
KINDS: Final = (
    *(Kind("cut", target, partial(_cut, target), momentary=True) for target in STORES),
    *(Kind("unplug", target, partial(_unplug, target)) for target in STORES),
    *(Kind("freeze", target, partial(_freeze, target)) for target in STORES),
    *(Kind("delay", target, partial(_delay, target), outage=False) for target in STORES),
    *(Kind("pause", target, partial(_pause, target)) for target in STORES),
    Kind("crash", "postgres", _crash_postgres),
    Kind("restart empty", "redis", _kill_redis),
    Kind("flush", "redis", _flush_redis, momentary=True),
    Kind("kill worker", "worker", _kill_worker),
    Kind("pause worker", "worker", _pause_worker),
)


async def inject(world: World, keys: Sequence[KeyFact], seconds: float, chance: random.Random) -> None:
    """Let things fail, one after the other and some together, until `seconds` are over."""
    until = time.monotonic() + seconds - _TAIL
    await asyncio.sleep(_LEAD)
    bag: list[Kind] = []
    while True:
        # Each kind once before any comes twice.
        bag = bag or chance.sample(KINDS, len(KINDS))
        kind = bag.pop()
        duration, offset = chance.uniform(_SHORTEST, _LONGEST), chance.random()
        quiet = chance.choice((chance.uniform(0.1, 1.5), chance.uniform(1.5, FAULTY), FAULTY + 3.0))
        other = chance.choice([each for each in KINDS if each.target != kind.target])
        together = chance.random() < _TOGETHER
        remaining = until - time.monotonic()
        if remaining < _SHORTEST:
            break
        duration = min(duration, remaining)
        async with asyncio.TaskGroup() as faults:
            faults.create_task(_fail(world, keys, kind, duration))
            if together:
                await asyncio.sleep(offset * duration)
                faults.create_task(_fail(world, keys, other, duration * (1 - offset)))
        if seconds < _UNHURRIED:
            quiet = min(quiet, 1.5)
        await asyncio.sleep(min(quiet, max(0.0, until - time.monotonic())))
    await asyncio.sleep(max(0.0, until + _TAIL - time.monotonic()))


async def _fail(world: World, keys: Sequence[KeyFact], kind: Kind, seconds: float) -> None:
    begin = time.monotonic()
    try:
        async with kind.act(world, keys):
            await asyncio.sleep(0 if kind.momentary else seconds)
    finally:
        world.history.faults.append(Fault(kind.name, kind.target, begin, time.monotonic(), kind.outage))
