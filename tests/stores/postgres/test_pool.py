import asyncio
import errno
import os
import signal
import socket
from collections.abc import AsyncIterator

import asyncpg
import pytest

from gateway.core.model import Identity, StoreUnavailable, Tier
from gateway.demo.embedded import EmbeddedPostgres
from gateway.stores.postgres.circuit_breaker import FAILURES
from gateway.stores.postgres.database import Postgres
from tests.stores.cable import Cable
from tests.stores.examples import ISS, eventually
from tests.stores.outages import answers, frozen, recovered

ANN = Identity(ISS, "ann")


@pytest.fixture
async def postgres(dsn: str) -> AsyncIterator[Postgres]:
    postgres = Postgres(dsn, statement_timeout=10)
    yield postgres
    await postgres.close()


async def execute(postgres: Postgres, statement: str) -> None:
    async with postgres.connection() as connection:
        await connection.execute(statement)


async def seconds(postgres: Postgres) -> float:
    """How long a call takes that fails."""
    started = asyncio.get_running_loop().time()
    with pytest.raises(StoreUnavailable):
        await postgres.find_user(ANN)
    return asyncio.get_running_loop().time() - started


async def at_once(postgres: Postgres) -> bool:
    """Tell whether a call fails without waiting for anything."""
    call = asyncio.create_task(seconds(postgres))
    await asyncio.sleep(0)
    over = call.done()
    await call
    return over


