"""Users that a gateway creates: by one function of the database, exactly one for each identity."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final

import asyncpg
import pytest

from gateway.core.model import Identity, StoreUnavailable, UserStatus
from gateway.core.provisioning import NewUser
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.directory.audit import AuditLog
from gateway.stores.postgres.directory.diagnostics import Diagnostics
from gateway.stores.postgres.directory.provisioning import FUNCTION, UserProvisioning
from gateway.stores.postgres.directory.users import IdentityTaken, UserDirectory
from tests.stores.examples import eventually

ANN: Final = NewUser(
    "main", Identity("https://idp.example.com/", "ann"), "ann@example.org", "Ann", "acme", ("member", "a,b")
)


@pytest.fixture
async def postgres(dsn: str) -> AsyncIterator[Postgres]:
    postgres = Postgres(dsn, statement_timeout=10)
    yield postgres
    await postgres.close()


@pytest.fixture
def store(postgres: Postgres) -> UserProvisioning:
    return UserProvisioning(postgres)


async def count(postgres: Postgres, table: str = "users") -> int:
    async with postgres.connection() as connection:
        number: int = await connection.fetchval(f"SELECT count(*) FROM {table}")  # noqa: S608 -- a constant
        return number


async def test_a_user_is_created_once_and_recorded(postgres: Postgres, store: UserProvisioning) -> None:
    first, second = await store.provision(ANN, "r-1"), await store.provision(ANN, "r-2")

    assert (first.result, second.result) == ("created", "exists")
    assert first.user_id == second.user_id
    record = await UserDirectory(postgres).find(ANN.identity)
    assert record is not None
    user = record.user
    assert (user.id, user.status, user.tenant, user.email, user.display_name, user.roles) == (
        first.user_id, UserStatus.ACTIVE, "acme", "ann@example.org", "Ann", ("member", "a,b")
    )  # fmt: skip
    assert first.version < await postgres.latest_transaction()
    (row,) = await AuditLog(postgres).page()
    assert (row.actor, row.action, row.target, row.request_id) == (
        "gateway", "user.provision", f"user:{user.id}", "r-1",
    )  # fmt: skip
    assert row.detail == {
        "issuer": "https://idp.example.com/", "subject": "ann", "issuer_name": "main", "tenant": "acme",
        "roles": ["member", "a,b"],
    }  # fmt: skip


async def test_of_many_at_once_one_creates(dsn: str) -> None:
    """As by several gateways: with the same address, without one, and with a new one each time."""
    stores = [Postgres(dsn, statement_timeout=10, pool_max=5) for _ in range(4)]
    bare = replace(ANN, email=None, identity=Identity("i", "bare"))
    moving = [replace(ANN, email=f"{n}@example.org", identity=Identity("i", "moving")) for n in range(20)]
    newcomers = [*[ANN] * 20, *[bare] * 20, *moving]
    try:
        found = await asyncio.gather(
            *(UserProvisioning(stores[n % 4]).provision(user, "r") for n, user in enumerate(newcomers))
        )
        for part in (found[:20], found[20:40], found[40:]):
            assert Counter(each.result for each in part) == {"created": 1, "exists": 19}
            assert len({each.user_id for each in part}) == 1
        assert (await count(stores[0]), await count(stores[0], "audit")) == (3, 3)
    finally:
        for each in stores:
            await each.close()


async def test_two_identities_with_one_address_are_one_user_and_one_refusal(
    postgres: Postgres, store: UserProvisioning
) -> None:
    other = replace(ANN, identity=Identity("https://other.example.com/", "ann"), email="ANN@example.org")

    found = await asyncio.gather(store.provision(ANN, "r"), store.provision(other, "r"))

    assert sorted(each.result for each in found) == ["created", "taken"]
    assert await count(postgres) == 1


@pytest.mark.parametrize("status", UserStatus)
async def test_an_address_that_a_user_has_is_linked_to_none(
    postgres: Postgres, store: UserProvisioning, status: UserStatus
) -> None:
    owner = await UserDirectory(postgres).add(Identity("i", "old"), email="Ann@Example.org", status=status)

    found = await store.provision(ANN, "r")

    assert found.result == ("deleted" if status is UserStatus.DELETED else "taken")
    assert found.user_id is None
    record = await UserDirectory(postgres).find(Identity("i", "old"))
    assert record is not None
    assert (record.user.id, len(record.identities)) == (owner.user.id, 1)
    assert (await count(postgres), await count(postgres, "audit")) == (1, 0)


async def test_an_address_of_a_deleted_user_and_another_is_one_of_a_deleted_user(
    postgres: Postgres, store: UserProvisioning
) -> None:
    for subject, status in (("old", UserStatus.DELETED), ("new", UserStatus.ACTIVE)):
        await UserDirectory(postgres).add(Identity("i", subject), email="ann@example.org", status=status)

    assert (await store.provision(ANN, "r")).result == "deleted"


@pytest.mark.parametrize("status", UserStatus)
async def test_an_identity_that_has_a_user_creates_none(
    postgres: Postgres, store: UserProvisioning, status: UserStatus
) -> None:
    owner = await UserDirectory(postgres).add(ANN.identity, status=status)

    found = await store.provision(ANN, "r")

    assert (found.result, found.user_id) == ("exists", owner.user.id)
    assert found.version < await postgres.latest_transaction()


async def test_users_without_an_address_are_not_taken_for_one_another(store: UserProvisioning) -> None:
    users = [replace(ANN, email=None, identity=Identity("i", subject)) for subject in ("a", "b")]

    assert [(await store.provision(user, "r")).result for user in users] == ["created", "created"]


async def test_another_program_may_be_faster(dsn: str, postgres: Postgres, store: UserProvisioning) -> None:
    """It has inserted the identity, and commits while the gateway waits for that row."""
    connection = await asyncpg.connect(dsn)
    transaction = connection.transaction()
    await transaction.start()
    owner = await connection.fetchval(
        "WITH u AS (INSERT INTO users DEFAULT VALUES RETURNING id), i AS (INSERT INTO identities"
        " (issuer, subject, user_id) SELECT $1, $2, id FROM u) SELECT id::text FROM u",
        ANN.identity.issuer, ANN.identity.subject,
    )  # fmt: skip
    waiting = asyncio.create_task(store.provision(ANN, "r"))
    await eventually(lambda: is_blocked(postgres))
    await transaction.commit()
    await connection.close()

    found = await waiting
    assert (found.result, found.user_id) == ("exists", owner)
    assert found.version < await postgres.latest_transaction()
    assert (await count(postgres), await count(postgres, "audit")) == (1, 0)


async def test_a_slower_program_learns_that_the_user_exists(
    postgres: Postgres, store: UserProvisioning
) -> None:
    results = await asyncio.gather(
        *(store.provision(ANN, "r") for _ in range(5)),
        *(UserDirectory(postgres).add(ANN.identity) for _ in range(5)),
        return_exceptions=True,
    )

    assert all(not isinstance(each, BaseException) for each in results[:5])
    assert sum(isinstance(each, IdentityTaken) for each in results[5:]) >= 4
    assert await count(postgres) == 1


async def test_a_role_needs_no_other_right_than_to_execute_the_function(dsn: str, postgres: Postgres) -> None:
    owner = await asyncpg.connect(dsn)
    role = f"newcomer_{await owner.fetchval('SELECT current_database()')}"
    await owner.execute(f"CREATE ROLE {role} LOGIN")
    try:
        async with postgres.connection() as connection, connection.transaction():
            await connection.execute(f"SET LOCAL ROLE {role}")
            allowed = await connection.fetchval(
                "SELECT has_function_privilege('gateway_provision_user(text, text, text, text, text, text[],"
                " text, text)', 'EXECUTE')"
            )
            assert not allowed
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with connection.transaction():
                    await connection.execute(
                        "SELECT gateway_provision_user('i', 's', '', '', '', '{}', '', '')"
                    )
        await owner.execute(
            "GRANT EXECUTE ON FUNCTION"
            f" gateway_provision_user(text, text, text, text, text, text[], text, text) TO {role}"
        )
        async with postgres.connection() as connection, connection.transaction():
            await connection.execute(f"SET LOCAL ROLE {role}")
            created = await connection.fetchrow(
                "SELECT * FROM gateway_provision_user('i', 's', NULL, NULL, NULL, '{}', 'main', 'r')"
            )
            assert created is not None
            assert created["result"] == "created"
            for statement in ("SELECT FROM users", "SELECT FROM audit", "INSERT INTO users DEFAULT VALUES"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    async with connection.transaction():
                        await connection.execute(statement)
        assert await Diagnostics(postgres).may_execute(FUNCTION) is True
    finally:
        await owner.execute(f"DROP OWNED BY {role}")
        await owner.execute(f"DROP ROLE {role}")
        await owner.close()


async def test_a_database_that_is_not_migrated_is_an_outage(
    dsn: str, postgres: Postgres, store: UserProvisioning
) -> None:
    owner = await asyncpg.connect(dsn)
    await owner.execute("DROP FUNCTION gateway_provision_user")
    await owner.close()

    assert await Diagnostics(postgres).may_execute(FUNCTION) is None
    with pytest.raises(StoreUnavailable):
        await store.provision(ANN, "r")


async def is_blocked(postgres: Postgres) -> bool:
    """Tell whether a statement waits for a lock."""
    async with postgres.connection() as connection:
        waits: bool = await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock')"
        )
        return waits
