"""Changes of a source, by the system's own means, are reported when they are committed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import orjson
import pytest

from gateway.stores.postgres.source.install import install, plan, remove, unindexed
from tests.systems.fixtures import SYSTEMS
from tests.systems.sources import BLOCKS, ISS, ISSUERS, source_of
from tests.systems.system import System


@dataclass
class Ear:
    """Listens to a database, and tells what has been reported since the last question."""

    connection: Any
    heard: "asyncio.Queue[str]" = field(default_factory=asyncio.Queue)

    async def changes(self) -> list[dict[str, Any]]:
        """Return the changes that were reported until now."""
        await self.connection.execute("SELECT pg_notify('gateway_changes', 'until here')")
        found = []
        while (payload := await asyncio.wait_for(self.heard.get(), 10)) != "until here":
            found.append(orjson.loads(payload))
        return found

    async def identities(self) -> set[tuple[str, str]]:
        """Return the identities that were reported until now. Fails if all users were."""
        changes = await self.changes()
        assert all(change["kind"] == "identities" for change in changes), changes
        return {tuple(each) for change in changes for each in change["identities"]}


@asynccontextmanager
async def listening(dsn: str) -> AsyncIterator[Ear]:
    connection = await asyncpg.connect(dsn)
    ear = Ear(connection)
    await connection.add_listener("gateway_changes", lambda *heard: ear.heard.put_nowait(str(heard[3])))
    yield ear
    await connection.close()


@pytest.mark.parametrize("system", SYSTEMS, indirect=True)
class TestPresets:
    async def test_a_change_names_the_identities_of_the_user(self, system: System) -> None:
        person, other = await system.add(2)
        await install(system.dsn, source_of(BLOCKS[system.name]), ISSUERS)
        mine = {(ISS, person.subject)}
        async with listening(system.dsn) as ear:
            (new,) = await system.add()
            assert await ear.identities() == {(ISS, new.subject)}
            if system.suspends:
                await system.suspend(person)
                assert await ear.identities() == mine
                await system.reinstate(person)
                assert await ear.identities() == mine
            await system.delete(person)
            assert await ear.identities() == mine
            await system.delete(other)
            assert await ear.identities() == {(ISS, other.subject)}

    async def test_roles_are_reported(self, system: System) -> None:
        if not system.has_roles:
            pytest.skip("the system has no roles")
        (person,) = await system.add()
        await system.grant(person, "editor")
        await install(system.dsn, source_of(BLOCKS[system.name]), ISSUERS)
        async with listening(system.dsn) as ear:
            await system.withdraw(person, "editor")
            assert (ISS, person.subject) in await ear.identities()
            await system.grant(person, "editor")
            assert (ISS, person.subject) in await ear.identities()

    async def test_is_installed_once_and_removed_without_a_trace(self, system: System) -> None:
        source = source_of(BLOCKS[system.name])
        assert await install(system.dsn, source, ISSUERS)
        assert not await install(system.dsn, source, ISSUERS)
        assert not (await plan(system.dsn, source, ISSUERS)).statements
        assert await remove(system.dsn, source)
        assert not await remove(system.dsn, source)
        left = await system.sql("SELECT tgname FROM pg_trigger WHERE tgname LIKE 'gateway%'")
        assert left == []
        async with listening(system.dsn) as ear:
            await system.add()
            assert await ear.changes() == []

    async def test_look_ups_use_indexes(self, system: System) -> None:
        async with listening(system.dsn) as ear:
            # The adapter of Auth.js creates no index on the accounts' user.
            expected = ['"public"."accounts"'] if system.name == "authjs" else []
            assert await unindexed(ear.connection, source_of(BLOCKS[system.name])) == expected
