"""A look at a source finds every change that its column tells, and every user that it can read."""
# ruff: noqa: S608 -- a statement with values of the tests' own

from collections.abc import AsyncIterator

import asyncpg
import pytest

from gateway.stores.postgres.change_stream.listener import Changed
from gateway.stores.postgres.source.database import SourceDatabase
from gateway.stores.postgres.source.polling import Poller
from tests.systems.sources import ISS, ISSUERS, source_of


@pytest.fixture
async def connection(empty_dsn: str) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    opened = await asyncpg.connect(empty_dsn)
    yield opened
    await opened.close()


@pytest.mark.parametrize("column", ["timestamptz", "timestamp"])
@pytest.mark.parametrize("future", ["infinity", "2200-01-01"])
async def test_a_row_from_the_future_hides_no_other(
    empty_dsn: str, connection: "asyncpg.Connection[asyncpg.Record]", column: str, future: str
) -> None:
    await connection.execute(
        f"CREATE TABLE people (id integer PRIMARY KEY, sub text UNIQUE, changed_at {column} DEFAULT now());"
        f"INSERT INTO people VALUES (1, 'ann', now()), (2, 'bob', now()), (3, 'eve', '{future}')"
    )
    source = source_of(
        {
            "table": "people",
            "id": "id",
            "changes": "poll",
            "poll": {"column": "changed_at"},
            "identities": [{"subject": "sub"}],
        }
    )
    database = SourceDatabase(source, ISSUERS, empty_dsn, statement_timeout=10)
    try:
        poller = Poller(database, ISSUERS)
        await poller.begin()
        await poller.changes()
        assert await poller.changes() is None
        await connection.execute("UPDATE people SET changed_at = clock_timestamp() WHERE id = 1")
        change = await poller.changes()
        assert isinstance(change, Changed)
        assert change.identities == ((ISS, "ann"),)
        assert await poller.changes() is None
    finally:
        await database.close()


async def test_a_user_whose_expression_fails_hides_no_other(
    empty_dsn: str, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await connection.execute(
        """
        CREATE TABLE people (id integer PRIMARY KEY, sub text UNIQUE, score integer);
        INSERT INTO people SELECT number, 'u' || number, number - 4 FROM generate_series(1, 7) AS number
        """
    )
    source = source_of(
        {
            "table": "people",
            "id": "id",
            "changes": "poll",
            "status": [{"when": "1 / score > 1", "is": "suspended"}],
            "identities": [{"subject": "sub"}],
        }
    )
    database = SourceDatabase(source, ISSUERS, empty_dsn, statement_timeout=10)
    subjects = [f"u{number}" for number in range(1, 9)]
    try:
        poller = Poller(database, ISSUERS)
        digests, version = await poller.digests("main", subjects)
        assert version > 0
        assert sorted(digests) == ["u1", "u2", "u3", "u5", "u6", "u7", "u8"]
        assert digests["u8"] is None
        users, _ = await poller.users("main", subjects)
        assert sorted(users) == sorted(digests)
    finally:
        await database.close()
