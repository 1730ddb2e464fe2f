"""Users of well-known systems, changed by the means of these systems, and every worker of a gateway."""

import sys
from pathlib import Path

import pytest

from gateway.stores.postgres.migrate import migrate
from tests.sockets import RawUpstream
from tests.systems.fixtures import SYSTEMS
from tests.systems.sources import BLOCKS
from tests.systems.system import System
from tests.users_elsewhere.gateways import OWN_SCHEMA, install_triggers, token, two_workers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes by Linux's /proc")

_SUSPENDED = {"aspnet-identity": "user_locked"}


@pytest.mark.parametrize("system", SYSTEMS, indirect=True)
async def test_every_worker_follows_the_changes_of_the_system(
    system: System, upstream: RawUpstream, redis_url: str, tmp_path: Path
) -> None:
    person, other = await system.add(2)
    newcomer = system.new_subject()
    if system.has_roles:
        await system.grant(person, "editor")
    block = {**BLOCKS[system.name], "issuer": "main"}
    await migrate(system.dsn, OWN_SCHEMA)
    await install_triggers(system.dsn, block)
    mine, theirs, new = token(person.subject), token(other.subject), token(newcomer)

    async with two_workers(tmp_path, upstream, system.dsn, redis_url, block) as (_, workers):
        # The users of the system are let in, as the system knows them.
        await workers.agree(200, mine)
        received = upstream.requests[-1]
        assert received.values(b"x-user-id") == [person.id.encode()]
        assert received.values(b"x-user-email") == [person.email.encode()]
        await workers.agree(200, theirs)
        await workers.agree("user_not_found", token(person.subject.upper() + "x"))
        await workers.agree("issuer_untrusted", token(person.subject, issuer="https://other.example.com/"))

        # A user who signs up is let in, although that was denied a moment ago.
        await workers.agree("user_not_found", new)
        await system.add(subjects=[newcomer])
        await workers.agree(200, new)

        if system.has_roles:
            await workers.agree(200, mine, "/editors/x")
            await workers.agree("role_missing", theirs, "/editors/x")
            await system.withdraw(person, "editor")
            await workers.agree("role_missing", mine, "/editors/x")
            await system.grant(other, "editor")
            await workers.agree(200, theirs, "/editors/x")

        if system.suspends:
            await system.suspend(person)
            await workers.agree(_SUSPENDED.get(system.name, "user_suspended"), mine)
            await workers.agree(200, theirs)
            await system.reinstate(person)
            await workers.agree(200, mine)

        await system.delete(person)
        await workers.agree("user_not_found", mine)
        await workers.agree(200, theirs)
