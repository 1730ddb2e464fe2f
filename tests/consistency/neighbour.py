"""A second gateway with its own database, on the same Redis, with the same prefix, for the same issuer.

Its users have the same subjects as those of the first, and so the same tokens, but other ids and other
states, and some are missing. Each gateway must answer only by its own database.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from gateway.stores.postgres.migrate import migrate
from tests.consistency.clients import hammer
from tests.consistency.history import History
from tests.consistency.world import (
    ERRORS,
    ROUTES,
    STARTING,
    Person,
    World,
    drop_database,
    new_database,
    settle,
)
from tests.consistency.writers import KeyFact, SqlFact, change, ended, facts_about, write_sql
from tests.workers.program import running

_CLIENTS: Final = 4


@asynccontextmanager
async def run(world: World, _: Sequence[KeyFact], __: float) -> AsyncIterator[None]:
    """Run it, its clients and its writers; what they did is in a history of its own."""
    number = len(world.neighbours)
    people = [Person(person.subject) for person in world.people]
    history = History(
        f"{world.history.seed}:neighbour {number}",
        {jti: str(person.id) for person in people for jti in person.jtis},
        world.history.began or time.monotonic(),
        faults=world.history.faults,
    )
    world.neighbours.append(history)
    chance = random.Random(history.seed)  # noqa: S311 -- a schedule to be replayed, no secret
    facts = [
        fact
        for index, person in enumerate(people)
        for fact in facts_about(person, "unlinked" if index % 2 else "status")
    ]
    folder = world.folder / f"neighbour-{number}"
    folder.mkdir()
    dsn = await new_database(world.postgres.dsn)
    try:
        await migrate(dsn)
        await settle(dsn, people)
        standing = await _begin(dsn, facts, history, chance)
        async with running(
            folder, world.upstream, dsn, world.redis.url,
            module=world.module, env=world.env, patience=STARTING,
            server={"workers": 1}, errors=ERRORS, routes=ROUTES,
        ) as program:  # fmt: skip
            clients = asyncio.create_task(hammer(program.url, people, history, chance, count=_CLIENTS))
            writer = asyncio.create_task(write_sql(dsn, facts, history, chance, standing))
            try:
                yield
            finally:
                await ended([writer])
                await ended([clients])
    finally:
        await drop_database(world.postgres.dsn, dsn)


async def _begin(
    dsn: str, facts: Sequence[SqlFact], history: History, chance: random.Random
) -> dict[str, str | None]:
    """Have half of the facts stand against their users before the gateway starts."""
    standing: dict[str, str | None] = {}
    connection = await asyncpg.connect(dsn)
    try:
        for fact in chance.sample(facts, len(facts) // 2):
            await change(connection, fact, standing, history, chance)
    finally:
        await connection.close()
    return standing
