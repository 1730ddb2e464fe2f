"""The faults: chosen at random, undone after a while, and recorded."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from tests.consistency import bulk, links, neighbour, servers
from tests.consistency.checker import FAULTY
from tests.consistency.history import Fault, Store, Target
from tests.consistency.hosts import Direction
from tests.consistency.world import World
from tests.consistency.writers import KeyFact

Act: TypeAlias = Callable[[World, Sequence[KeyFact], float], AbstractAsyncContextManager[None]]
"""Does something to a world for as long as its context lasts, which is so many seconds."""

_LEAD: Final = 2.0
"""Seconds without faults at the beginning."""
_TAIL: Final = FAULTY + 2.0
"""Seconds without faults at the end: all must be well again."""
_SHORTEST: Final = 0.2
_LONGEST: Final = 4.0
_LONGER: Final = FAULTY + 3.0
"""Seconds: to go unheard for less than it takes to notice breaks no rule."""
_UNHURRIED: Final = 60.0
"""Seconds of a run from which on there is time to recover between faults, and not only at its end."""
_TOGETHER: Final = 0.25
"""The share of faults that come with one of another target."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A way in which something fails, or is made to. The fields are those of `Fault`."""

    name: str
    target: Target
    act: Act
    outage: bool = True
    momentary: bool = False
    harmless: bool = False
    between_hosts: bool = False
    """Whether it needs the gateway on a host of its own."""
    alone: bool = False
    """Whether nothing else may be done at the same time."""
    unhurried: bool = False
    """Whether it takes so long that a short run goes without."""
    longest: float = _LONGEST
    """Seconds."""

    def __str__(self) -> str:
        return f"{self.name} ({self.target})"


STORES: Final[tuple[Store, ...]] = ("postgres", "redis")
_DIRECTIONS: Final[dict[str, tuple[Direction, ...]]] = {
    "cut off": ("from", "to"),
    "cut off, its answers alone": ("from",),
    "cut off, what goes to it alone": ("to",),
}

KINDS: Final = (
    *(Kind("cut", target, partial(links.cut, target), momentary=True) for target in STORES),
    *(Kind("unplug", target, partial(links.unplug, target)) for target in STORES),
    *(Kind("freeze", target, partial(links.freeze, target)) for target in STORES),
    *(Kind("delay", target, partial(links.delay, target), outage=False) for target in STORES),
    *(
        Kind(how, target, partial(links.deaf, how, target), outage=False, longest=_LONGER)
        for target in STORES
        for how in links.DEAF
        if (how, target) != ("deaf to other sessions", "redis")
    ),
    *(
        Kind(name, target, partial(links.cut_off, (target,), directions), between_hosts=True)
        for target in STORES
        for name, directions in _DIRECTIONS.items()
    ),
    Kind("cut off", "both stores", partial(links.cut_off, STORES, ("from", "to")), between_hosts=True),
    *(Kind("pause", target, partial(servers.pause, target)) for target in STORES),
    Kind("crash", "postgres", servers.crash_postgres),
    Kind("restart empty", "redis", servers.kill_redis),
    Kind("flush", "redis", servers.flush_redis, momentary=True),
    Kind("ask for a password", "redis", servers.ask_for_password),
    Kind("out of clients", "redis", servers.out_of_clients),
    Kind("out of memory", "redis", servers.out_of_memory, outage=False),
    Kind("CLIENT PAUSE ALL", "redis", partial(servers.client_pause, "ALL")),
    Kind("CLIENT PAUSE WRITE", "redis", partial(servers.client_pause, "WRITE"), outage=False),
    Kind("kill worker", "worker", servers.kill_worker),
    Kind("pause worker", "worker", servers.pause_worker),
    Kind(
        "bulk changes",
        "neighbour",
        bulk.change_strangers,
        outage=False,
        momentary=True,
        harmless=True,
        unhurried=True,
    ),
    Kind(
        "everybody suspended",
        "neighbour",
        bulk.suspend_everybody,
        outage=False,
        momentary=True,
        harmless=True,
    ),
    Kind(
        "another database on this Redis",
        "neighbour",
        neighbour.run,
        outage=False,
        harmless=True,
        alone=True,
        unhurried=True,
        longest=_LONGER,
    ),
)


async def inject(
    world: World,
    keys: Sequence[KeyFact],
    seconds: float,
    chance: random.Random,
    kinds: Sequence[Kind] = KINDS,
) -> None:
    """Let things fail, one after the other and some together, until `seconds` are over."""
    if world.host is None:
        kinds = [kind for kind in kinds if not kind.between_hosts]
    if seconds < _UNHURRIED:
        kinds = [kind for kind in kinds if not kind.unhurried]
    until = time.monotonic() + seconds - _TAIL
    await asyncio.sleep(_LEAD)
    bag: list[Kind] = []
    while True:
        # Each kind once before any comes twice.
        bag = bag or chance.sample(kinds, len(kinds))
        kind = bag.pop()
        duration, offset = chance.uniform(_SHORTEST, kind.longest), chance.random()
        quiet = chance.choice((chance.uniform(0.1, 1.5), chance.uniform(1.5, FAULTY), FAULTY + 3.0))
        others = [each for each in kinds if _go_together(each, kind)]
        other = chance.choice(others) if others and chance.random() < _TOGETHER else None
        remaining = until - time.monotonic()
        if remaining < _SHORTEST:
            break
        duration = min(duration, remaining)
        async with asyncio.TaskGroup() as faults:
            faults.create_task(fail(world, keys, kind, duration))
            if other is not None:
                await asyncio.sleep(offset * duration)
                faults.create_task(fail(world, keys, other, duration * (1 - offset)))
        if seconds < _UNHURRIED:
            quiet = min(quiet, 1.5)
        await asyncio.sleep(min(quiet, max(0.0, until - time.monotonic())))
    await asyncio.sleep(max(0.0, until + _TAIL - time.monotonic()))


def _go_together(one: Kind, other: Kind) -> bool:
    targets = {one.target, other.target}
    stores = "both stores" in targets and targets & {*STORES}
    return len(targets) == 2 and not stores and not (one.alone or other.alone)


async def fail(world: World, keys: Sequence[KeyFact], kind: Kind, seconds: float) -> None:
    """Do one thing for so many seconds, and record it."""
    async with failing(world, keys, kind, seconds):
        await asyncio.sleep(0 if kind.momentary else seconds)


@asynccontextmanager
async def failing(world: World, keys: Sequence[KeyFact], kind: Kind, seconds: float) -> AsyncIterator[None]:
    """Do one thing as long as the context lasts, which is to be so many seconds, and record it."""
    begin = time.monotonic()
    try:
        async with kind.act(world, keys, seconds):
            yield
    finally:
        world.history.faults.append(
            Fault(kind.name, kind.target, begin, time.monotonic(), kind.outage, kind.harmless)
        )
