import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest
from redis.asyncio import Redis as Client
from structlog.testing import capture_logs

from gateway.core.model import StoreUnavailable
from gateway.core.revocations import Revocation, Revoked
from gateway.identity.revocations.blacklist_sync import BlacklistSync
from gateway.stores.postgres.database import Postgres
from gateway.stores.redis.shared_tier import RedisTier
from tests.stores.cable import Cable
from tests.stores.ear import Connection
from tests.stores.examples import ISS, ISSUERS, claims, eventually

TOKEN = Revocation("jti", "main", "token-1", 5.0)
USER = Revocation("user", "", "u", 2_000.0)
REVOKE = "INSERT INTO revocations (kind, issuer, value) VALUES ('jti', 'main', 'token-1')"


@dataclass
class World:
    sync: BlacklistSync
    postgres: Postgres
    redis: RedisTier
    cable: Cable
    client: "Client"


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[Connection]:
    """Another program, with SQL."""
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def world(dsn: str, redis_url: str) -> AsyncIterator[World]:
    postgres = Postgres(dsn, statement_timeout=10)
    async with Cable(redis_url) as cable, Client.from_url(redis_url) as client:
        redis = RedisTier(cable.url, timeout=2.0)
        sync = BlacklistSync(postgres, redis, ISSUERS)
        yield World(sync, postgres, redis, cable, client)
        await sync.close()
        await redis.close()
    await postgres.close()


def changed(revocation: Revocation, *, lifted: bool = False) -> Revoked:
    return Revoked(revocation, lifted=lifted, version=1)


async def test_one_outage_is_a_line_when_it_begins_and_one_when_it_ends(
    world: World, connection: Connection
) -> None:
    await connection.execute("ALTER TABLE revocations RENAME TO hidden")
    with capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await world.sync.load()
        await connection.execute("ALTER TABLE hidden RENAME TO revocations")
        await world.sync.load()
        await world.sync.load()
    events = [entry["event"] for entry in logs if "load" in entry["event"]]
    assert events == ["revocations_not_loaded", "revocations_loaded"]


async def test_loads_that_overlap_settle_a_doubt_once(world: World) -> None:
    world.sync.doubt()
    await asyncio.gather(world.sync.load(), world.sync.load())
    assert world.sync.trusted
    world.sync.doubt()
    assert [world.sync.trusted] == [False]


class TestApply:
    async def test_new_revocations_are_on_the_blacklist_and_lifted_ones_are_not(self, world: World) -> None:
        await world.sync.apply([changed(TOKEN), changed(USER)])
        revocations = (await world.redis.read(claims(), "u")).revocations
        assert (revocations.token, revocations.user_at) == (True, 2_000.0)
        await world.sync.apply([changed(TOKEN, lifted=True), changed(USER)])
        revocations = (await world.redis.read(claims(), "u")).revocations
        assert (revocations.token, revocations.user_at) == (False, 2_000.0)

    async def test_workers_that_do_the_same_write_once(self, world: World) -> None:
        await asyncio.gather(*(world.sync.apply([changed(TOKEN)]) for _ in range(10)))
        stats = await world.client.info("commandstats")
        await asyncio.gather(*(world.sync.apply([changed(TOKEN)]) for _ in range(10)))
        again = await world.client.info("commandstats")
        assert again["cmdstat_set"]["calls"] == stats["cmdstat_set"]["calls"]
        await asyncio.gather(*(world.sync.apply([changed(TOKEN, lifted=True)]) for _ in range(10)))
        assert not (await world.redis.read(claims(), "u")).revocations.token

    async def test_new_revocations_are_written_while_postgres_cannot_confirm_lifted_ones(
        self, world: World, connection: Connection
    ) -> None:
        await world.sync.apply([changed(USER)])
        await connection.execute("ALTER TABLE revocations RENAME TO hidden")
        with pytest.raises(StoreUnavailable):
            await world.sync.apply([changed(USER, lifted=True), changed(TOKEN)])
        revocations = (await world.redis.read(claims(), "u")).revocations
        assert (revocations.token, revocations.user_at) == (True, 2_000.0)

    async def test_one_that_has_expired_on_the_way_is_not_set(self, world: World) -> None:
        await world.sync.apply([changed(Revocation("jti", "main", "token-1", 5.0, time.time() - 1))])
        assert await world.client.keys("gateway:revoked:*") == []

    async def test_nothing_is_asked_for_nothing(self, world: World) -> None:
        await world.cable.pull()
        await world.sync.apply([])
        assert world.sync.trusted

    @pytest.mark.parametrize("lifted", [False, True])
    async def test_an_unreachable_redis_is_not_trusted_until_it_has_been_filled(
        self, world: World, lifted: bool
    ) -> None:
        await world.cable.pull()
        with pytest.raises(StoreUnavailable):
            await world.sync.apply([changed(TOKEN, lifted=lifted)])
        assert world.sync.trusted is False
        await world.cable.plug()
        await world.sync.load()
        assert [world.sync.trusted] == [True]


