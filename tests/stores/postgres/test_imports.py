from collections.abc import AsyncIterator

import asyncpg
import pytest

from gateway.core.model import UserStatus
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.directory.audit import Author
from gateway.stores.postgres.directory.imports import NewUser, UserImport

ISS = "https://idp.example.com/"
AUTHOR = Author("cli:ann", "run-1")


@pytest.fixture
async def postgres(dsn: str) -> AsyncIterator[Postgres]:
    store = Postgres(dsn, pool_max=2, statement_timeout=10)
    yield store
    await store.close()


def new(subject: str, email: str | None = None) -> NewUser:
    return NewUser(subject, UserStatus.ACTIVE, None, email, None, ("a", 'b "c"'))


async def test_a_batch_sends_one_flush(postgres: Postgres, dsn: str) -> None:
    heard: list[str] = []
    connection = await asyncpg.connect(dsn)
    await connection.add_listener("gateway_changes", lambda *parts: heard.append(str(parts[-1])))
    try:
        await UserImport(postgres, ISS).create([new(f"u{n}") for n in range(2_000)], AUTHOR)
        assert (
            await connection.fetchval("SELECT count(*) FROM users WHERE roles = ARRAY['a', 'b \"c\"']")
            == 2_000
        )
    finally:
        await connection.close()

    assert [("all" in each, "identity" in each) for each in heard].count((True, False)) == 1
    assert len(heard) <= 501


async def test_a_user_whom_another_program_created_meanwhile_is_not_split(
    postgres: Postgres, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = UserImport(postgres, ISS)
    holders = UserImport._holders
    connection = await asyncpg.connect(dsn)
    calls: list[int] = []

    async def then_another(self: UserImport, *arguments: object) -> object:
        found = await holders(self, *arguments)  # type: ignore[arg-type]  # passed on
        calls.append(len(calls))
        if len(calls) == 1:
            owner = await connection.fetchval("INSERT INTO users DEFAULT VALUES RETURNING id")
            await connection.execute("INSERT INTO identities VALUES ($1, 'ann', $2)", ISS, owner)
        return found

    monkeypatch.setattr(UserImport, "_holders", then_another)
    try:
        found = await users.create([new("ann"), new("bob")], AUTHOR)
        assert [each and each.by_email for each in found] == [False, None]
        assert await connection.fetchval("SELECT count(*) FROM users") == 2
        assert await connection.fetchval("SELECT array_agg(detail ->> 'subject') FROM audit") == ["bob"]
    finally:
        await connection.close()
