"""Faults of the links between the gateway and its stores."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from typing import Final

from tests.consistency.history import Store
from tests.consistency.hosts import Direction
from tests.consistency.wires import PostgresTap, Wire
from tests.consistency.world import World
from tests.consistency.writers import KeyFact

_DELAY: Final = 0.04
"""The most seconds each way: well within every timeout, so that a slow store is still one that answers."""
_SHAKE: Final = 0.005
"""Seconds between two changes of the delay, so that one connection overtakes another."""


def _link(world: World, target: Store) -> Wire:
    return world.postgres_link if target == "postgres" else world.redis_link


@asynccontextmanager
async def cut(target: Store, world: World, _: Sequence[KeyFact], __: float) -> AsyncIterator[None]:
    await _link(world, target).cut()
    yield


@asynccontextmanager
async def unplug(target: Store, world: World, _: Sequence[KeyFact], __: float) -> AsyncIterator[None]:
    link = _link(world, target)
    await link.pull()
    try:
        yield
    finally:
        await link.plug()


@asynccontextmanager
async def freeze(target: Store, world: World, _: Sequence[KeyFact], __: float) -> AsyncIterator[None]:
    link = _link(world, target)
    link.freeze()
    try:
        yield
    finally:
        link.thaw()


@asynccontextmanager
async def delay(target: Store, world: World, _: Sequence[KeyFact], __: float) -> AsyncIterator[None]:
    shaking = asyncio.create_task(_shake(_link(world, target)))
    try:
        yield
    finally:
        shaking.cancel()
        await asyncio.gather(shaking, return_exceptions=True)


async def _shake(link: Wire) -> None:
    # A replay need not have the same delays: which way they go is up to the machine anyhow.
    chance = random.Random()  # noqa: S311 -- no secret
    try:
        while True:
            link.delay = chance.uniform(0, _DELAY)
            await asyncio.sleep(_SHAKE)
    finally:
        link.delay = 0.0


# Streams of changes that fall silent, while everything else goes through -----------------------------


def _everything(wire: Wire) -> AbstractContextManager[None]:
    return wire.deaf(lambda _: lambda __: True)


def _other_sessions(wire: Wire) -> AbstractContextManager[None]:
    """As behind a PgBouncer that pools transactions: what the listener itself has sent comes back."""
    return wire.deaf(lambda tap: tap.of_another_session if isinstance(tap, PostgresTap) else lambda _: True)


DEAF: Final[dict[str, Callable[[Wire], AbstractContextManager[None]]]] = {
    "deaf": _everything,
    "deaf to other sessions": _other_sessions,
    "one worker deaf": Wire.one_deaf,
    "mute": Wire.mute,
}


@asynccontextmanager
async def deaf(how: str, target: Store, world: World, _: Sequence[KeyFact], __: float) -> AsyncIterator[None]:
    with DEAF[how](_link(world, target)):
        yield


# Hosts that are cut off from one another --------------------------------------------------------------


@asynccontextmanager
async def cut_off(
    peers: Sequence[Store],
    directions: Sequence[Direction],
    world: World,
    _: Sequence[KeyFact],
    __: float,
) -> AsyncIterator[None]:
    assert world.host is not None
    async with AsyncExitStack() as cuts:
        for peer in peers:
            await cuts.enter_async_context(world.host.cut_off(peer, *directions))
        yield
