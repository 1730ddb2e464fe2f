"""Operators find the users of other systems."""

import asyncpg
import pytest

from gateway.core.model import Identity, UserStatus
from gateway.stores.postgres.directory.user_rows import (
    IdentityAmbiguous,
    SourceReadOnly,
    UserIdMalformed,
    UserNotFound,
    UserRecord,
)
from gateway.stores.postgres.directory.users import microseconds
from gateway.stores.postgres.source.directory.users import SourceDirectory
from tests.stores.postgres.source.directory.opened import directory
from tests.systems.fixtures import SUSPENDING, SYSTEMS, Systems
from tests.systems.sources import BLOCKS, ISS
from tests.systems.system import System


async def ids_by_page(users: SourceDirectory, *, size: int, text: str | None = None) -> list[str]:
    """Page through all users as the API does."""
    found: list[str] = []
    after = None
    while True:
        page = await users.search(text=text, after=after, limit=size)
        found += [record.user.id for record in page]
        if len(page) < size:
            return found
        after = microseconds(page[-1].created_at), page[-1].user.id


def ids(found: list[UserRecord]) -> set[str]:
    return {record.user.id for record in found}


@pytest.mark.parametrize("system", SYSTEMS, indirect=True)
class TestPresets:
    async def test_users_are_found_in_every_way(self, system: System) -> None:
        people = await system.add(5)
        person = people[2]
        async with directory(system.dsn, BLOCKS[system.name]) as (users, _):
            record = await users.get(person.id)
            assert record.user.id == person.id
            assert record.user.email == person.email
            assert record.identities == (Identity(ISS, person.subject),)
            assert (record.updated_at, record.deleted_at) == (None, None)
            says_when = BLOCKS[system.name]["preset"] in ("django", "keycloak")
            assert (record.created_at is not None) or not says_when
            assert await users.find(Identity(ISS, person.subject)) == record
            assert await users.find(Identity(ISS, "ghost")) is None
            assert await users.find(Identity("https://other/", person.subject)) is None
            assert await users.with_email(person.email) == [record]
            assert await users.with_email(person.email.upper()) == [record]
            for text in (person.id, person.subject, person.email[:-1].upper()):
                assert ids(await users.search(text=text)) == {person.id}
            with pytest.raises(UserNotFound):
                await users.get("no such id")

    async def test_pages_have_each_user_once(self, system: System) -> None:
        people = await system.add(7)
        async with directory(system.dsn, BLOCKS[system.name]) as (users, _):
            listed = await ids_by_page(users, size=3)
            assert sorted(listed) == sorted(person.id for person in people)
            assert await ids_by_page(users, size=2) == listed
            assert await ids_by_page(users, size=2, text="person") == listed
            first = await users.page(limit=3)
            second = await users.page(limit=3, after=first[-1].user.id)
            assert [record.user.id for record in (*first, *second)] == listed[:6]
            assert await users.page(after="-1") == []

    async def test_a_source_is_read_only(self, system: System) -> None:
        (person,) = await system.add()
        async with directory(system.dsn, BLOCKS[system.name]) as (users, audit):
            with pytest.raises(SourceReadOnly, match=r"users\.source is read-only: change "):
                await users.change(person.id, {"status": UserStatus.SUSPENDED})
            with pytest.raises(SourceReadOnly, match="read-only"):
                await users.delete(person.id)
            with pytest.raises(SourceReadOnly, match="read-only"):
                await users.link(person.id, Identity(ISS, "another"))
            with pytest.raises(SourceReadOnly, match="read-only"):
                await users.add(Identity(ISS, "another"))
            assert await audit.page() == []


@pytest.mark.parametrize("system", SUSPENDING, indirect=True)
async def test_the_status_is_a_filter(system: System) -> None:
    person, other = await system.add(2)
    await system.suspend(person)
    async with directory(system.dsn, BLOCKS[system.name]) as (users, _):
        (suspended,) = [
            record
            for status in (UserStatus.SUSPENDED, UserStatus.LOCKED)
            for record in await users.search(status=status)
        ]
        assert suspended.user.id == person.id
        assert ids(await users.search(status=UserStatus.ACTIVE)) == {other.id}


async def test_a_refusal_names_table_and_columns(systems: Systems) -> None:
    system = await systems("django")
    (person,) = await system.add()
    async with directory(system.dsn, BLOCKS["django"]) as (users, _):
        with pytest.raises(SourceReadOnly, match="auth_user, where `NOT is_active` makes a user suspended"):
            await users.change(person.id, {"status": UserStatus.SUSPENDED})
        with pytest.raises(SourceReadOnly, match=r"change auth_user\.email"):
            await users.change(person.id, {"email": "new@example.com"})
        with pytest.raises(SourceReadOnly, match="a query, over auth_user_groups, auth_group"):
            await users.change(person.id, {"roles": ("admin",)})
        with pytest.raises(SourceReadOnly, match=r"social_auth_usersocialauth \(uid, user_id\)"):
            await users.link(person.id, Identity(ISS, "another"))


async def test_an_after_that_is_no_id_of_the_source(systems: Systems) -> None:
    for name, wrong in (("django", "x"), ("django", str(2**40)), ("supabase", "17")):
        system = await systems(name)
        async with directory(system.dsn, BLOCKS[name]) as (users, _):
            with pytest.raises(UserIdMalformed):
                await users.search(after=(0, wrong))


async def test_several_users_behind_one_subject(empty_dsn: str) -> None:
    connection = await asyncpg.connect(empty_dsn)
    await connection.execute(
        "CREATE TABLE people (id serial PRIMARY KEY, sub text, mail text);"
        "INSERT INTO people (sub, mail) VALUES ('twin', 'a@x'), ('twin', 'b@x'), ('ann', 'c@x')"
    )
    await connection.close()
    block = {"table": "people", "id": "id", "email": "mail", "identities": [{"subject": "sub"}]}
    async with directory(empty_dsn, block) as (users, _):
        with pytest.raises(IdentityAmbiguous) as caught:
            await users.find(Identity(ISS, "twin"))
        assert caught.value.ids == ("1", "2")
        assert ids(await users.behind(Identity(ISS, "twin"))) == {"1", "2"}
        assert ids(await users.search(text="twin")) == {"1", "2"}


async def test_users_of_an_unknown_age_are_paged_too(empty_dsn: str) -> None:
    connection = await asyncpg.connect(empty_dsn)
    await connection.execute(
        "CREATE TABLE people (id text PRIMARY KEY, made timestamptz);"
        "INSERT INTO people SELECT 'p' || n, CASE n % 3 WHEN 0 THEN NULL WHEN 1 THEN 'infinity'"
        " ELSE now() - n * interval '1 s' END FROM generate_series(1, 20) AS n"
    )
    await connection.close()
    block = {"table": "people", "id": "id", "created_at": "made", "identities": [{"subject": "id"}]}
    async with directory(empty_dsn, block) as (users, _):
        found = await ids_by_page(users, size=3)
        assert len(found) == len(set(found)) == 20
        oldest_first = [record.created_at or 0.0 for record in await users.search(limit=20)]
        assert oldest_first == sorted(oldest_first)
