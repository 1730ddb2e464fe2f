"""Each mistake in a source is found, and named by its setting."""

from collections.abc import Mapping
from typing import Any

import asyncpg
import pytest

from gateway.stores.postgres.source import trial
from tests.sql import as_role
from tests.systems.fixtures import SYSTEMS, Systems
from tests.systems.sources import BLOCKS, source_of
from tests.systems.system import System

TABLES = """
CREATE TABLE people (id integer PRIMARY KEY, sub text, name text, gone_at timestamptz, seen timestamptz);
CREATE TABLE groups (person integer, name text);
CREATE SEQUENCE counter;
"""
BLOCK: Mapping[str, Any] = {"table": "people", "id": "id", "identities": [{"subject": "sub"}]}


async def faults(dsn: str, *, rows: bool = False, **changes: object) -> dict[str, trial.Fault]:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(TABLES)
        if rows:
            await connection.execute("INSERT INTO people (id, sub, name) VALUES (1, 'ann', 'secret name')")
            await connection.execute("INSERT INTO groups VALUES (1, 'editors')")
        found = await trial.faults(connection, source_of({**BLOCK, **changes}))
        return {fault.field.removeprefix("users.source."): fault for fault in found}
    finally:
        await connection.close()


@pytest.mark.parametrize("system", SYSTEMS, indirect=True)
@pytest.mark.parametrize("people", [0, 2])
async def test_a_preset_has_no_faults(system: System, people: int) -> None:
    if people:
        await system.add(people)
    connection = await asyncpg.connect(system.dsn)
    try:
        assert await trial.faults(connection, source_of(BLOCKS[system.name])) == []
    finally:
        await connection.close()


MISTAKES: Mapping[str, Mapping[str, Any]] = {
    "status[0].when": {"status": [{"when": "NOT is_active", "is": "suspended"}]},
    "status[1].when": {
        "status": [{"when": "gone_at IS NOT NULL", "is": "deleted"}, {"when": "name", "is": "suspended"}]
    },
    "status[0].until": {"status": [{"when": "true", "is": "suspended", "until": "id"}]},
    "tenant": {"tenant": "organisation"},
    "roles.query": {"roles": {"query": "SELECT title FROM groups WHERE person = $1"}},
    "roles.watch.groups": {
        "roles": {"query": "SELECT name FROM groups WHERE person = $1", "watch": {"groups": "user_id"}}
    },
    "attributes.plan": {"attributes": ["plan"]},
    "tokens_valid_after": {"tokens_valid_after": "id"},
    "identities[0].subject": {"identities": [{"subject": "uid"}]},
    "identities[0].where": {"identities": [{"subject": "sub", "where": "provider = 'x'"}]},
    "identities[0].user": {"identities": [{"subject": "name", "table": "groups", "user": "name"}]},
    "poll.column": {"changes": "poll", "poll": {"column": "updated_at"}},
    "display_name": {"display_name": "max(name)"},
    "email": {"email": "unnest(ARRAY['a', 'b'])"},
    "roles": {"roles": "gone_at IS NULL"},
    "watch.groups": {"watch": {"groups": "ARRAY[name]"}},
}
TWO_COLUMNS: Mapping[str, Mapping[str, Any]] = {
    "roles.query": {"roles": {"query": "SELECT person, name FROM groups WHERE person = $1"}},
    "tenant.query": {"tenant": {"query": "SELECT name, person FROM groups WHERE person = $1"}},
}


@pytest.mark.parametrize("rows", [False, True], ids=["empty", "filled"])
@pytest.mark.parametrize("field", MISTAKES)
async def test_a_mistake_is_named_by_its_setting(empty_dsn: str, field: str, rows: bool) -> None:
    assert list(await faults(empty_dsn, rows=rows, **MISTAKES[field])) == [field]


@pytest.mark.parametrize("field", TWO_COLUMNS)
async def test_a_query_of_two_columns(empty_dsn: str, field: str) -> None:
    found = await faults(empty_dsn, **TWO_COLUMNS[field])
    assert "only one column" in found[field].found


async def test_a_column_for_polling_must_distinguish_changes(empty_dsn: str) -> None:
    found = await faults(empty_dsn, changes="poll", poll={"column": "seen::date"})
    assert "is a date" in found["poll.column"].found


@pytest.mark.parametrize("rows", [False, True], ids=["empty", "filled"])
@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("tenant", {"tenant": "nextval('counter')"}),
        (
            "roles.query",
            {"roles": {"query": "WITH n AS (SELECT nextval('counter') AS n) SELECT n::text FROM n"}},
        ),
    ],
)
async def test_an_expression_that_writes_is_refused(
    empty_dsn: str,
    field: str,
    change: Mapping[str, Any],
    rows: bool,
) -> None:
    (found,) = (await faults(empty_dsn, rows=rows, **change)).items()
    assert found[0] == field
    assert "it writes: cannot execute nextval() in a read-only transaction" in found[1].found


async def test_an_error_does_not_show_the_values_of_a_row(empty_dsn: str) -> None:
    found = await faults(empty_dsn, rows=True, tenant="name::integer")
    assert "22P02" in found["tenant"].found
    assert "secret name" not in str(found)


async def test_a_table_that_is_not_there(empty_dsn: str) -> None:
    (found,) = (await faults(empty_dsn, table="persons")).values()
    assert 'there is no table "public"."persons"' in found.found


async def test_rights_that_are_missing(systems: Systems) -> None:
    system = await systems("supabase")
    role = f"reader_{system.dsn[-8:]}"
    await system.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'p'")
    dsn = as_role(system.dsn, role, "p")
    connection = await asyncpg.connect(dsn)
    try:
        for right, grant in (
            ("USAGE on schema", f'GRANT USAGE ON SCHEMA "auth" TO {role}'),
            ("SELECT on", f'GRANT SELECT ON "auth"."users" TO {role}'),
        ):
            (fault,) = await trial.faults(connection, source_of(BLOCKS["supabase"]))
            assert f"role {role} lacks {right}" in fault.found
            assert fault.grant == grant
            await system.sql(grant)
        assert await trial.faults(connection, source_of(BLOCKS["supabase"])) == []
    finally:
        await connection.close()
        await system.sql(f"DROP OWNED BY {role}")
        await system.sql(f"DROP ROLE {role}")
