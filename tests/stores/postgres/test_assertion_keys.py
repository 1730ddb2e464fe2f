"""Signing keys in Postgres: made once, kept until they are no longer published, and readable by few."""

import asyncio

import asyncpg
import pytest

from gateway.core.assertion import new_pem
from gateway.core.model import StoreUnavailable
from gateway.stores.postgres.assertion_keys import AssertionKeyRows
from gateway.stores.postgres.database import Postgres


async def test_many_gateways_make_one_key(dsn: str) -> None:
    postgres = Postgres(dsn)
    rows = AssertionKeyRows(postgres)
    await asyncio.gather(
        *(rows.add(new_pem("ES256"), "ES256", 60.0, rotate=False) for _ in range(6)),
    )
    (first,) = await rows.load()
    await rows.add(new_pem("ES256"), "ES256", 60.0, rotate=True)
    old, new = sorted(await rows.load(), key=lambda key: key.signs_from)
    assert old == first
    assert new.signs_from >= first.signs_from + 59
    await rows.add(new_pem("EdDSA"), "EdDSA", 90.0, rotate=False)
    assert [key.algorithm for key in await rows.load()].count("EdDSA") == 1
    await postgres.close()


async def test_keys_go_a_day_after_the_next_one_began(dsn: str) -> None:
    postgres, connection = Postgres(dsn), await asyncpg.connect(dsn)
    rows = AssertionKeyRows(postgres)
    for _ in range(3):
        await rows.add(new_pem("ES256"), "ES256", 60.0, rotate=True)
    await connection.execute("UPDATE gateway_assertion_keys SET signs_from = signs_from - interval '25 h'")
    await rows.add(new_pem("ES256"), "ES256", 60.0, rotate=True)
    assert len(await rows.load()) == 2
    await connection.close()
    await postgres.close()


async def test_a_row_that_is_no_key_is_no_crash(dsn: str) -> None:
    postgres, connection = Postgres(dsn), await asyncpg.connect(dsn)
    await connection.execute(
        "INSERT INTO gateway_assertion_keys VALUES ('k', 'ES256', 'secret', now(), now())"
    )
    with pytest.raises(StoreUnavailable, match="gateway_assertion_keys cannot be used") as caught:
        await AssertionKeyRows(postgres).load()
    assert "secret" not in str(caught.value)
    await connection.close()
    await postgres.close()


async def test_only_roles_that_were_granted_it_can_read_a_key(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("CREATE ROLE without_keys")
    await connection.execute("GRANT SELECT ON users, identities, revocations TO without_keys")
    for statement in (
        "SELECT * FROM gateway_assertion_keys",
        "SELECT * FROM gateway_read_assertion_keys()",
        "SELECT gateway_add_assertion_key('k', 'ES256', 'p', 0, true)",
    ):
        savepoint = connection.transaction()
        await savepoint.start()
        await connection.execute("SET LOCAL ROLE without_keys")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
        await savepoint.rollback()
    await connection.execute("GRANT EXECUTE ON FUNCTION gateway_read_assertion_keys() TO without_keys")
    await connection.execute("SET LOCAL ROLE without_keys")
    assert await connection.fetch("SELECT * FROM gateway_read_assertion_keys()") == []
    await transaction.rollback()
    await connection.close()