class TestRowsThatChangeUnheard:
    """No worker listened during a change in SQL."""

    async def test_a_deleted_row_counts_no_more_after_the_next_filling(
        self, world: World, connection: Connection
    ) -> None:
        await connection.execute(REVOKE)
        await world.sync.load()
        assert (await world.redis.read(claims(), None)).revocations.token
        await connection.execute("DELETE FROM revocations")
        await world.sync.load()
        assert not (await world.redis.read(claims(), None)).revocations.token

    @pytest.mark.parametrize("inserted", [False, True])
    async def test_a_load_that_another_overtook_reads_them_again(
        self, world: World, connection: Connection, monkeypatch: pytest.MonkeyPatch, inserted: bool
    ) -> None:
        read = world.postgres.counting_revocations
        if not inserted:
            await connection.execute(REVOKE)

        async def slow() -> list[Revocation]:
            monkeypatch.undo()
            early = await read()
            if not inserted:
                await connection.execute("DELETE FROM revocations")
            await world.sync.load()
            if inserted:
                await connection.execute(REVOKE)
            return await read() if inserted else early

        monkeypatch.setattr(world.postgres, "counting_revocations", slow)
        await world.sync.load()
        assert (await world.redis.read(claims(), None)).revocations.token is inserted

    async def test_truncated_rows_count_no_more_after_the_next_filling(
        self, world: World, connection: Connection
    ) -> None:
        await connection.execute(
            "INSERT INTO revocations (kind, issuer, value) SELECT 'jti', 'main', 'token-' || n"
            " FROM generate_series(1, 600) AS n"
        )
        await world.sync.load()
        await connection.execute("TRUNCATE revocations")
        await world.sync.load()
        assert await world.client.keys("gateway:revoked:*") == []

    async def test_a_shortened_revocation_ends_sooner(self, world: World, connection: Connection) -> None:
        await connection.execute(REVOKE)
        await world.sync.load()
        await connection.execute("UPDATE revocations SET expires_at = now() + interval '1 minute'")
        await world.sync.load()
        assert 50 <= await world.client.ttl("gateway:revoked:jti:main:token-1") <= 60


