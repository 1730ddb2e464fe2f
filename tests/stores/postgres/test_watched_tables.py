"""The detection of missing triggers, and of triggers that were missing for a time."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from gateway.core.revocations import Revoked
from gateway.stores.postgres.change_stream.listener import Everything
from gateway.stores.postgres.change_stream.triggers import BEAT
from gateway.stores.postgres.migrate import migrate
from tests.stores.ear import Connection, Rig, rigged
from tests.stores.examples import eventually

COLUMNS = """
    kind text, issuer text DEFAULT '', value text DEFAULT '', revoked_at timestamptz DEFAULT now(),
    expires_at timestamptz, reason text, revoked_by text, PRIMARY KEY (kind, issuer, value)
"""
PARTITIONED = f"""
CREATE SCHEMA archive;
DROP TABLE revocations;
CREATE TABLE revocations ({COLUMNS}) PARTITION BY LIST (kind);
CREATE TABLE archive.part PARTITION OF revocations FOR VALUES IN ('jti')
"""
INHERITED = """
CREATE SCHEMA archive;
CREATE TABLE archive.part (LIKE revocations INCLUDING ALL) INHERITS (revocations)
"""


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


async def look(db: Connection) -> tuple[str | None, int | None]:
    """Return a table that is not watched, and the mark of all triggers."""
    row = await db.fetchrow(BEAT, "beats", "x", "public", [], [], [])
    assert row is not None
    return row["unwatched"], row["mark"]


class TestUnwatched:
    async def test_no_table_of_ours_is(self, db: Connection) -> None:
        assert (await look(db))[0] is None

    @pytest.mark.parametrize(
        ("statement", "table"),
        [
            ("ALTER TABLE users DISABLE TRIGGER gateway_changes_update", "users"),
            ("ALTER TABLE identities ENABLE REPLICA TRIGGER gateway_changes_insert", "identities"),
            ("DROP TRIGGER gateway_changes_truncate ON revocations", "revocations"),
            ("DROP TABLE revocations", "revocations"),
            # The old table keeps its triggers, under its new name.
            (f"ALTER TABLE revocations RENAME TO old; CREATE TABLE revocations ({COLUMNS})", "revocations"),
            (PARTITIONED, "archive.part"),
            (INHERITED, "archive.part"),
        ],
    )
    async def test_one_without_all_its_triggers_is(self, db: Connection, statement: str, table: str) -> None:
        await db.execute(statement)
        assert (await look(db))[0] == table

    @pytest.mark.parametrize("tables", [PARTITIONED, INHERITED])
    async def test_partitions_and_inheriting_tables_tell_when_they_are_watched(
        self, dsn: str, db: Connection, tables: str
    ) -> None:
        await db.execute(tables)
        assert await db.fetchval("SELECT gateway_watch_tables()") > 0
        assert await db.fetchval("SELECT gateway_watch_tables()") == 0
        async with rigged(dsn) as rig:
            told = await rig.told(
                "INSERT INTO archive.part (kind, issuer, value) VALUES ('jti', 'main', 'a')",
                "UPDATE revocations SET expires_at = now() + interval '1 hour'",
                "DELETE FROM archive.part",
                "TRUNCATE archive.part",
            )
        assert [type(change) for change in told] == [Revoked, Revoked, Revoked, Everything]


class TestMark:
    @pytest.mark.parametrize(
        "statement",
        [
            "BEGIN; ALTER TABLE users DISABLE TRIGGER ALL; ALTER TABLE users ENABLE TRIGGER ALL; COMMIT",
            f"{PARTITIONED}; SELECT gateway_watch_tables()",
        ],
    )
    async def test_changes_with_the_triggers(self, db: Connection, statement: str) -> None:
        before = await look(db)
        await db.execute(statement)
        after = await look(db)
        assert after[0] is before[0] is None
        assert after[1] != before[1]

    async def test_changes_when_a_partition_goes(self, db: Connection) -> None:
        await db.execute(f"{PARTITIONED}; SELECT gateway_watch_tables()")
        before = await look(db)
        await db.execute("ALTER TABLE revocations DETACH PARTITION archive.part")
        assert (await look(db))[1] != before[1]

    async def test_stays_while_rows_change_and_tables_are_tended(self, db: Connection, dsn: str) -> None:
        before = await look(db)
        await db.execute(
            "INSERT INTO users DEFAULT VALUES; TRUNCATE revocations; CREATE INDEX ON users (tenant)"
        )
        for statement in ("VACUUM FREEZE pg_trigger", "VACUUM FULL users", "ANALYZE"):
            await db.execute(statement)
        await migrate(dsn)
        assert await look(db) == before


class TestStream:
    async def test_changes_while_triggers_were_disabled_are_reported_as_everything(self, dsn: str) -> None:
        async with rigged(dsn) as rig:
            await self.load_without_triggers(rig)

            async def heard() -> bool:
                return any(isinstance(event, Everything) for event in rig.ear.events)

            await eventually(heard)
            assert rig.ear.details == []

    @staticmethod
    async def load_without_triggers(rig: Rig) -> None:
        await rig.user("ann")
        async with rig.db.transaction():
            await rig.db.execute("ALTER TABLE users DISABLE TRIGGER ALL")
            await rig.db.execute("UPDATE users SET status = 'suspended'")
            await rig.db.execute("ALTER TABLE users ENABLE TRIGGER ALL")
