from collections.abc import AsyncIterator

import pytest

from gateway.core.revocations import Revocation
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.directory.revocation_rows import RevocationRows


@pytest.fixture
async def rows(dsn: str) -> AsyncIterator[RevocationRows]:
    postgres = Postgres(dsn, statement_timeout=10)
    yield RevocationRows(postgres)
    await postgres.close()


async def test_a_revocation_only_grows(rows: RevocationRows) -> None:
    first = await rows.revoke(
        "jti", issuer="main", value="x", expires_at=4e9, reason="lost", revoked_by="ann"
    )
    assert first == Revocation("jti", "main", "x", first.revoked_at, 4e9, "lost", "ann")
    shorter = await rows.revoke("jti", issuer="main", value="x", expires_at=3e9)
    assert (shorter.expires_at, shorter.reason) == (4e9, "lost")
    assert shorter.revoked_at >= first.revoked_at
    assert (await rows.revoke("jti", issuer="main", value="x")).expires_at is None
    assert (await rows.revoke("jti", issuer="main", value="x", expires_at=3e9)).expires_at is None


async def test_expired_revocations_are_listed_apart_and_pruned(rows: RevocationRows) -> None:
    await rows.revoke("jti", issuer="main", value="old", expires_at=1.0)
    await rows.revoke("issuer", issuer="main")
    assert [row.kind for row in await rows.latest()] == ["issuer"]
    assert len(await rows.latest(expired=True)) == 2
    assert await rows.prune() == 1
    assert len(await rows.latest(expired=True)) == 1


async def test_however_many_have_expired_they_are_pruned(
    rows: RevocationRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.stores.postgres.directory.revocation_rows._BATCH", 2)
    for number in range(5):
        await rows.revoke("jti", issuer="main", value=f"{number}", expires_at=1.0)
    assert await rows.prune() == 5
    assert await rows.prune() == 0
    assert await rows.latest(expired=True) == []
