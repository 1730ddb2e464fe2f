"""A live database has locks, huge tables, and rows that the role may not read."""

from collections.abc import AsyncIterator
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from gateway.core.model import StoreUnavailable
from gateway.stores.postgres.inspection.session import Unread, inspection
from tests.reconcile.adopt.looking import look
from tests.sql import as_role, execute
from tests.stores.postgres.pgbouncer import IGNORED, pgbouncer

USERS = (
    "CREATE TABLE users (id int PRIMARY KEY, email text, sub text UNIQUE, status text NOT NULL)",
    "INSERT INTO users SELECT i, i || '@example.com', 'auth0|Ab' || i, 'active'"
    " FROM generate_series(1, 300) i",
)


@pytest.fixture
async def reader(empty_dsn: str) -> AsyncIterator[str]:
    """The DSN of a role that may connect to the database of `empty_dsn`, and no more."""
    name = f"reader_{uuid4().hex}"
    await execute(empty_dsn, f"CREATE ROLE {name} LOGIN PASSWORD 'secret-word'")
    yield as_role(empty_dsn, name, "secret-word")
    await execute(empty_dsn, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


def role(dsn: str) -> str:
    return urlsplit(dsn).username or ""


async def test_nothing_can_be_written(empty_dsn: str) -> None:
    await execute(empty_dsn, *USERS)
    async with inspection(empty_dsn, statement_timeout=5) as database:
        for statement in (
            "DELETE FROM public.users",
            "CREATE TABLE public.t ()",
            "SELECT nextval('public.s')",
        ):
            with pytest.raises(Unread):
                await database._ask(statement)
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await database._connection.execute("DELETE FROM public.users")


@pytest.mark.parametrize("ignored", ["extra_float_digits", IGNORED])
async def test_behind_a_pooler_that_keeps_no_settings(empty_dsn: str, ignored: str) -> None:
    await execute(empty_dsn, *USERS)
    with pgbouncer(empty_dsn, ignored=ignored) as pooler:
        found = await look(pooler.dsn, ["auth0|Ab7"])

    assert found.source is not None
    assert found.source["identities"] == [{"subject": "sub"}]


async def test_a_role_without_rights_gets_the_grants(empty_dsn: str, reader: str) -> None:
    await execute(empty_dsn, *USERS)

    found = await look(reader, ["auth0|Ab7"], readable=False)

    assert found.source is not None
    assert found.source["table"] == "users"
    (unreadable,) = found.unreadable
    assert unreadable.reason == "this role may not read it"
    assert unreadable.grant == f'GRANT SELECT ON public.users TO "{role(reader)}"'
    assert found.unread == {"users.status": "this role may not read it"}
    await execute(empty_dsn, str(unreadable.grant))
    assert (await look(reader, ["auth0|Ab7"])).unreadable == []


async def test_a_schema_that_the_role_may_not_use(empty_dsn: str, reader: str) -> None:
    await execute(
        empty_dsn,
        "CREATE SCHEMA crm",
        "CREATE TABLE crm.users (id int PRIMARY KEY, email text, sub text)",
    )

    found = await look(reader, readable=False)

    (unreadable,) = found.unreadable
    await execute(empty_dsn, str(unreadable.grant))
    assert (await look(reader)).unreadable == []


async def test_rows_that_a_policy_hides_are_reported(empty_dsn: str, reader: str) -> None:
    await execute(
        empty_dsn, *USERS, "ALTER TABLE users ENABLE ROW LEVEL SECURITY",
        f"GRANT SELECT ON users TO {role(reader)}",
    )  # fmt: skip

    found = await look(reader, ["auth0|Ab7"], readable=False)

    assert [each.reason for each in found.unreadable] == ["row-level security hides rows from this role"]
    assert found.choice is not None
    assert found.choice.found == 0


async def test_a_table_that_is_locked_costs_one_time_limit_for_each_query(empty_dsn: str) -> None:
    await execute(empty_dsn, *USERS)
    blocker = await asyncpg.connect(empty_dsn)
    await blocker.execute("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE")

    found = await look(empty_dsn, ["auth0|Ab7"], limit=0.2, readable=False)
    await blocker.close()

    assert found.source is not None
    assert found.source["table"] == "users"
    assert found.unread["users.sub"] == "no answer within 0.2 s"
    assert [(each.reason, each.grant) for each in found.unreadable] == [("no answer within 0.2 s", None)]


async def test_a_huge_table_is_sampled_where_no_index_helps(empty_dsn: str) -> None:
    await execute(
        empty_dsn,
        *USERS,
        "ALTER TABLE users DROP CONSTRAINT users_sub_key, ADD uid text, ADD note text",
        "UPDATE users SET uid = 'u' || id, note = 'u' || id",
        "ALTER TABLE users SET (autovacuum_enabled = false)",
        "UPDATE pg_class SET reltuples = 5e6 WHERE relname = 'users'",
    )

    found = await look(empty_dsn, [f"u{i}" for i in range(1, 300)])

    assert found.search is not None
    # The table has 300 rows, of which a sample of two in a hundred may have any number.
    assert {(each.column.name, each.estimated) for each in found.search.matches} <= {("uid", True)}


async def test_subjects_in_another_spelling_are_counted(empty_dsn: str) -> None:
    await execute(empty_dsn, *USERS)
    exact = [f"auth0|Ab{i}" for i in range(1, 101)]

    found = await look(
        empty_dsn,
        [
            *exact,
            *(f"auth0|ab{i}" for i in range(101, 121)),
            *(f"Ab{i}" for i in range(121, 151)),
            "nobody",
        ],
    )

    assert found.search is not None
    (match,) = found.search.matches
    assert (match.found, match.near, match.near_of) == (100, {"case": 20, "prefix": 30}, 51)


async def test_subjects_that_only_nearly_match_are_found(empty_dsn: str) -> None:
    await execute(empty_dsn, *USERS)

    found = await look(empty_dsn, [f"AUTH0|AB{i}" for i in range(1, 50)])

    assert found.search is not None
    assert [(each.shown, each.found, each.near) for each in found.search.matches] == [
        ("users.sub", 0, {"case": 49})
    ]
    assert found.source is not None
    assert found.source["identities"] == [{"subject": "sub"}]


@pytest.mark.parametrize(
    "subject", ["' OR true --", "$1", "%", "x" * 255, "\N{SNOWMAN}", "a\\b", "99999999999999999999", "-1"]
)
async def test_a_subject_is_never_a_part_of_sql(empty_dsn: str, subject: str) -> None:
    await execute(empty_dsn, *USERS)

    found = await look(empty_dsn, [subject])

    assert found.choice is not None
    assert found.choice.found == 0


async def test_names_are_never_a_part_of_sql(empty_dsn: str) -> None:
    await execute(
        empty_dsn,
        """CREATE TABLE "users"";--" (id int PRIMARY KEY, "e mail" text, email text, sub text UNIQUE)""",
        """INSERT INTO "users"";--" VALUES (1, '', '', 'ann')""",
    )

    found = await look(empty_dsn, ["ann"])

    assert found.source is not None
    assert found.source["table"] == '"users"";--"'
    assert found.source["identities"] == [{"subject": "sub"}]


async def test_functions_of_the_database_are_not_called_in_place_of_postgres_own(empty_dsn: str) -> None:
    await execute(
        empty_dsn,
        *USERS,
        "UPDATE users SET sub = 'auth0|xYz' || id",
        "CREATE FUNCTION public.lower(text) RETURNS text LANGUAGE sql AS $$ SELECT 'other' $$",
        f'ALTER DATABASE "{urlsplit(empty_dsn).path[1:]}" SET search_path = public, pg_catalog',
    )
    found = await look(empty_dsn, ["auth0|xyz7"])

    assert found.search is not None
    assert [each.near for each in found.search.matches] == [{"case": 1}]


async def test_a_server_that_is_not_there() -> None:
    with pytest.raises(StoreUnavailable, match="connection refused"):
        await look("postgresql://ann:secret-word@127.0.0.1:1/none")
