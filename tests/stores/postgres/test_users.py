"""The directory's writes with their audit, its searches, and the rights that they need."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from gateway.core.model import Identity, StoreUnavailable, UserStatus
from gateway.core.provisioning import NewUser
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.directory.audit import AuditLog, Author
from gateway.stores.postgres.directory.provisioning import UserProvisioning
from gateway.stores.postgres.directory.revocation_rows import RevocationRows
from gateway.stores.postgres.directory.users import IdentityMissing, UserDirectory, UserNotFound
from tests.sql import as_role

BY = Author("api@192.0.2.1", "the-id")
ANN = Identity("https://idp.example.com/", "ann")
OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"


@pytest.fixture
async def postgres(dsn: str) -> AsyncIterator[Postgres]:
    postgres = Postgres(dsn, statement_timeout=10)
    yield postgres
    await postgres.close()


async def audited(postgres: Postgres) -> list[tuple[str, str]]:
    return [(row.action, row.target) for row in await AuditLog(postgres).page()]


async def test_a_failed_change_is_not_audited_and_an_unaudited_change_fails(
    postgres: Postgres, dsn: str
) -> None:
    directory = UserDirectory(postgres)
    user = await directory.add(ANN, author=BY)
    with pytest.raises(Exception, match="belongs to user"):
        await directory.add(ANN, author=BY)
    assert await audited(postgres) == [("user.create", f"user:{user.user.id}")]

    owner = await asyncpg.connect(dsn)
    await owner.execute("ALTER TABLE audit RENAME TO elsewhere")
    await owner.close()
    with pytest.raises(StoreUnavailable):
        await directory.change(uuid.UUID(user.user.id), {"status": UserStatus.LOCKED}, author=BY)
    with pytest.raises(StoreUnavailable):
        await RevocationRows(postgres).revoke("user", value=user.user.id, author=BY)
    assert (await directory.get(uuid.UUID(user.user.id))).user.status is UserStatus.ACTIVE
    assert await RevocationRows(postgres).latest() == []


async def test_without_an_author_nothing_is_recorded(postgres: Postgres) -> None:
    directory = UserDirectory(postgres)
    user = await directory.add(ANN)
    await directory.change(uuid.UUID(user.user.id), {"status": UserStatus.LOCKED})
    assert await audited(postgres) == []


async def test_an_identity_moves_at_once_or_not_at_all(postgres: Postgres) -> None:
    directory = UserDirectory(postgres)
    alias, bob = Identity(ANN.issuer, "alias"), Identity(ANN.issuer, "bob")
    source = uuid.UUID((await directory.add(ANN)).user.id)
    target = uuid.UUID((await directory.add(bob)).user.id)
    await directory.link(source, alias)

    moved = await directory.move(ANN, source=source, target=target, author=BY)
    assert (moved.user.id, set(moved.identities)) == (str(target), {ANN, bob})
    assert (await directory.get(source)).identities == (alias,)
    assert await audited(postgres) == [
        ("identity.link", f"user:{target}"),
        ("identity.unlink", f"user:{source}"),
    ]

    with pytest.raises(IdentityMissing):
        await directory.move(ANN, source=source, target=target, author=BY)
    with pytest.raises(UserNotFound):
        await directory.move(bob, source=target, target=uuid.uuid4(), author=BY)
    assert set((await directory.get(target)).identities) == {ANN, bob}


async def test_two_users_that_exchange_identities_cause_no_deadlock(postgres: Postgres) -> None:
    directory = UserDirectory(postgres)
    bob = Identity(ANN.issuer, "bob")
    one = uuid.UUID((await directory.add(ANN)).user.id)
    other = uuid.UUID((await directory.add(bob)).user.id)
    for _ in range(10):
        await asyncio.gather(
            directory.move(ANN, source=one, target=other), directory.move(bob, source=other, target=one)
        )
        await asyncio.gather(
            directory.move(ANN, source=other, target=one), directory.move(bob, source=one, target=other)
        )
    assert (await directory.get(one)).identities == (ANN,)


async def test_since_when_tokens_count_is_changed_alone(postgres: Postgres, dsn: str) -> None:
    directory = UserDirectory(postgres)
    user_id = uuid.UUID((await directory.add(ANN)).user.id)
    changed = await directory.change(user_id, {"tokens_valid_after": 1_800_000_000.25}, author=BY)
    assert changed.user.tokens_valid_after == 1_800_000_000.25
    [row, *_] = await AuditLog(postgres).page()
    assert row.detail == {"changed": {"tokens_valid_after": [None, 1_800_000_000.25]}}
    assert (await directory.change(user_id, {"tokens_valid_after": None})).user.tokens_valid_after is None

    # An instant that no float holds is as it was after another change.
    owner = await asyncpg.connect(dsn)
    await owner.execute("UPDATE users SET tokens_valid_after = '250000-01-01 00:00:00.000001Z'")
    await directory.change(user_id, {"tenant": "acme"})
    kept = await owner.fetchval("SELECT extract(microseconds FROM tokens_valid_after)::int FROM users")
    await owner.close()
    assert kept == 1


async def test_an_address_that_all_have_is_not_read_to_the_end(postgres: Postgres, dsn: str) -> None:
    owner = await asyncpg.connect(dsn)
    await owner.execute(
        "INSERT INTO users (status, email, created_at)"
        " SELECT CASE WHEN n > 1 THEN 'active' ELSE 'locked' END, 'Nobody@example.com',"
        " now() - (1000 - n) * interval '1 day' FROM generate_series(1, 150) n"
    )
    await owner.close()
    found = await UserDirectory(postgres).with_email("nobody@EXAMPLE.com")
    assert [record.created_at for record in found] == sorted(record.created_at or 0.0 for record in found)
    assert {record.user.status for record in found} == {UserStatus.ACTIVE}
    assert len(found) == 100


async def test_a_change_returns_its_transaction(postgres: Postgres) -> None:
    directory = UserDirectory(postgres)
    first = await directory.add(ANN)
    second = await directory.change(uuid.UUID(first.user.id), {"roles": ("a",)})
    assert first.version is not None
    assert second.version is not None
    assert first.version < second.version < await postgres.latest_transaction()
    assert (await directory.get(uuid.UUID(first.user.id))).version is None


@pytest.mark.parametrize("text", ["ann", "ANN@EX", "Ann S"])
async def test_each_way_to_search_has_an_index(postgres: Postgres, text: str) -> None:
    from gateway.stores.postgres.directory import users

    async with postgres.connection() as connection, connection.transaction():
        await connection.execute("SET LOCAL enable_seqscan = off")
        values = (None, None, None, None, 50, text, None)
        arguments = ", ".join("NULL" if each is None else f"'{each}'" for each in values)
        types = "text, text, bigint, uuid, int, text, uuid"
        await connection.execute(f"PREPARE search ({types}) AS {users._SEARCH}")
        plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN EXECUTE search ({arguments})"))
    for index in ("users_email_begins", "users_display_name_begins", "identities_subject"):
        assert f"{index}" in plan, plan
    assert "Seq Scan" not in plan


async def test_the_documented_grants_are_enough_and_no_more(dsn: str) -> None:
    """The blocks of SQL in docs/operations.md, as an operator would paste them."""
    blocks = re.findall(r"```sql\n(.*?)```", OPERATIONS.read_text(encoding="utf-8"), re.DOTALL)
    grants = "\n".join(block for block in blocks if "GRANT" in block)
    role = f"runtime_{uuid.uuid4().hex}"
    owner = await asyncpg.connect(dsn)
    await owner.execute(grants.replace("gateway_runtime", role).replace("'…'", "'pw'"))
    postgres = Postgres(as_role(dsn, role, "pw"))
    try:
        directory, audit = UserDirectory(postgres), AuditLog(postgres)
        user_id = uuid.UUID((await directory.add(ANN, author=BY)).user.id)
        await directory.change(user_id, {"status": UserStatus.LOCKED}, author=BY)
        await directory.delete(user_id, author=BY)
        await directory.restore(user_id, author=BY)
        bob = Identity(ANN.issuer, "bob")
        await directory.link(user_id, bob, author=BY)
        other = uuid.UUID((await directory.add(Identity(ANN.issuer, "eve"), author=BY)).user.id)
        await directory.move(bob, source=user_id, target=other, author=BY)
        await directory.unlink(other, bob, author=BY)
        await RevocationRows(postgres).revoke("user", value=str(user_id), author=BY)
        await RevocationRows(postgres).lift("user", value=str(user_id), author=BY)
        newcomer = NewUser("main", Identity(ANN.issuer, "new"), None, None, None, ())
        assert (await UserProvisioning(postgres).provision(newcomer, "r-1")).result == "created"
        assert await audit.flush(BY) > 0
        await audit.record(BY, "issuer.refresh", "issuer:main")
        assert len(await audit.page()) == 14
        for forbidden in (
            "DELETE FROM audit",
            "UPDATE audit SET actor = 'x'",
            "DELETE FROM users",
            "TRUNCATE users",
        ):
            with pytest.raises(StoreUnavailable):
                async with postgres.connection() as connection:
                    await connection.execute(forbidden)
    finally:
        await postgres.close()
        await owner.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        await owner.close()
