"""Users are created at their first request in a source that may be written to."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from gateway.core.model import Identity, StoreUnavailable
from gateway.core.provisioning import NewUser
from gateway.stores.availability import Availability
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.directory.audit import AuditLog
from gateway.stores.postgres.migrate import migrate
from gateway.stores.postgres.pool import Pool
from gateway.stores.postgres.source.directory.provisioning import SourceProvisioning, rehearse
from gateway.stores.postgres.source.directory.writing import SourceWriter
from tests.sql import execute
from tests.stores.postgres.source.directory.opened import OWN, directory
from tests.systems.fixtures import Systems
from tests.systems.sources import BLOCKS, ISS, ISSUERS, source_of

TABLES = """
CREATE TABLE people (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, mail text, name text, org text,
    roles text[] NOT NULL DEFAULT '{}', gone_at timestamptz, active boolean NOT NULL
);
CREATE TABLE logins (sub text, person integer NOT NULL REFERENCES people);
"""
BLOCK: Mapping[str, Any] = {
    "table": "people",
    "id": "id",
    "writable": True,
    "status": [{"when": "gone_at IS NOT NULL", "is": "deleted"}, {"when": "NOT active", "is": "suspended"}],
    "email": "mail",
    "display_name": "name",
    "tenant": "org",
    "roles": "roles",
    "identities": [{"table": "logins", "subject": "sub", "user": "person"}],
}
WAITS = """
SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()
"""
ANN = NewUser("main", Identity(ISS, "ann"), "Ann@example.com", "Ann", "acme", ("member",))


@pytest.fixture
async def people(empty_dsn: str) -> str:
    await migrate(empty_dsn, OWN)
    await execute(empty_dsn, TABLES)
    return empty_dsn


@asynccontextmanager
async def store(
    dsn: str, block: Mapping[str, Any] = BLOCK
) -> AsyncIterator[tuple[SourceProvisioning, AuditLog]]:
    own = Postgres(dsn, schema=OWN, statement_timeout=10)
    pool = Pool(
        dsn, primary=True, schema="public", size=5, connect_timeout=10, statement_timeout=10,
        availability=Availability(),
    )  # fmt: skip
    provisioning = SourceProvisioning(SourceWriter(source_of(block), ISSUERS, pool, own))
    try:
        yield provisioning, AuditLog(own)
    finally:
        await provisioning.close()
        await own.close()


async def test_a_user_is_created_as_described(people: str) -> None:
    async with store(people) as (provisioning, audit), directory(people, BLOCK) as (users, _):
        assert await rehearse(users, ANN) == "created"
        created = await provisioning.provision(ANN, "request-1")
        assert (created.result, created.user_id) == ("created", "1")
        record = await users.get("1")
        assert record.user == replace(ANN.as_user("1"), attributes=record.user.attributes)
        assert record.identities == (ANN.identity,)
        (entry,) = await audit.page()
        assert (entry.actor, entry.action, entry.target) == ("gateway", "user.provision", "user:1")
        assert entry.request_id == "request-1"
        again = await provisioning.provision(ANN, "request-2")
        assert (again.result, again.user_id) == ("exists", "1")
        assert await rehearse(users, ANN) == "exists"


async def test_no_user_is_created_for_an_address_that_another_has(people: str) -> None:
    other = replace(ANN, identity=Identity(ISS, "ann-2"), email="ANN@example.com")
    async with store(people) as (provisioning, _), directory(people, BLOCK) as (users, _):
        await provisioning.provision(ANN, "r")
        assert await rehearse(users, other) == "taken"
        assert (await provisioning.provision(other, "r")).result == "taken"
        await users.delete("1")
        assert await rehearse(users, other) == "deleted"
        assert (await provisioning.provision(other, "r")).result == "deleted"
        assert len(await users.page()) == 1


@pytest.mark.parametrize("email", [True, False], ids=["one address", "no address"])
async def test_exactly_one_under_many_first_requests(people: str, email: bool) -> None:
    user = ANN if email else replace(ANN, email=None)
    async with (
        store(people) as (one, audit),
        store(people) as (other, _),
        directory(people, BLOCK) as (users, _),
    ):
        tasks = [each.provision(user, "r") for each in (one, other) for _ in range(100)]
        results = Counter(found.result for found in await asyncio.gather(*tasks))
        assert results == {"created": 1, "exists": 199}
        assert len(await users.page()) == 1
        assert len(await audit.page()) == 1


async def test_a_row_that_another_program_adds_first_is_found(people: str) -> None:
    await execute(people, "CREATE UNIQUE INDEX ON logins (sub)")
    theirs, watcher = await asyncpg.connect(people), await asyncpg.connect(people)
    async with store(people) as (provisioning, _):
        transaction = theirs.transaction()
        await transaction.start()
        await theirs.execute("INSERT INTO people (active) VALUES (true)")
        await theirs.execute("INSERT INTO logins VALUES ('ann', 1)")
        task = asyncio.create_task(provisioning.provision(replace(ANN, email=None), "r"))
        while not await watcher.fetchval(WAITS) and not task.done():  # noqa: ASYNC110 -- another's state
            await asyncio.sleep(0.01)
        await transaction.commit()
        found = await task
        assert (found.result, found.user_id) == ("exists", "1")
    await theirs.close()
    await watcher.close()


async def test_a_user_that_cannot_be_written_is_an_unavailable_store(systems: Systems) -> None:
    system = await systems("django")
    await migrate(system.dsn, OWN)
    block = {**BLOCKS["django"], "writable": True}
    user = NewUser("main", Identity(ISS, "ann"), "ann@example.com", None, None, ())
    async with store(system.dsn, block) as (provisioning, audit), directory(system.dsn, block) as (users, _):
        with pytest.raises(StoreUnavailable, match=r"no user can be created: .*needs values for password"):
            await provisioning.provision(user, "r")
        with pytest.raises(StoreUnavailable, match="needs values for password"):
            await rehearse(users, user)
        assert await audit.page() == []
        assert await users.page() == []
