"""What has been spent of quotas, in a real Postgres."""

import asyncpg
import pytest

from gateway.core.model import StoreUnavailable
from gateway.limits.ledger import Usage
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.quotas import QuotaRows

FAR = 4_000_000_000.0


async def test_the_larger_number_stays(dsn: str) -> None:
    postgres = Postgres(dsn)
    rows = QuotaRows(postgres)
    assert await rows.used("daily", "ann", "2026-11-30") == 0
    await rows.save(
        [Usage("daily", "ann", "2026-11-30", 5, FAR), Usage("daily", "ben", "2026-11-30", 2, FAR)]
    )
    await rows.save(
        [Usage("daily", "ann", "2026-11-30", 4, FAR), Usage("daily", "ben", "2026-11-30", 3, FAR)]
    )
    assert [await rows.used("daily", who, "2026-11-30") for who in ("ann", "ben")] == [5, 3]
    assert await rows.used("daily", "ann", "2026-12-01") == 0
    assert await rows.reset("daily", "ann", "2026-11-30")
    assert not await rows.reset("daily", "ann", "2026-11-30")
    assert await rows.used("daily", "ann", "2026-11-30") == 0
    await postgres.close()


async def test_rows_go_after_their_period(dsn: str) -> None:
    postgres = Postgres(dsn)
    rows = QuotaRows(postgres)
    await rows.save([Usage("daily", "ann", "2001-09-09", 5, 1_000_000_000.0)])
    await rows.save([Usage("daily", "ben", "2096-10-02", 5, FAR)])
    connection = await asyncpg.connect(dsn)
    assert await connection.fetchval("SELECT array_agg(period) FROM gateway_quotas") == ["2096-10-02"]
    assert "ben" not in str(await connection.fetch("SELECT * FROM gateway_quotas"))
    await connection.close()
    await postgres.close()


async def test_another_role_may_not(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    role = f"limited_{connection.get_server_pid()}"
    await connection.execute(f"CREATE ROLE {role}")
    try:
        await connection.execute(f"SET ROLE {role}")
        for statement in ("SELECT * FROM gateway_quotas", "SELECT gateway_quota_used('a', 'b', 'c')"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetch(statement)
    finally:
        await connection.execute("RESET ROLE")
        await connection.execute(f"DROP ROLE {role}")
        await connection.close()


async def test_tables_that_are_older(empty_dsn: str) -> None:
    postgres = Postgres(empty_dsn)
    with pytest.raises(StoreUnavailable):
        await QuotaRows(postgres).used("daily", "ann", "2026-11-30")
    await postgres.close()
