"""Changes of a source, by the system's own means, are reported when they are committed."""

import pytest

from gateway.stores.postgres.source.install import install, plan, remove
from tests.stores.postgres.source.ear import listening
from tests.systems.fixtures import SYSTEMS, WITH_ROLES
from tests.systems.sources import BLOCKS, ISS, ISSUERS, source_of
from tests.systems.system import System


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
        planned = await plan(system.dsn, source_of(BLOCKS[system.name]), ISSUERS)
        # The adapter of Auth.js creates no index on the accounts' user.
        expected = ('"public"."accounts"',) if system.name == "authjs" else ()
        assert planned.lacking.tables == expected
        assert planned.unwatched == ()


@pytest.mark.parametrize("system", WITH_ROLES, indirect=True)
async def test_roles_are_reported(system: System) -> None:
    (person,) = await system.add()
    await system.grant(person, "editor")
    await install(system.dsn, source_of(BLOCKS[system.name]), ISSUERS)
    async with listening(system.dsn) as ear:
        await system.withdraw(person, "editor")
        assert (ISS, person.subject) in await ear.identities()
        await system.grant(person, "editor")
        assert (ISS, person.subject) in await ear.identities()
