"""What is planned and installed for tables of every shape, and what is refused."""
# ruff: noqa: S608 -- statements with names of the tests' own

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
import pytest

from gateway.stores.postgres.migrate import MigrationError
from gateway.stores.postgres.source import scans
from gateway.stores.postgres.source.install import Plan, install, plan, remove
from tests.sql import as_role, execute
from tests.stores.postgres.source.ear import listening
from tests.systems.sources import ISS, ISSUERS, source_of

BLOCK: Final[Mapping[str, Any]] = {"table": "people", "id": "id", "identities": [{"subject": "sub"}]}
LINKED: Final[Mapping[str, Any]] = {
    **BLOCK,
    "identities": [{"table": "links", "subject": "sub", "user": "person"}],
}
PEOPLE: Final = "CREATE TABLE people (id integer PRIMARY KEY, sub text UNIQUE, active boolean DEFAULT true);"


async def planned(dsn: str, block: Mapping[str, Any]) -> Plan:
    return await plan(dsn, source_of(block), ISSUERS)


@pytest.mark.parametrize(
    ("tables", "block", "expected"),
    [
        pytest.param(
            "CREATE TABLE people (id integer PRIMARY KEY);"
            "CREATE TABLE links (person integer, sub uuid); CREATE INDEX ON links (person);",
            LINKED,
            ['CREATE INDEX CONCURRENTLY ON "public"."links" ("sub")'],
            id="a subject of another type than text",
        ),
        pytest.param(
            "CREATE TABLE people (id integer PRIMARY KEY, sub numeric UNIQUE);",
            BLOCK,
            ['CREATE INDEX CONCURRENTLY ON "public"."people" (("sub"::text))'],
            id="a subject that is compared as text",
        ),
        pytest.param(
            "CREATE TABLE people (id uuid PRIMARY KEY);"
            "CREATE TABLE links (person text, sub text UNIQUE); CREATE INDEX ON links (person);",
            {**LINKED, "id": "id::text"},
            ['CREATE INDEX CONCURRENTLY ON "public"."people" ((id::text))'],
            id="an id that is compared as text",
        ),
        pytest.param(
            "CREATE TABLE people (id integer, region text, sub text, PRIMARY KEY (id, region))"
            " PARTITION BY LIST (region); CREATE TABLE people_eu PARTITION OF people FOR VALUES IN ('eu');",
            BLOCK,
            ['CREATE INDEX ON "public"."people" ("sub")'],
            id="a table with partitions",
        ),
        pytest.param(
            "CREATE TABLE people (id integer PRIMARY KEY, sub text, seen timestamptz);",
            {**BLOCK, "identities": [{"subject": "sub", "where": "seen < now()"}]},
            ['CREATE INDEX CONCURRENTLY ON "public"."people" ("sub")'],
            id="a condition that no index can have",
        ),
    ],
)
async def test_an_index_that_is_missing_is_one_that_helps(
    empty_dsn: str, tables: str, block: Mapping[str, Any], expected: list[str]
) -> None:
    await execute(empty_dsn, tables)
    assert list((await planned(empty_dsn, block)).lacking.indexes) == expected
    await execute(empty_dsn, *expected)
    assert (await planned(empty_dsn, block)).lacking.tables == ()


@pytest.mark.parametrize("column", ["varchar(90)", "text", "char(90)"])
async def test_the_index_for_addresses_is_one_that_helps(empty_dsn: str, column: str) -> None:
    source = source_of({**BLOCK, "email": "mail"})
    await execute(
        empty_dsn, f"CREATE TABLE people (id integer PRIMARY KEY, sub text UNIQUE, mail {column} UNIQUE)"
    )
    connection = await asyncpg.connect(empty_dsn)
    index = await scans.index_of_emails(connection, source)
    assert index == 'CREATE INDEX CONCURRENTLY ON "public"."people" (lower((mail)::text))'
    await connection.execute(index)
    assert await scans.index_of_emails(connection, source) is None
    await connection.close()


@pytest.mark.parametrize("indexed", ["id", "id, changed_at"])
async def test_the_index_for_polling_is_one_that_helps(empty_dsn: str, indexed: str) -> None:
    """Another index that has the column can be read as a whole, at each look."""
    source = source_of({**BLOCK, "changes": "poll", "poll": {"column": "changed_at"}})
    await execute(
        empty_dsn,
        "CREATE TABLE people (id integer PRIMARY KEY, sub text UNIQUE, changed_at timestamptz)",
        f"CREATE INDEX ON people ({indexed})",
    )
    connection = await asyncpg.connect(empty_dsn)
    index = await scans.index_for_polling(connection, source)
    assert index == 'CREATE INDEX CONCURRENTLY ON "public"."people" ((changed_at))'
    await connection.execute(index)
    assert await scans.index_for_polling(connection, source) is None
    await connection.close()


VIEWS: Final = f"""
{PEOPLE}
CREATE TABLE blocks (person integer PRIMARY KEY);
CREATE VIEW members AS SELECT p.*, b.person IS NOT NULL AS blocked
    FROM people p LEFT JOIN blocks b ON b.person = p.id;
CREATE MATERIALIZED VIEW kept AS SELECT * FROM people;
"""


