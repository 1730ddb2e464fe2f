"""Postgres behind a real PgBouncer, which keeps no prepared statements before its version 1.21."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from gateway.core.model import Identity, StoreUnavailable
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.directory.revocation_rows import RevocationRows
from gateway.stores.postgres.directory.users import UserDirectory
from gateway.stores.postgres.migrate import migrate
from tests.stores.examples import ISS, claims
from tests.stores.postgres.pgbouncer import IGNORED, pgbouncer

SUBJECTS = [f"subject-{number}" for number in range(24)]


@asynccontextmanager
async def opened(dsn: str, **settings: Any) -> AsyncIterator[Postgres]:  # noqa: ANN401 -- those of Postgres
    postgres = Postgres(dsn, statement_timeout=10, connect_timeout=10, **settings)
    yield postgres
    await postgres.close()


async def add_all(dsn: str) -> None:
    async with opened(dsn) as postgres:
        for subject in SUBJECTS:
            await UserDirectory(postgres).add(Identity(ISS, subject))


async def all_are_found(postgres: Postgres) -> None:
    """Ask many questions at once, so that transactions change sessions under them."""

    async def one(subject: str) -> None:
        for _ in range(5):
            found = await postgres.find_user(Identity(ISS, subject))
            assert found.user is not None
            both, revocations = await postgres.find_user_and_revocations(claims(subject))
            assert both.user == found.user
            assert not revocations.token
            assert await postgres.counting_revocations() == []
            await postgres.latest_transaction()

    await asyncio.gather(*map(one, SUBJECTS))


@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.parametrize("ignored", [IGNORED, "extra_float_digits"])
@pytest.mark.parametrize("setting", ["auto", "unnamed"])
async def test_many_clients_at_once_are_answered(dsn: str, mode: str, ignored: str, setting: str) -> None:
    await add_all(dsn)
    size = 3 if mode == "transaction" else 20
    with pgbouncer(dsn, mode=mode, size=size, ignored=ignored) as pooler, capture_logs() as logs:
        async with (
            opened(pooler.dsn, prepared_statements=setting) as one,
            opened(pooler.dsn, prepared_statements=setting, pool_max=5) as other,
        ):
            await asyncio.gather(all_are_found(one), all_are_found(other))
    events = [line["event"] for line in logs]
    # Each of them notices by itself, and says so once.
    assert events == (["prepared_statements_unnamed"] * 2 if setting == "auto" else [])


async def test_named_behind_one_that_keeps_no_names_is_refused_with_what_to_do(dsn: str) -> None:
    await add_all(dsn)
    with pgbouncer(dsn, size=3) as pooler:
        async with opened(pooler.dsn, prepared_statements="named") as postgres:
            if pooler.version >= (1, 21):
                # It keeps them (`max_prepared_statements`).
                await all_are_found(postgres)
                return
            with pytest.raises(StoreUnavailable, match="does not keep prepared statements"):
                await all_are_found(postgres)
            await asyncio.sleep(0.1)


async def test_a_start_up_parameter_that_is_refused_is_named_with_what_to_set(dsn: str) -> None:
    with pgbouncer(dsn, ignored="extra_float_digits") as pooler:
        async with opened(pooler.dsn, prepared_statements="named") as postgres:
            with pytest.raises(StoreUnavailable, match="set ignore_startup_parameters = search_path"):
                await postgres.ping()


async def test_without_a_pooler_names_are_kept(dsn: str) -> None:
    with capture_logs() as logs:
        async with opened(dsn, pool_max=1) as postgres:
            await postgres.find_user(Identity(ISS, "ann"))
            async with postgres.connection() as connection:
                names = await connection.fetch("SELECT name FROM pg_prepared_statements")
                assert names
    assert logs == []


@pytest.mark.parametrize(
    "error", [asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError]
)
async def test_a_lost_name_of_a_statement_costs_no_answer(
    dsn: str, error: type[asyncpg.PostgresError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pooler that passes on the process ids of Postgres."""
    await add_all(dsn)
    async with opened(dsn) as postgres:
        await postgres.ping()
        fetchrow = asyncpg.Connection.fetchrow
        failures: list[str] = []

        async def lost(self: Any, query: str, *values: object, **rest: Any) -> object:  # noqa: ANN401 -- the driver's
            if self._stmt_cache_enabled and not failures:
                failures.append(query)
                raise error("prepared statement does not exist")
            return await fetchrow(self, query, *values, **rest)

        monkeypatch.setattr(asyncpg.Connection, "fetchrow", lost)
        with capture_logs() as logs:
            assert (await postgres.find_user(Identity(ISS, SUBJECTS[0]))).user is not None
            assert (await postgres.find_user(Identity(ISS, SUBJECTS[1]))).user is not None
        assert len(failures) == 1
        assert [line["event"] for line in logs] == ["prepared_statements_unnamed"]


async def test_commands_work_through_one(empty_dsn: str) -> None:
    with pgbouncer(empty_dsn, size=3, ignored="extra_float_digits") as pooler:
        assert await migrate(pooler.dsn, "elsewhere")
        assert await migrate(pooler.dsn, "elsewhere") == []
        async with opened(pooler.dsn, schema="elsewhere") as postgres:
            directory = UserDirectory(postgres)
            user = (await directory.add(Identity(ISS, "ann"), tenant="acme")).user
            found = await directory.find(Identity(ISS, "ann"))
            assert found is not None
            assert found.user == user
            await RevocationRows(postgres).revoke("jti", issuer="main", value="token-1")
            assert (await postgres.find_user_and_revocations(claims()))[1].token
            await postgres.prune()