@pytest.mark.parametrize("ahead", [60, -60])
async def test_rows_expire_by_the_clock_of_postgres(
    world: World, connection: Connection, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    await connection.execute(REVOKE)
    await connection.execute("UPDATE revocations SET expires_at = now() + interval '30 s'")
    await world.sync.load()
    ours = time.time
    monkeypatch.setattr(time, "time", lambda: ours() + ahead)
    await world.sync.load()
    assert 25 <= await world.client.ttl("gateway:revoked:jti:main:token-1") <= 30


class TestSpellings:
    """A row's issuer is a configured name, or its `iss`; both revoke the same."""

    async def both(self, connection: Connection) -> None:
        await connection.execute(
            "INSERT INTO revocations (kind, issuer, value, expires_at)"
            " VALUES ('jti', 'main', 'token-1', NULL), ('jti', $1, 'token-1', now() + interval '1 minute')",
            ISS,
        )

    async def test_the_stronger_counts_and_is_not_written_again(
        self, world: World, connection: Connection
    ) -> None:
        await self.both(connection)
        await world.sync.load()
        written = (await world.client.info("commandstats"))["cmdstat_set"]["calls"]
        await world.sync.load()
        # The marker, the key of the filling itself, and its number.
        assert (await world.client.info("commandstats"))["cmdstat_set"]["calls"] == written + 3
        assert await world.client.ttl("gateway:revoked:jti:main:token-1") == -1

    async def test_while_one_row_is_left_nothing_is_lifted(
        self, world: World, connection: Connection
    ) -> None:
        await self.both(connection)
        await world.sync.load()
        await connection.execute("DELETE FROM revocations WHERE issuer = 'main'")
        await world.sync.apply([changed(TOKEN, lifted=True)])
        assert (await world.redis.read(claims(), None)).revocations.token
        await connection.execute("DELETE FROM revocations")
        await world.sync.apply([changed(TOKEN, lifted=True)])
        assert not (await world.redis.read(claims(), None)).revocations.token


class TestPruning:
    async def test_expired_rows_go_and_their_keys_stay_as_they_are(self, world: World, dsn: str) -> None:
        connection = await asyncpg.connect(dsn)
        await connection.execute(
            "INSERT INTO revocations (kind, issuer, value, revoked_at, expires_at)"
            " VALUES ('jti', 'main', 'old', now(), now() - interval '1 day'),"
            " ('jti', 'main', 'young', now(), now() + interval '1 day')"
        )
        await world.client.set("gateway:revoked:jti:main:old", "another program's")
        world.sync.start(pruning=0.05)

        async def pruned() -> bool:
            return bool(await connection.fetchval("SELECT count(*) = 1 FROM revocations"))

        await eventually(pruned)
        assert await connection.fetchval("SELECT value FROM revocations") == "young"
        assert await world.client.exists("gateway:revoked:jti:main:old")
        await connection.close()

    async def test_a_postgres_that_refuses_is_asked_again_and_reported_once(
        self, world: World, dsn: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = 0
        prune = Postgres.prune

        async def counted(postgres: Postgres) -> int:
            nonlocal asked
            asked += 1
            return await prune(postgres)

        monkeypatch.setattr(Postgres, "prune", counted)
        connection = await asyncpg.connect(dsn)
        await connection.execute("ALTER TABLE revocations RENAME TO hidden")
        with capture_logs() as logs:
            world.sync.start(pruning=0.05)
            await eventually(lambda: asyncio.sleep(0, asked >= 4))
            await connection.execute("ALTER TABLE hidden RENAME TO revocations")

            async def pruned() -> bool:
                return "revocations_pruned" in [entry["event"] for entry in logs]

            await eventually(pruned)
        assert [entry["event"] for entry in logs].count("revocations_not_pruned") == 1
        await connection.close()


@pytest.mark.parametrize("hears", [True, False])
async def test_while_no_change_is_received_the_blacklist_is_filled_often(
    world: World, connection: Connection, hears: bool
) -> None:
    now = 100.0
    sync = BlacklistSync(world.postgres, world.redis, ISSUERS, hears=lambda: hears, clock=lambda: now)
    await connection.execute(REVOKE)
    sync.start(interval=3600, watch=0.01)

    async def is_there() -> bool:
        return bool(await world.client.exists("gateway:revoked:jti:main:token-1"))

    async def is_gone() -> bool:
        return not await is_there()

    await eventually(is_there)
    await connection.execute("DELETE FROM revocations")
    await asyncio.sleep(0.1)
    assert await is_there()
    now += 3.0
    if hears:
        await asyncio.sleep(0.1)
        assert await is_there()
    else:
        await eventually(is_gone)
    await sync.close()