class TestFailures:
    async def test_missing_tables_name_the_command(self, empty_dsn: str) -> None:
        postgres = Postgres(empty_dsn)
        with pytest.raises(
            StoreUnavailable, match=r"relation .* does not exist: run `gateway migrate`"
        ) as caught:
            await postgres.find_user(ANN)
        assert isinstance(caught.value.__cause__, asyncpg.UndefinedTableError)
        await postgres.close()

    async def test_refused_connection(self) -> None:
        postgres = Postgres("postgresql://ann:hunter2@127.0.0.1:1/gateway")
        with pytest.raises(StoreUnavailable) as caught:
            await postgres.ping()
        assert caught.value.store is Tier.POSTGRES
        assert caught.value.detail == "127.0.0.1:1: connection refused"

    async def test_a_file_that_cannot_be_read_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The driver looks for certificates in the home folder, which may be another user's."""

        async def refuses(*_: object, **__: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied", "/root/.postgresql/root.crt")

        monkeypatch.setattr(asyncpg, "connect", refuses)
        postgres = Postgres("postgresql://ann@127.0.0.1:1/gateway")
        with pytest.raises(StoreUnavailable) as caught:
            await postgres.ping()
        told = "127.0.0.1:1: /root/.postgresql/root.crt cannot be read: Permission denied"
        assert caught.value.detail == told

    async def test_a_silent_server_is_a_timeout(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            postgres = Postgres(f"postgresql://ann@127.0.0.1:{port}/gateway", connect_timeout=0.2)
            async with asyncio.timeout(2):
                with pytest.raises(StoreUnavailable, match="no answer in time"):
                    await postgres.ping()
            await postgres.close()

    async def test_a_slow_query_is_given_up(self, dsn: str) -> None:
        postgres = Postgres(dsn, statement_timeout=0.1)
        with pytest.raises(StoreUnavailable, match="statement_timeout"):
            await execute(postgres, "SELECT pg_sleep(5)")
        await postgres.ping()
        await postgres.close()

    async def test_a_busy_pool_is_given_up(self, dsn: str) -> None:
        postgres = Postgres(dsn, pool_max=1, connect_timeout=0.2)
        async with postgres.connection():
            with pytest.raises(StoreUnavailable, match=r"in use: `postgres\.pool_max` is 1"):
                await postgres.ping()
        await postgres.ping()
        await postgres.close()

    async def test_recovers_by_itself(self, dsn: str) -> None:
        async with Cable(dsn) as cable:
            await cable.pull()
            postgres = Postgres(cable.url)
            with pytest.raises(StoreUnavailable):
                await postgres.ping()
            await cable.plug()
            await postgres.ping()
            await cable.pull()
            with pytest.raises(StoreUnavailable):
                await postgres.ping()
            await cable.plug()
            await postgres.ping()
            await postgres.close()

    async def test_a_network_that_swallows_everything_is_given_up(self, dsn: str) -> None:
        async with Cable(dsn) as cable:
            postgres = Postgres(cable.url, statement_timeout=0.2, connect_timeout=0.5)
            await recovered(postgres)
            cable.freeze()
            for _ in range(3):
                started = asyncio.get_running_loop().time()
                with pytest.raises(StoreUnavailable, match="no answer in time"):
                    await postgres.ping()
                assert asyncio.get_running_loop().time() - started < 1.3
            cable.thaw()
            await recovered(postgres)
            await postgres.close()

    async def test_a_database_without_tables_has_not_answered(self, empty_dsn: str) -> None:
        postgres = Postgres(empty_dsn, pool_min=1)
        await postgres.warm()
        assert (postgres.availability.up, postgres.availability.ever_served) == (None, False)
        with pytest.raises(StoreUnavailable, match="gateway migrate"):
            await postgres.ping()
        assert (postgres.availability.up, postgres.availability.ever_served) == (False, False)
        await postgres.close()

    async def test_warm_opens_the_first_connections(self, dsn: str) -> None:
        postgres = Postgres(dsn, pool_min=3)
        await postgres.warm()
        async with postgres.connection() as connection:
            mine = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            assert await connection.fetchval(mine) == 3
        await postgres.close()

    async def test_warm_reports_a_failure(self) -> None:
        with pytest.raises(StoreUnavailable):
            await Postgres("postgresql://ann@127.0.0.1:1/gateway", pool_min=2).warm()

    async def test_a_dsn_that_the_driver_refuses_differs_from_a_bad_query(self) -> None:
        with pytest.raises(
            StoreUnavailable, match=r"^postgres is unavailable: h:5432: the DSN cannot be used"
        ):
            await Postgres("postgresql://ann@h/x?sslmode=hunter2").ping()

    async def test_a_value_that_cannot_be_held_is_not_repeated(self, postgres: Postgres) -> None:
        with pytest.raises(StoreUnavailable) as caught:
            await postgres.find_user(Identity(ISS, "a\ud800b"))
        assert caught.value.detail.endswith(": Postgres cannot store a value")

    async def test_an_unreadable_dsn_is_not_repeated(self) -> None:
        with pytest.raises(StoreUnavailable) as caught:
            await Postgres("postgresql://ann:hunt/er2@db.example.com/x").ping()
        assert "er2" not in str(caught.value)


class TestBreaker:
    async def test_a_silent_server_costs_milliseconds(self, dsn: str) -> None:
        async with Cable(dsn) as cable:
            postgres = Postgres(cable.url, statement_timeout=0.2, connect_timeout=0.3)
            await recovered(postgres)
            cable.freeze()
            first = [await seconds(postgres) for _ in range(FAILURES)]
            assert min(first) > 0.15
            then = [await at_once(postgres) for _ in range(20)]
            assert sum(then) >= 19  # but for a probe, if one fell into these
            with pytest.raises(StoreUnavailable, match=r"no answer in time \(a moment ago"):
                await postgres.ping()
            cable.thaw()
            await recovered(postgres)
            assert all([await answers(postgres) for _ in range(10)])
            await postgres.close()

    async def test_a_thousand_requests_are_not_held_for_long(self, dsn: str) -> None:
        async with Cable(dsn) as cable:
            postgres = Postgres(cable.url, statement_timeout=0.2, connect_timeout=0.5)
            await recovered(postgres)
            cable.freeze()
            # One after the other, on ten connections, they would take 45 s; alone on a machine, one.
            assert max(await asyncio.gather(*(seconds(postgres) for _ in range(1000)))) < 15
            assert await seconds(postgres) < 5
            cable.thaw()
            # Those that waited for the connections that were given up are no news of the new ones.
            await recovered(postgres)
            assert all([await answers(postgres) for _ in range(10)])
            await postgres.close()

    async def test_answers_that_are_errors_do_not_open_it(self, postgres: Postgres, empty_dsn: str) -> None:
        empty = Postgres(empty_dsn)
        for _ in range(2 * FAILURES):
            with pytest.raises(StoreUnavailable, match=r"relation .* does not exist: run `gateway migrate`"):
                await empty.find_user(ANN)
        await empty.close()
        for _ in range(2 * FAILURES):
            with pytest.raises(StoreUnavailable, match=r"cannot store a value$"):
                await postgres.find_user(Identity(ISS, "a\ud800b"))

    async def test_a_busy_pool_does_not_open_it(self, dsn: str) -> None:
        """Nor does it say that Postgres is down: it answers those who have a connection."""
        postgres = Postgres(dsn, pool_max=2, connect_timeout=0.1)
        async with postgres.connection() as one, postgres.connection() as other:
            own = {await each.fetchval("SELECT pg_backend_pid()") for each in (one, other)}
            refused = await asyncio.gather(
                *(postgres.ping() for _ in range(3 * FAILURES)), return_exceptions=True
            )
            assert {type(error) for error in refused} == {StoreUnavailable}
            assert postgres.availability.up is not False
        async with postgres.connection() as connection:
            assert await connection.fetchval("SELECT pg_backend_pid()") in own
        assert postgres.availability.up
        await postgres.close()

    async def test_its_opening_gives_up_all_connections_but_lets_work_end(self, dsn: str) -> None:
        postgres = Postgres(dsn, pool_min=3, statement_timeout=0.1)
        await postgres.warm()
        own = "SELECT array_agg(pid) FROM pg_stat_activity WHERE application_name = 'gateway'"
        watcher = await asyncpg.connect(dsn)
        before = set(await watcher.fetchval(f"{own} AND datname = current_database()"))
        async with postgres.connection() as connection, connection.transaction():
            await connection.execute("INSERT INTO users DEFAULT VALUES")
            for _ in range(FAILURES):
                with pytest.raises(StoreUnavailable, match="statement_timeout"):
                    await execute(postgres, "SELECT pg_sleep(5)")
            assert await at_once(postgres)
        assert await watcher.fetchval("SELECT count(*) FROM users") == 1
        await recovered(postgres)

        async def gone() -> bool:
            return not before & set(await watcher.fetchval(f"{own} AND datname = current_database()"))

        await eventually(gone)
        await watcher.close()
        await postgres.close()

    async def test_errors_of_old_connections_do_not_count_against_new_ones(self, dsn: str) -> None:
        postgres = Postgres(dsn, statement_timeout=0.1)
        closed = asyncio.Event()

        async def old() -> None:
            async with postgres.connection() as connection:
                await closed.wait()
                await connection.execute("SELECT pg_sleep(5)")

        pending = [asyncio.create_task(old()) for _ in range(FAILURES)]
        for _ in range(FAILURES):
            with pytest.raises(StoreUnavailable):
                await execute(postgres, "SELECT pg_sleep(5)")
        await recovered(postgres)
        closed.set()
        for task in pending:
            with pytest.raises(StoreUnavailable):
                await task
        assert await answers(postgres)
        await postgres.close()


class TestServer:
    async def test_a_restart_is_survived(self, postgres: Postgres, postgres_server: EmbeddedPostgres) -> None:
        await postgres.ping()
        postgres_server.stop()
        for _ in range(2 * FAILURES):
            assert await seconds(postgres) < 0.5
        postgres_server.start()
        await recovered(postgres)

    @pytest.mark.usefixtures("postgres_server")
    async def test_a_crash_is_survived(self, postgres: Postgres) -> None:
        async with postgres.connection() as connection:
            # The server ends all its processes then, and starts over.
            os.kill(await connection.fetchval("SELECT pg_backend_pid()"), signal.SIGKILL)
        assert not await answers(postgres)
        await recovered(postgres)

    async def test_a_frozen_server_costs_little_and_is_taken_up_again(
        self, dsn: str, postgres_server: EmbeddedPostgres
    ) -> None:
        postgres = Postgres(dsn, statement_timeout=0.2, connect_timeout=0.3)
        await recovered(postgres)
        with frozen(postgres_server):
            for _ in range(FAILURES):
                assert await seconds(postgres) < 1
            assert await at_once(postgres)
        await recovered(postgres)
        await postgres.close()

    async def test_a_connection_to_a_server_that_became_read_only_is_closed(self, postgres: Postgres) -> None:
        async with postgres.connection() as connection:
            before = await connection.fetchval("SELECT pg_backend_pid()")
            await connection.execute("SET default_transaction_read_only = on")
        with pytest.raises(StoreUnavailable, match=r"read-only transaction: check that it is the primary"):
            await execute(postgres, "INSERT INTO users DEFAULT VALUES")
        await execute(postgres, "INSERT INTO users DEFAULT VALUES")
        async with postgres.connection() as connection:
            assert await connection.fetchval("SELECT pg_backend_pid()") != before
