"""Changes of many rows in one statement, while the gateway is busy."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import asyncpg

from tests.consistency.history import Change
from tests.consistency.world import World
from tests.consistency.writers import KeyFact, recorded

_LONGEST_SUSPENSION: Final = 1.5
"""Seconds. While all users are refused for one reason, other errors do not show."""
_PATIENCE: Final = 60.0
"""Seconds that one statement may take."""


@asynccontextmanager
async def change_strangers(world: World, _: Sequence[KeyFact], __: float) -> AsyncIterator[None]:
    """Insert, update, link otherwise and delete many users of whom no client has a token."""
    with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection = await asyncpg.connect(world.dsn, command_timeout=_PATIENCE)
        try:
            for statement, values in world.tables.strangers:
                await connection.execute(statement, *values)
        finally:
            connection.terminate()
    yield


@asynccontextmanager
async def suspend_everybody(world: World, _: Sequence[KeyFact], seconds: float) -> AsyncIterator[None]:
    """Suspend all users in one statement, and activate them again in another."""
    # The status of some is changed by writers, and a fact is changed in one order.
    everybody = [person for person in world.people if not person.subject.startswith("status-")]
    ids = [person.id for person in everybody]
    jtis = frozenset(jti for person in everybody for jti in person.jtis)

    async def write(code: str | None) -> bool:
        """Make all of them suspended or active; False when it is not known whether they are."""
        change = Change("users.status of everybody", "postgres", jtis, code, time.monotonic(), None)
        status = "active" if code is None else "suspended"

        async def update() -> None:
            connection = await asyncpg.connect(
                world.dsn, command_timeout=_PATIENCE, server_settings={"synchronous_commit": "on"}
            )
            try:
                await connection.execute(world.tables.set_everybody, status, ids)
            finally:
                connection.terminate()

        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await recorded(world.history, change, update)
            return True
        return False

    await write("user_suspended")
    try:
        await asyncio.sleep(min(seconds, _LONGEST_SUSPENSION))
    finally:
        while not await write(None):  # noqa: ASYNC110 -- nothing tells that Postgres is back
            await asyncio.sleep(0.2)
    yield
