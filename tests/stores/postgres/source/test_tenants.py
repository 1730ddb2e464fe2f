"""One tenant of an issuer never names the users of another."""

from collections.abc import AsyncIterator
from typing import Final

import asyncpg
import pytest
from pydantic import ValidationError

from gateway.core.model import Identity
from gateway.settings import Settings
from gateway.stores.postgres.directory.user_rows import IdentityTaken
from gateway.stores.postgres.source.database import SourceDatabase
from gateway.stores.postgres.source.install import install
from gateway.stores.postgres.source.polling import Poller
from tests.stores.postgres.source.directory.opened import directory
from tests.stores.postgres.source.ear import listening
from tests.systems.sources import configuration, source_of

ISS: Final = "https://login.example.com/{tenant}/v2.0"
ISSUERS: Final = [
    {"name": "main", "issuer": ISS, "audiences": ["api"], "tenants": "any", "keys": {"discovery": True}}
]
NAMES: Final = {"main": ISS}
BLOCK: Final = {
    "table": "people",
    "id": "id",
    "identities": [{"table": "logins", "subject": "oid", "user": "person", "tenant": "tid"}],
}


def iss(tenant: str) -> str:
    return ISS.replace("{tenant}", tenant)


@pytest.fixture
async def dsn(empty_dsn: str) -> AsyncIterator[str]:
    connection = await asyncpg.connect(empty_dsn)
    await connection.execute(
        "CREATE TABLE people (id int PRIMARY KEY, alive boolean);"
        "CREATE TABLE logins (tid text, oid text, person int REFERENCES people, PRIMARY KEY (tid, oid));"
        "INSERT INTO people VALUES (1, true), (2, true);"
        "INSERT INTO logins VALUES ('red', 'ann', 1), ('blue', 'ann', 2)"
    )
    yield empty_dsn
    await connection.close()


async def test_each_tenant_has_its_own_subjects(dsn: str) -> None:
    database = SourceDatabase(source_of(BLOCK, issuers=ISSUERS), NAMES, dsn, statement_timeout=10)
    try:
        for tenant, expected in (("red", "1"), ("blue", "2")):
            user = (await database.find_user(Identity(iss(tenant), "ann"))).user
            assert user is not None
            assert user.id == expected
        assert (await database.find_user(Identity(iss("green"), "ann"))).user is None
        assert (await database.find_user(Identity(ISS, "ann"))).user is None
        states, _ = await Poller(database, NAMES).digests("main/red", ["ann"])
        others, _ = await Poller(database, NAMES).digests("main/blue", ["ann"])
        assert states["ann"] != others["ann"]
        assert (await Poller(database, NAMES).digests("main/green", ["ann"]))[0] == {"ann": None}
    finally:
        await database.close()


async def test_changes_name_the_iss_of_the_tenant(dsn: str) -> None:
    await install(dsn, source_of({**BLOCK, "attributes": ["alive"]}, issuers=ISSUERS), NAMES)
    async with listening(dsn) as ear:
        await ear.connection.execute("UPDATE people SET alive = false WHERE id = 1")
        assert await ear.identities() == {(iss("red"), "ann")}
        await ear.connection.execute("UPDATE logins SET tid = 'green' WHERE tid = 'blue'")
        assert await ear.identities() == {(iss("blue"), "ann"), (iss("green"), "ann")}


@pytest.mark.parametrize(
    ("identities", "expected"),
    [
        ([{"subject": "id::text"}], "has no tenant"),
        ([{"table": "logins", "subject": "oid", "user": "person"}], "has no tenant"),
    ],
)
def test_a_source_for_many_tenants_names_them(identities: list[dict[str, str]], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        Settings.model_validate(configuration({**BLOCK, "identities": identities}, issuers=ISSUERS))
    with pytest.raises(ValidationError, match="is only for an issuer with"):
        Settings.model_validate(configuration(BLOCK))


async def test_operators_see_and_change_the_subjects_of_one_tenant(dsn: str) -> None:
    block = {**BLOCK, "writable": True}
    async with directory(dsn, block, issuers=ISSUERS) as (users, _):
        red, blue = Identity(iss("red"), "ann"), Identity(iss("blue"), "ann")
        assert (await users.get("1")).identities == (red,)
        for identity, owner in ((red, "1"), (blue, "2")):
            record = await users.find(identity)
            assert record is not None
            assert record.user.id == owner
        assert await users.find(Identity(iss("green"), "ann")) is None
        assert {record.user.id for record in await users.search(text="ann")} == {"1", "2"}
        green = Identity(iss("green"), "ann")
        assert (await users.link("1", green)).identities == (green, red)
        with pytest.raises(IdentityTaken):
            await users.link("1", blue)
        assert (await users.move(red, source="1", target="2")).identities == (blue, red)
        assert (await users.unlink("2", red)).identities == (blue,)
        assert (await users.get("1")).identities == (green,)