@pytest.mark.parametrize(
    ("block", "unwatched"),
    [
        pytest.param(
            {
                **BLOCK,
                "table": "members",
                "watch": {"people": "id"},
                "status": [{"when": "blocked", "is": "locked"}],
            },
            ('"public"."blocks"',),
            id="behind a view",
        ),
        pytest.param(
            {**BLOCK, "roles": {"query": "SELECT 'blocked' FROM blocks WHERE person = $1"}},
            ('"public"."blocks"',),
            id="in a query",
        ),
        pytest.param(
            {**BLOCK, "status": [{"when": "id IN (SELECT person FROM blocks)", "is": "locked"}]},
            ('"public"."blocks"',),
            id="in a condition",
        ),
        pytest.param(BLOCK, (), id="all watched"),
    ],
)
async def test_tables_that_are_read_and_not_watched_are_reported(
    empty_dsn: str, block: Mapping[str, Any], unwatched: tuple[str, ...]
) -> None:
    await execute(empty_dsn, VIEWS)
    found = await planned(empty_dsn, block)
    assert found.unwatched == unwatched
    assert set(unwatched) <= set(found.read)


async def test_a_materialized_view_is_refused_although_its_table_is_watched(empty_dsn: str) -> None:
    await execute(empty_dsn, VIEWS)
    with pytest.raises(MigrationError, match=r'"kept" is a materialized view, .* write changes: poll'):
        await planned(empty_dsn, {**BLOCK, "table": "kept", "watch": {"people": "id"}})


async def test_a_mistake_names_its_setting_and_installs_nothing(empty_dsn: str) -> None:
    await execute(empty_dsn, VIEWS)
    for change, message in (
        ({"watch": {"blocks": "people"}}, r"users\.source\.watch\.blocks: column \"people\""),
        ({"tenant": "nextval('s')"}, r"users\.source\.tenant: it writes"),
    ):
        await execute(empty_dsn, "CREATE SEQUENCE IF NOT EXISTS s")
        with pytest.raises(MigrationError, match=message):
            await install(empty_dsn, source_of({**BLOCK, **change}), ISSUERS)
    assert not await remove(empty_dsn, source_of(BLOCK))


async def test_ids_of_a_fixed_length_are_reported_by_name(empty_dsn: str) -> None:
    await execute(empty_dsn, "CREATE TABLE people (id char(36) PRIMARY KEY, sub text UNIQUE, name text)")
    await execute(empty_dsn, "INSERT INTO people VALUES ('a-b-c', 'ann')")
    await install(empty_dsn, source_of({**BLOCK, "display_name": "name"}), ISSUERS)
    async with listening(empty_dsn) as ear:
        await execute(empty_dsn, "UPDATE people SET name = 'Ann'")
        (change,) = await ear.changes()
        assert (change["identities"], change["users"]) == ([[ISS, "ann"]], ["a-b-c"])


async def test_policies_that_hide_users_from_the_owner_hide_no_change(empty_dsn: str) -> None:
    role = f"owner_{empty_dsn[-8:]}"
    dsn = as_role(empty_dsn, role, "p")
    source = source_of({**BLOCK, "status": [{"when": "NOT active", "is": "suspended"}]})
    await execute(empty_dsn, f"CREATE ROLE {role} LOGIN PASSWORD 'p'", PEOPLE)
    try:
        await execute(
            empty_dsn,
            f"GRANT ALL ON SCHEMA public TO {role}; ALTER TABLE people OWNER TO {role}",
            f"GRANT CREATE ON DATABASE {urlsplit(empty_dsn).path.strip('/')} TO {role}",
            "INSERT INTO people VALUES (1, 'ann'); ALTER TABLE people ENABLE ROW LEVEL SECURITY",
        )
        await install(dsn, source, ISSUERS)
        await execute(empty_dsn, "ALTER TABLE people FORCE ROW LEVEL SECURITY")
        async with listening(empty_dsn) as ear:
            await execute(empty_dsn, "UPDATE people SET active = false")
            assert [change["kind"] for change in await ear.changes()] == ["all"]
        with pytest.raises(MigrationError, match=f"ALTER ROLE {role} BYPASSRLS"):
            await install(dsn, source, ISSUERS)
    finally:
        await execute(empty_dsn, f"DROP OWNED BY {role} CASCADE", f"DROP ROLE {role}")


async def test_two_gateways_do_not_replace_each_others_triggers(empty_dsn: str) -> None:
    await execute(empty_dsn, VIEWS)
    one, other = source_of(BLOCK), source_of({**BLOCK, "tenant": "sub"})
    assert await install(empty_dsn, one, ISSUERS, owner="schema one")
    assert not await install(empty_dsn, one, ISSUERS, owner="schema two")
    for work in (install(empty_dsn, other, ISSUERS, owner="schema two"),
                 remove(empty_dsn, one, owner="schema two")):  # fmt: skip
        with pytest.raises(MigrationError, match="another gateway, with its own tables in schema one"):
            await work
    assert await install(empty_dsn, other, ISSUERS, owner="schema one")
    assert await remove(empty_dsn, other, owner="schema one")
