"""Streams that look healthy but receive nothing: a heartbeat must take the same way as a change."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import asyncpg
import orjson
import pytest

from gateway.demo.embedded import EmbeddedPostgres
from gateway.stores.postgres.change_stream.listener import PostgresStream
from gateway.stores.postgres.migrate import migrate
from tests.harness import House, open_house, token
from tests.stores.cable import Cable
from tests.stores.ear import Ear
from tests.stores.examples import eventually
from tests.stores.postgres.pgbouncer import pgbouncer

SUSPEND: Final = (
    "UPDATE users SET status = 'suspended' WHERE id ="
    " (SELECT user_id FROM identities WHERE subject = 'member')"
)


async def dependency(house: House, name: str) -> tuple[str, str, str]:
    """Return the gateway's status, and that of one dependency with its detail."""
    body = orjson.loads((await house.admin("/readyz")).content)
    found = body["dependencies"][name]
    return body["status"], found["status"], found["detail"] or ""


class TestPgBouncer:
    async def test_behind_one_that_pools_transactions_memory_is_not_trusted(
        self, tmp_path: Path, dsn: str, redis_url: str
    ) -> None:
        with pgbouncer(dsn, size=1) as pooler:
            async with open_house(tmp_path, dsn, redis_url, postgres={"dsn": pooler.dsn}) as house:

                async def told() -> bool:
                    return bool(house.events("invalidation_stream_down"))

                for _ in range(20):
                    assert (await house.request("/private/x", token=token())).status == 200
                await eventually(told)
                (line,) = house.events("invalidation_stream_down")
                assert line["stream"] == "postgres"
                assert "set `postgres.listen_dsn`" in str(line["error"])
                assert await house.metric("gateway_invalidation_stream_up", stream="postgres") == 0
                status, stream, detail = await dependency(house, "stream:postgres")
                assert (status, stream) == ("degraded", "down")
                assert "set `postgres.listen_dsn`" in detail
                assert (await house.request("/private/x", token=token())).status == 200
                await house.sql(SUSPEND)
                refused = await house.request("/private/x", token=token())
                assert (refused.status, orjson.loads(refused.content)["code"]) == (401, "user_suspended")

    async def test_a_connection_past_the_pooler_works(self, tmp_path: Path, dsn: str, redis_url: str) -> None:
        with pgbouncer(dsn) as pooler:
            settings = {"dsn": pooler.dsn, "listen_dsn": dsn}
            async with open_house(tmp_path, dsn, redis_url, postgres=settings) as house:

                async def up() -> bool:
                    return await house.metric("gateway_invalidation_stream_up", stream="postgres") == 1

                await eventually(up)
                assert (await dependency(house, "stream:postgres"))[1] == "up"

    async def test_one_that_pools_sessions_needs_nothing(self, dsn: str) -> None:
        with pgbouncer(dsn, mode="session") as pooler:
            ear = Ear()
            stream = PostgresStream(pooler.dsn, "public", ear, connect_timeout=2)
            stream.start()
            await ear.has("listening")
            await stream.close()


