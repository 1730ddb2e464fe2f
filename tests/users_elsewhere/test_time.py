"""Bans that begin and end by time alone, without any write."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

from tests.harness import House
from tests.proxy.long_lived import ended, stays_open, streaming, tunnelling
from tests.sockets import RawClient
from tests.sql import execute
from tests.stores.cable import Cable
from tests.users_elsewhere.gateways import Crowd, in_memory, install_triggers, one_process, token

Opened: TypeAlias = Callable[[House, bytes], AbstractAsyncContextManager[RawClient]]

TABLE: Final = """
CREATE TABLE person (
    id integer PRIMARY KEY, subject text UNIQUE, banned_until timestamptz, valid_until timestamptz
)
"""
BLOCK: Final[dict[str, Any]] = {
    "table": "person",
    "id": "id",
    "issuer": "main",
    "status": [
        {"when": "valid_until <= now()", "is": "locked", "until": "valid_until"},
        {"when": "banned_until > now()", "is": "suspended", "until": "banned_until"},
    ],
    "identities": [{"subject": "subject"}],
}
SOON: Final = 2.5
"""Seconds until an instant; long enough for a busy machine to do what comes before it."""
LATE: Final = 1.0
"""Seconds after an instant by which its effect must be there. Milliseconds are expected."""


@asynccontextmanager
async def gateway(folder: Path, dsn: str, redis_url: str) -> AsyncIterator[tuple[House, Crowd]]:
    await install_triggers(dsn, BLOCK)
    async with one_process(folder, dsn, redis_url, BLOCK) as started:
        yield started


async def add(house: House, subject: str, **instants: float) -> float:
    """Add a user whose columns have instants in so many seconds; return when the earliest one is."""
    now = time.time()
    await house.sql(
        "INSERT INTO person SELECT coalesce(max(id), 0) + 1, $1, to_timestamp($2), to_timestamp($3)"
        " FROM person",
        subject,
        *(now + instants[name] if name in instants else None for name in ("banned_until", "valid_until")),
    )
    return now + min(instants.values())


async def becomes(clients: Crowd, expected: object, bearer: bytes, at: float, *, early: float = 0.0) -> None:
    """Ask without pause; the outcome must change at an instant, and not before; `early` is seconds."""
    (before,) = await clients.outcomes(bearer)
    while (found := await clients.outcomes(bearer)) == {before}:
        assert time.time() < at + LATE
        await asyncio.sleep(0.002)
    # Answers of one moment, some from before the instant and some from after it, may differ.
    assert expected in found
    assert time.time() >= at - early
    await clients.agree(expected, bearer)


@pytest.fixture
async def database(shared_dsn: str) -> str:
    await execute(shared_dsn, TABLE)
    return shared_dsn


class TestRequests:
    async def test_a_ban_ends_and_another_begins_without_a_write(
        self, database: str, redis_url: str, tmp_path: Path
    ) -> None:
        async with gateway(tmp_path, database, redis_url) as (house, clients):
            await add(house, "for ever", banned_until=86_400.0)
            ends = await add(house, "ends", banned_until=SOON)
            begins = await add(house, "begins", valid_until=SOON + 0.5)
            await clients.agree("user_suspended", token("for ever"))
            await clients.agree(200, token("begins"))
            await in_memory(house, clients, token("begins"))
            await clients.agree("user_suspended", token("ends"))
            await becomes(clients, 200, token("ends"), ends)
            await becomes(clients, "user_locked", token("begins"), begins)
            await in_memory(house, clients, token("ends"))

    async def test_one_user_has_several_instants(self, database: str, redis_url: str, tmp_path: Path) -> None:
        async with gateway(tmp_path, database, redis_url) as (house, clients):
            ends = await add(house, "ann", banned_until=SOON, valid_until=SOON + 1.5)
            bearer = token("ann")
            await clients.agree("user_suspended", bearer)
            await becomes(clients, 200, bearer, ends)
            await becomes(clients, "user_locked", bearer, ends + 1.5)

    async def test_an_answer_is_not_served_beyond_its_instant_while_postgres_is_down(
        self, database: str, redis_url: str, tmp_path: Path
    ) -> None:
        await install_triggers(database, BLOCK)
        async with Cable(database) as cable, one_process(tmp_path, cable.url, redis_url, BLOCK) as started:
            house, clients = started
            house.dsn = database
            begins = await add(house, "begins", valid_until=SOON)
            await add(house, "stays", valid_until=86_400.0)
            await clients.agree(200, token("begins"))
            await clients.agree(200, token("stays"))
            await cable.pull()
            # Instants are rounded down.
            await becomes(clients, "user_store_unavailable", token("begins"), begins, early=0.1)
            await clients.agree(200, token("stays"))
            await cable.plug()
            await clients.agree("user_locked", token("begins"))


class TestOpenStreams:
    @pytest.mark.parametrize("opened", [streaming, tunnelling])
    async def test_it_ends_when_a_ban_begins(
        self, opened: Opened, database: str, redis_url: str, tmp_path: Path
    ) -> None:
        async with gateway(tmp_path, database, redis_url) as (house, _):
            begins = await add(house, "begins", valid_until=SOON)
            await add(house, "stays", valid_until=86_400.0)
            async with opened(house, token("stays")) as other, opened(house, token("begins")) as client:
                await ended(client, SOON + LATE)
                assert begins <= time.time() <= begins + LATE
                await stays_open(other)
            await house.upstream.settle()

    async def test_an_instant_that_is_brought_forward_counts(
        self, database: str, redis_url: str, tmp_path: Path
    ) -> None:
        async with gateway(tmp_path, database, redis_url) as (house, _):
            await add(house, "ann", valid_until=86_400.0)
            async with streaming(house, token("ann")) as client:
                begins = time.time() + SOON
                await house.sql("UPDATE person SET valid_until = to_timestamp($1)", begins)
                await ended(client, SOON + LATE)
                assert begins <= time.time() <= begins + LATE

    async def test_an_instant_that_is_put_off_ends_nothing(
        self, database: str, redis_url: str, tmp_path: Path
    ) -> None:
        async with gateway(tmp_path, database, redis_url) as (house, _):
            await add(house, "ann", valid_until=SOON)
            async with streaming(house, token("ann")) as client:
                await house.sql("UPDATE person SET valid_until = NULL")
                await stays_open(client, SOON + 0.5)
