"""Users are found in the tables of other systems."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.core.model import Identity, User, UserStatus
from gateway.stores.postgres.source.database import SourceDatabase
from gateway.stores.postgres.source.definition import UserSource
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