class TestAnotherPlace:
    @pytest.fixture
    async def other_server(self, dsn: str) -> AsyncIterator[str]:
        """A migrated database of the name that `dsn` has, on a server of its own."""
        name = urlsplit(dsn).path.removeprefix("/")
        with EmbeddedPostgres() as server:
            connection = await asyncpg.connect(server.dsn)
            await connection.execute(f'CREATE DATABASE "{name}"')
            await connection.close()
            there = urlsplit(server.dsn)._replace(path=f"/{name}").geturl()
            await migrate(there)
            yield there

    async def test_a_stream_from_another_database_is_down_and_reports_why(
        self, dsn: str, empty_dsn: str
    ) -> None:
        await migrate(empty_dsn)
        ear = Ear()
        stream = PostgresStream(
            empty_dsn, "public", ear, beats_dsn=dsn, connect_timeout=2, beat=0.05, patience=0.5
        )
        stream.start()
        await ear.has("lost")
        assert not stream.up
        assert f"`postgres.listen_dsn` leads to database {empty_dsn.rpartition('/')[2]}, " in ear.details[0]
        assert stream.detail == ear.details[0]
        await stream.close()

    async def test_a_stream_from_another_server_is_down_and_nothing_is_stale(
        self, tmp_path: Path, dsn: str, redis_url: str, other_server: str
    ) -> None:
        """A database of the same name with the same tables, in which nothing changes."""
        async with open_house(tmp_path, dsn, redis_url, postgres={"listen_dsn": other_server}) as house:

            async def told() -> bool:
                return bool(house.events("invalidation_stream_down"))

            assert (await house.request("/private/x", token=token())).status == 200
            await eventually(told)
            (line,) = house.events("invalidation_stream_down")
            name = dsn.rpartition("/")[2]
            where = f"`postgres.listen_dsn` leads to database {name} of another server, `postgres.dsn` ("
            assert where in str(line["error"])
            status, stream, detail = await dependency(house, "stream:postgres")
            assert (status, stream, detail) == ("degraded", "down", line["error"])
            assert (await house.request("/private/x", token=token())).status == 200
            await house.sql(SUSPEND)
            refused = await house.request("/private/x", token=token())
            assert (refused.status, orjson.loads(refused.content)["code"]) == (401, "user_suspended")

    async def test_heartbeats_of_others_that_arrive_prove_nothing(self, dsn: str, empty_dsn: str) -> None:
        await migrate(empty_dsn)
        ear, well = Ear(), Ear()
        stream = PostgresStream(
            empty_dsn, "public", ear, beats_dsn=dsn, connect_timeout=2, beat=0.05, patience=0.5
        )
        neighbour = PostgresStream(empty_dsn, "public", well, connect_timeout=2, beat=0.05)
        neighbour.start()
        await well.has("listening")
        stream.start()
        await ear.has("lost")
        await asyncio.sleep(0.3)
        assert ear.events == ["lost"]
        assert well.events == ["listening"]
        await stream.close()
        await neighbour.close()


class TestOneWay:
    async def test_a_link_that_loses_the_data_of_the_server(self, dsn: str) -> None:
        async with Cable(dsn) as cable:
            ear = Ear()
            stream = PostgresStream(
                cable.url, "public", ear, beats_dsn=dsn, connect_timeout=0.5, beat=0.05, patience=0.3
            )
            stream.start()
            await ear.has("listening")
            cable.deafen()
            await ear.has("listening", "lost")
            cable.swallows = lambda _: False
            await cable.cut()
            await ear.has("listening", "lost", "listening")
            await stream.close()

    async def test_a_cut_is_reported_at_once_even_if_heartbeats_cannot_be_sent(self, dsn: str) -> None:
        async with Cable(dsn) as sending, Cable(dsn) as listening:
            ear = Ear()
            stream = PostgresStream(
                listening.url, "public", ear, beats_dsn=sending.url, connect_timeout=2, beat=0.05, patience=30
            )
            stream.start()
            await ear.has("listening")
            sending.freeze()
            await asyncio.sleep(0.2)
            assert ear.events == ["listening"]
            await listening.cut()
            async with asyncio.timeout(5):
                await ear.has("listening", "lost")
            await stream.close()


class TestTheSendingConnection:
    async def test_one_that_breaks_is_opened_again_unnoticed(self, dsn: str) -> None:
        ear = Ear()
        stream = PostgresStream(dsn, "public", ear, connect_timeout=2, beat=0.05)
        stream.start()
        await ear.has("listening")
        db = await asyncpg.connect(dsn)
        killed = await db.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'gateway heartbeats'"
        )
        assert killed == 1
        before = len(ear.heartbeats)

        async def more() -> bool:
            return len(ear.heartbeats) > before + 2

        await eventually(more)
        assert ear.events == ["listening"]
        await db.close()
        await stream.close()

    async def test_while_there_is_none_nothing_is_proven(self, dsn: str) -> None:
        async with Cable(dsn) as cable:
            ear = Ear()
            stream = PostgresStream(
                dsn, "public", ear, beats_dsn=cable.url, connect_timeout=0.5, beat=0.05, patience=0.3
            )
            stream.start()
            await ear.has("listening")
            await cable.pull()
            await ear.has("listening", "lost")
            assert "connection refused" in ear.details[0]
            await cable.plug()
            await ear.has("listening", "lost", "listening")
            await stream.close()
