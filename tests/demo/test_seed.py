import asyncpg
import pytest

from gateway.demo.seed import SEEDS, TENANT, seed
from gateway.stores.postgres.migrate import migrate

_ISSUER = "http://127.0.0.1:9000"


async def _rows(dsn: str, query: str) -> list[tuple[object, ...]]:
    connection = await asyncpg.connect(dsn)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def test_each_subject_says_what_its_user_is(dsn: str) -> None:
    await seed(dsn, _ISSUER)
    rows = await _rows(
        dsn,
        "SELECT subject, status, roles, tenant, deleted_at IS NOT NULL, issuer"
        " FROM users JOIN identities ON user_id = id ORDER BY subject",
    )
    assert rows == [
        ("admin", "active", ["admin"], TENANT, False, _ISSUER),
        ("deleted", "deleted", [], TENANT, True, _ISSUER),
        ("locked", "locked", [], TENANT, False, _ISSUER),
        ("member", "active", [], TENANT, False, _ISSUER),
        ("pending", "pending", [], TENANT, False, _ISSUER),
        ("suspended", "suspended", [], TENANT, False, _ISSUER),
    ]


async def test_seeding_again_changes_no_user_and_links_a_new_issuer(dsn: str) -> None:
    await seed(dsn, _ISSUER)
    await _rows(dsn, "UPDATE users SET status = 'suspended' WHERE email = 'member@example.com'")
    await seed(dsn, _ISSUER)
    await seed(dsn, "http://127.0.0.1:9001")
    assert await _rows(dsn, "SELECT count(*) FROM users") == [(len(SEEDS),)]
    assert await _rows(dsn, "SELECT count(*) FROM identities") == [(2 * len(SEEDS),)]
    assert await _rows(dsn, "SELECT status FROM users WHERE email = 'member@example.com'") == [("suspended",)]


async def test_schema_may_be_another(empty_dsn: str) -> None:
    await migrate(empty_dsn, 'Odd"name')
    await seed(empty_dsn, _ISSUER, schema='Odd"name')
    assert await _rows(empty_dsn, 'SELECT count(*) FROM "Odd""name".users') == [(len(SEEDS),)]


async def test_missing_tables_are_an_error(empty_dsn: str) -> None:
    with pytest.raises(asyncpg.UndefinedTableError):
        await seed(empty_dsn, _ISSUER)
