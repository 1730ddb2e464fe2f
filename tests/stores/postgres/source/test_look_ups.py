"""Users are found in the tables of other systems."""
# ruff: noqa: S608 -- statements with names of the tests' own

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.core.model import Identity, RecordUnusable, User, UserStatus
from gateway.stores.postgres.source.database import SourceDatabase
from gateway.stores.postgres.source.definition import UserSource
from tests.sql import execute
from tests.systems.fixtures import SYSTEMS
from tests.systems.sources import BLOCKS, ISS, ISSUERS, source_of
from tests.systems.system import System


@asynccontextmanager
async def opened(source: UserSource, dsn: str) -> AsyncIterator[SourceDatabase]:
    database = SourceDatabase(source, ISSUERS, dsn, statement_timeout=10)
    yield database
    await database.close()


async def find(database: SourceDatabase, subject: str) -> User | None:
    return (await database.find_user(Identity(ISS, subject))).user


@pytest.mark.parametrize("system", SYSTEMS, indirect=True)
class TestPresets:
    async def test_finds_the_user_behind_a_subject(self, system: System) -> None:
        people = await system.add(3)
        async with opened(source_of(BLOCKS[system.name]), system.dsn) as database:
            for person in people:
                user = await find(database, person.subject)
                assert user is not None
                assert (user.id, user.email, user.status) == (person.id, person.email, UserStatus.ACTIVE)
            assert await find(database, "ghost") is None
            assert await find(database, f"{people[0].subject} ") is None
            assert (await database.find_user(Identity("https://other/", people[0].subject))).user is None

    async def test_status_and_roles_are_the_systems(self, system: System) -> None:
        (person,) = await system.add()
        async with opened(source_of(BLOCKS[system.name]), system.dsn) as database:
            if system.has_roles:
                await system.grant(person, "editor")
                await system.grant(person, "admin")
                user = await find(database, person.subject)
                assert user is not None
                assert sorted(user.roles) == ["admin", "editor"]
                await system.withdraw(person, "admin")
                user = await find(database, person.subject)
                assert user is not None
                assert user.roles == ("editor",)
            if system.suspends:
                await system.suspend(person)
                user = await find(database, person.subject)
                assert user is not None
                assert user.status in (UserStatus.SUSPENDED, UserStatus.LOCKED)
                await system.reinstate(person)
                user = await find(database, person.subject)
                assert user is not None
                assert user.status is UserStatus.ACTIVE
            await system.delete(person)
            user = await find(database, person.subject)
            assert user is None or user.status is UserStatus.DELETED


async def test_subjects_are_integers_of_any_size(empty_dsn: str) -> None:
    values = {"large": ("-9223372036854775808", "1234567890123456789", "9223372036854775807"),
              "middle": ("-2147483648", "1500000000", "2147483647"),
              "small": ("-32768", "12345", "32767")}  # fmt: skip
    rows = ", ".join(f"({', '.join(row)})" for row in zip(*values.values(), strict=True))
    await execute(
        empty_dsn,
        "CREATE TABLE people (large bigint PRIMARY KEY, middle integer UNIQUE, small smallint UNIQUE);"
        f"INSERT INTO people VALUES {rows}",
    )
    for column, subjects in values.items():
        block = {"table": "people", "id": "large", "identities": [{"subject": column}]}
        async with opened(source_of(block), empty_dsn) as database:
            found = [await find(database, subject) for subject in subjects]
            assert [user and user.id for user in found] == list(values["large"])
            for strange in ("9223372036854775808", "9" * 40, "012345", "+12345", "1e4", ""):
                assert await find(database, strange) is None


@pytest.mark.parametrize(
    ("column", "roles"),
    [("texts", ("a", "b", "c")), ("json", ("x", "y", "z")), ("word", ("one", "two")), ("number", ("5", "6"))],
)
async def test_a_query_of_roles_may_have_several_in_a_row(
    empty_dsn: str, column: str, roles: tuple[str, ...]
) -> None:
    await execute(
        empty_dsn,
        """
        CREATE TABLE people (id integer PRIMARY KEY, sub text UNIQUE);
        CREATE TABLE profiles (person integer, texts text[], json jsonb, word char(5), number integer);
        INSERT INTO people VALUES (1, 'ann');
        INSERT INTO profiles VALUES (1, '{b,a}', '["x","y"]', 'one', 5), (1, '{c}', '"z"', 'two', 6),
            (1, NULL, NULL, NULL, NULL);
        """,
    )
    query = {"query": f"SELECT {column} FROM profiles WHERE person = $1"}
    block = {"table": "people", "id": "id", "roles": query, "identities": [{"subject": "sub"}]}
    async with opened(source_of(block), empty_dsn) as database:
        user = await find(database, "ann")
        assert user is not None
        assert user.roles == roles


async def test_one_of_several_values_is_not_taken_by_chance(empty_dsn: str) -> None:
    await execute(
        empty_dsn,
        """
        CREATE TABLE people (id integer PRIMARY KEY, sub text UNIQUE);
        CREATE TABLE members (person integer, org text);
        INSERT INTO people VALUES (1, 'ann'), (2, 'bob');
        INSERT INTO members VALUES (1, 'a'), (1, 'b'), (2, 'a');
        """,
    )
    query = {"query": "SELECT org FROM members WHERE person = $1"}
    block = {"table": "people", "id": "id", "tenant": query, "identities": [{"subject": "sub"}]}
    async with opened(source_of(block), empty_dsn) as database:
        user = await find(database, "bob")
        assert user is not None
        assert user.tenant == "a"
        with pytest.raises(RecordUnusable, match="SQLSTATE 21000"):
            await find(database, "ann")
