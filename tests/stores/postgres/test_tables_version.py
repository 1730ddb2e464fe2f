"""Tables that are older or newer than the program."""

import uuid
from dataclasses import dataclass

import asyncpg
import pytest

from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.migrate import Migration, migrate, migrations
from gateway.stores.postgres.tables_version import difference, newest_known
from tests.sql import as_role

NEWEST = migrations()[-1].version


@pytest.mark.parametrize(
    ("tables", "program", "kind", "found"),
    [
        (14, 14, None, ""),
        (13, 14, "older", "their newest migration is 0013, and this version has 0014"),
        (None, 14, "older", "their newest migration is before 0014, and this version has 0014"),
        (15, 14, "newer", "their newest migration is 0015, and this version knows 0014"),
    ],
)
def test_the_newest_migrations_are_compared(
    tables: int | None, program: int, kind: str | None, found: str
) -> None:
    told = difference(tables, program)
    assert (None if told is None else told.kind) == kind
    assert found in str(told)
    if kind == "older":
        assert "run `gateway migrate`" in str(told)


@dataclass
class Tables:
    dsn: str

    async def difference(self) -> str | None:
        postgres = Postgres(self.dsn)
        try:
            found = await postgres.compare_versions()
        finally:
            await postgres.close()
        return None if found is None else found.kind

    async def execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.dsn)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


async def test_the_tables_tell_their_version(empty_dsn: str) -> None:
    tables = Tables(empty_dsn)
    assert newest_known() == NEWEST
    # Without tables there is no version: that `gateway migrate` has not run is told elsewhere.
    assert await tables.difference() is None
    await migrate(empty_dsn, known=migrations()[:12])
    assert await tables.difference() == "older"
    await migrate(empty_dsn)
    assert await tables.difference() is None
    await migrate(empty_dsn, known=[*migrations(), Migration(NEWEST + 1, "later", "SELECT 1")])
    assert await tables.difference() == "newer"
    role = f"may_not_ask_{uuid.uuid4().hex}"
    await tables.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'p'")
    try:
        theirs = Tables(as_role(empty_dsn, role, "p"))
        assert await theirs.difference() == "newer"
        await tables.execute("REVOKE EXECUTE ON FUNCTION gateway_tables_version() FROM PUBLIC")
        assert await theirs.difference() is None
    finally:
        await tables.execute(f"DROP ROLE {role}")
