import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TypeAlias

import asyncpg
import pytest

from gateway.core.model import StoreUnavailable
from gateway.stores.postgres.migrate import Migration, MigrationError, migrate, migrations

ALL = [
    "0001_users_identities_revocations",
    "0002_changes",
    "0003_audit",
    "0004_identity_spellings",
    "0005_audit_of_commands",
    "0006_order_of_revocations",
    "0007_bulk_changes",
    "0008_database_copy",
    "0009_learnt_revocations",
    "0010_provisioning",
    "0011_feed_of_users",
    "0012_revocations_of_any_user",
    "0013_assertion_keys",
    "0014_version_of_tables",
    "0015_quotas",
]
NEXT = int(ALL[-1][:4]) + 1
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@pytest.fixture
async def connection(empty_dsn: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(empty_dsn)
    yield connection
    await connection.close()


async def test_migrates_once(empty_dsn: str, connection: Connection) -> None:
    assert await migrate(empty_dsn) == ALL
    assert await migrate(empty_dsn) == []
    rows = await connection.fetch("SELECT version, name, checksum FROM gateway_migrations ORDER BY version")
    assert [tuple(row) for row in rows] == [(m.version, m.name, m.checksum) for m in migrations()]


async def test_concurrent_migrations_apply_each_once(empty_dsn: str) -> None:
    results = await asyncio.gather(*(migrate(empty_dsn) for _ in range(6)))
    assert sorted(name for applied in results for name in applied) == ALL


async def test_schema_is_created_and_quoted(empty_dsn: str, connection: Connection) -> None:
    schema = 'odd "name"; --'
    assert await migrate(empty_dsn, schema) == ALL
    assert await migrate(empty_dsn, schema) == []
    found = await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = $1", schema)
    assert found == 10
    assert await connection.fetchval("SELECT to_regclass('public.users')") is None


async def test_refuses_a_database_that_is_ahead(empty_dsn: str) -> None:
    later = Migration(NEXT, "later", "CREATE TABLE later ()")
    assert await migrate(empty_dsn, known=[*migrations(), later]) == [*ALL, f"{NEXT:04}_later"]
    with pytest.raises(MigrationError, match=f"ahead: it has migration {NEXT:04}_later"):
        await migrate(empty_dsn)


async def test_refuses_another_content_under_the_same_number(empty_dsn: str) -> None:
    await migrate(empty_dsn)
    with pytest.raises(MigrationError, match="another content"):
        await migrate(empty_dsn, known=[Migration(1, "other", "SELECT 1")])


async def test_a_migration_that_fails_leaves_nothing(empty_dsn: str, connection: Connection) -> None:
    broken = Migration(NEXT, "broken", "CREATE TABLE half (); CREATE TABLE half ()")
    with pytest.raises(StoreUnavailable, match="already exists"):
        await migrate(empty_dsn, known=[*migrations(), broken])
    assert await connection.fetchval("SELECT to_regclass('half')") is None
    assert await migrate(empty_dsn) == []


async def test_does_not_let_writers_wait_behind_a_long_transaction(
    empty_dsn: str, connection: Connection
) -> None:
    await migrate(empty_dsn, known=migrations()[:1])
    hasty = replace(migrations()[1], sql=migrations()[1].sql.replace("'5s'", "'50ms'"))
    async with connection.transaction():
        await connection.execute("LOCK TABLE users IN ROW EXCLUSIVE MODE")
        with pytest.raises(StoreUnavailable, match="lock timeout"):
            await migrate(empty_dsn, known=[migrations()[0], hasty])
    assert await migrate(empty_dsn) == ALL[1:]


async def test_reports_a_role_that_may_not_create_tables(empty_dsn: str, connection: Connection) -> None:
    await connection.execute("CREATE SCHEMA closed")
    role = f"limited_{id(connection)}"
    await connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'p'; GRANT USAGE ON SCHEMA closed TO {role}")
    try:
        target = await connection.fetchval("SELECT current_database()")
        address = empty_dsn.rpartition("@")[2].partition("/")[0]
        with pytest.raises(
            MigrationError, match="permission denied for schema closed; run this as the owner"
        ):
            await migrate(f"postgresql://{role}:p@{address}/{target}", "closed")
    finally:
        await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_unreachable_database_is_named_without_its_password() -> None:
    with pytest.raises(StoreUnavailable) as caught:
        await migrate("postgresql://someone:hunter2@127.0.0.1:1/gateway")
    assert caught.value.detail == "127.0.0.1:1: connection refused"


class TestTables:
    @pytest.fixture
    async def db(self, dsn: str) -> AsyncIterator[Connection]:
        connection = await asyncpg.connect(dsn)
        yield connection
        await connection.close()

    async def test_deleted_at_follows_status(self, db: Connection) -> None:
        user = await db.fetchval("INSERT INTO users (status) VALUES ('deleted') RETURNING id")
        deleted_at = "SELECT deleted_at IS NOT NULL FROM users WHERE id = $1"
        assert await db.fetchval(deleted_at, user) is True
        await db.execute("UPDATE users SET status = 'active' WHERE id = $1", user)
        assert await db.fetchval(deleted_at, user) is False

    async def test_setting_deleted_at_deletes(self, db: Connection) -> None:
        user = await db.fetchval("INSERT INTO users DEFAULT VALUES RETURNING id")
        await db.execute("UPDATE users SET deleted_at = now() WHERE id = $1", user)
        assert await db.fetchval("SELECT status FROM users WHERE id = $1", user) == "deleted"
        assert (
            await db.fetchval("INSERT INTO users (deleted_at) VALUES (now()) RETURNING status") == "deleted"
        )

    async def test_clearing_deleted_at_restores(self, db: Connection) -> None:
        user = await db.fetchval("INSERT INTO users (status) VALUES ('deleted') RETURNING id")
        state = "SELECT status || ' ' || coalesce(deleted_at::text, 'not deleted') FROM users WHERE id = $1"
        await db.execute("UPDATE users SET deleted_at = NULL WHERE id = $1", user)
        assert await db.fetchval(state, user) == "active not deleted"
        await db.execute("UPDATE users SET status = 'locked', deleted_at = NULL WHERE id = $1", user)
        assert await db.fetchval(state, user) == "locked not deleted"
        await db.execute("UPDATE users SET status = 'deleted' WHERE id = $1", user)
        await db.execute("UPDATE users SET status = 'pending', deleted_at = NULL WHERE id = $1", user)
        assert await db.fetchval(state, user) == "pending not deleted"

    async def test_setting_both_deletes(self, db: Connection) -> None:
        user = await db.fetchval("INSERT INTO users (status) VALUES ('suspended') RETURNING id")
        await db.execute("UPDATE users SET status = 'active', deleted_at = now() WHERE id = $1", user)
        assert await db.fetchval("SELECT status FROM users WHERE id = $1", user) == "deleted"

    async def test_updated_at_moves(self, db: Connection) -> None:
        user = await db.fetchval("INSERT INTO users (updated_at) VALUES ('2000-01-01') RETURNING id")
        await db.execute("UPDATE users SET tenant = 'acme' WHERE id = $1", user)
        assert await db.fetchval("SELECT updated_at > '2020-01-01' FROM users WHERE id = $1", user) is True

    @pytest.mark.parametrize(
        "statement",
        [
            "INSERT INTO users (status) VALUES ('actve')",
            "INSERT INTO users (roles) VALUES (ARRAY['a', NULL])",
            "INSERT INTO users (attributes) VALUES ('[]')",
            "INSERT INTO users (status) VALUES (NULL)",
            "INSERT INTO identities (issuer, subject, user_id) VALUES ('i', 's', gen_random_uuid())",
            "INSERT INTO revocations (kind, issuer, value) VALUES ('jti', '', 'x')",
            "INSERT INTO revocations (kind, value) VALUES ('user', upper(gen_random_uuid()::text || ''))",
            "INSERT INTO revocations (kind, value) VALUES ('issuer', 'main')",
            "INSERT INTO revocations (kind, issuer, value) VALUES ('token', 'main', 'x')",
        ],
    )
    async def test_refuses_rows_that_mean_nothing(self, db: Connection, statement: str) -> None:
        with pytest.raises(asyncpg.IntegrityConstraintViolationError):
            await db.execute(statement)
