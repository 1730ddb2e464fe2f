import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg
import pytest

from gateway.core.model import Identity, StoreUnavailable
from gateway.demo.embedded import EmbeddedPostgres
from gateway.stores.postgres.change_stream.listener import Change, Everything, PostgresStream
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.hosts import Connector, address_of, servers_of
from gateway.stores.postgres.migrate import migrate
from tests.stores.ear import Ear
from tests.stores.examples import ISS, eventually
from tests.stores.outages import frozen, recovered

ANN = Identity(ISS, "ann")


@pytest.mark.parametrize(
    ("dsn", "address"),
    [
        ("postgresql://ann:hunter2@db.example.com/x", "db.example.com:5432"),
        ("postgresql://ann:hunter2@[::1]:6000/x", "[::1]:6000"),
        ("postgresql://ann:hunter2@a,b:6000,[::1]:6001,[::2]/x", "a:5432,b:6000,[::1]:6001,[::2]:5432"),
        ("postgresql://ann@a/x?host=b", "a:5432"),
        ("postgresql:///x?host=/run/postgresql&port=6000", "/run/postgresql:6000"),
        ("postgresql://ann@/x?host=/run/postgresql,b&port=6000,6001", "/run/postgresql:6000,b:6001"),
        ("postgresql://ann@/x?host=a,b&port=6000", "a:6000,b:6000"),
        ("postgresql://ann@%2Frun%2Fpostgresql/x", "/run/postgresql:5432"),
        ("postgresql://ann:hunt/er2@db.example.com/x", "the configured DSN"),
        ("postgresql://ann:12#34@db.example.com/x", "the configured DSN"),
        ("postgresql://ann@a:port/x", "the configured DSN"),
        ("postgresql://ann@/x?host=a,b&port=1,2,3", "the configured DSN"),
        ("postgresql://[a/x", "the configured DSN"),
        ("postgresql:///x?port=6000", "localhost:6000"),
        ("postgresql://", "localhost:5432"),
    ],
)
def test_addresses_hold_no_password(dsn: str, address: str) -> None:
    assert address_of(dsn) == address


def test_without_a_host_it_is_left_to_the_environment() -> None:
    assert servers_of("postgresql:///x") == []


class Standby(EmbeddedPostgres):
    """A copy of another server that follows it, until it is promoted."""

    title = "Standby"

    def __init__(self, primary: EmbeddedPostgres) -> None:
        super().__init__()
        primary.stop()
        shutil.copytree(primary._folder, self._folder, dirs_exist_ok=True)
        primary.start()
        parts = urlsplit(primary.dsn)
        with (self._data / "postgresql.auto.conf").open("a") as settings:
            settings.write(
                f"primary_conninfo = 'host={parts.hostname} port={parts.port} user={parts.username}"
                f" password={parts.password}'\n"
            )
        (self._data / "standby.signal").touch()
        if self._account is not None:
            for path in [self._data, *self._data.rglob("*")]:
                os.chown(path, self._account.uid, self._account.gid)

    def _ready(self, pid: int) -> bool:
        try:
            state = (self._data / "postmaster.pid").read_text().splitlines()[7].strip()
        except (FileNotFoundError, IndexError):
            return False
        return super()._ready(pid) or state == "standby"


class Pair:
    """A primary and its standby."""

    def __init__(self, primary: EmbeddedPostgres, standby: Standby) -> None:
        self.primary = primary
        self.standby = standby

    def dsn(self, *servers: EmbeddedPostgres, **parameters: str) -> str:
        parts = urlsplit(self.primary.dsn)
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
        query = "&".join(f"{name}={value}" for name, value in parameters.items())
        return parts._replace(netloc=f"{parts.username}:{parts.password}@{hosts}", query=query).geturl()

    async def execute(self, server: EmbeddedPostgres, statement: str) -> object:
        connection = await asyncpg.connect(self.dsn(server))
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    async def caught_up(self) -> None:
        written = await self.execute(self.primary, "SELECT pg_current_wal_insert_lsn()::text")

        async def replayed() -> bool:
            return await self.execute(self.standby, f"SELECT pg_last_wal_replay_lsn() >= '{written}'") is True

        await eventually(replayed)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    with EmbeddedPostgres() as primary:
        await migrate(primary.dsn)
        with Standby(primary) as standby:
            pair = Pair(primary, standby)
            await pair.execute(
                primary,
                "WITH ann AS (INSERT INTO users DEFAULT VALUES RETURNING id)"  # noqa: S608 -- of our own
                f" INSERT INTO identities SELECT '{ISS}', 'ann', id FROM ann",
            )
            await pair.caught_up()
            yield pair


async def in_recovery(connector: Connector) -> bool:
    connection = await connector()
    try:
        answer: bool = await connection.fetchval("SELECT pg_is_in_recovery()")
        return answer
    finally:
        await connection.close()


async def status(postgres: Postgres, *, primary: bool = False) -> str | None:
    user = (await postgres.find_user(ANN, primary=primary)).user
    return None if user is None else user.status.value


async def test_primary_and_standby(pair: Pair) -> None:
    # One test for what costs two servers: each part leaves them as it found them.
    both = pair.dsn(pair.standby, pair.primary)
    assert not await in_recovery(Connector(both, primary=True, timeout=2))
    assert await in_recovery(Connector(both, primary=False, timeout=2))
    for attributes, expected in [("standby", True), ("prefer-standby", True), ("read-write", False)]:
        dsn = pair.dsn(pair.primary, pair.standby, target_session_attrs=attributes)
        assert await in_recovery(Connector(dsn, primary=True, timeout=2)) is expected
    alone = pair.dsn(pair.primary, target_session_attrs="prefer-standby")
    assert not await in_recovery(Connector(alone, primary=False, timeout=2))

    only_standby = Postgres(pair.dsn(pair.standby))
    with pytest.raises(StoreUnavailable, match="by default the primary"):
        await only_standby.ping()
    await only_standby.close()
    assert await migrate(both) == []

    postgres = Postgres(both, replica_dsn=pair.dsn(pair.standby), connect_timeout=0.4)
    assert postgres.has_replica

    # A replica that lags says so by its horizon.
    await pair.execute(pair.standby, "SELECT pg_wal_replay_pause()")
    await eventually(lambda: paused(pair))
    version = await pair.execute(
        pair.primary, "UPDATE users SET status = 'suspended' RETURNING pg_current_xact_id()::text::bigint"
    )
    assert isinstance(version, int)
    assert await status(postgres) == "active"
    assert await status(postgres, primary=True) == "suspended"
    assert (await postgres.find_user(ANN)).horizon <= version
    assert (await postgres.find_user(ANN, primary=True)).horizon > version
    await pair.execute(pair.standby, "SELECT pg_wal_replay_resume()")
    await pair.caught_up()
    assert await status(postgres) == "suspended"
    assert (await postgres.find_user(ANN)).horizon > version

    # One that is gone costs no answer, and soon no time.
    pair.standby.stop()
    assert await status(postgres) == "suspended"
    pair.standby.start()
    await postgres.find_user(ANN)
    with frozen(pair.standby):
        for _ in range(3):
            await postgres.find_user(ANN)
        started = asyncio.get_running_loop().time()
        assert await status(postgres) == "suspended"
        assert asyncio.get_running_loop().time() - started < 0.2
    await postgres.close()


async def paused(pair: Pair) -> bool:
    return await pair.execute(pair.standby, "SELECT pg_get_wal_replay_pause_state()") == "paused"


async def test_fail_over(pair: Pair) -> None:
    dsn = pair.dsn(pair.primary, pair.standby)
    postgres = Postgres(dsn, connect_timeout=0.6, statement_timeout=0.2)
    ear = Ear()
    stream = PostgresStream(dsn, "public", ear, connect_timeout=0.6, beat=0.1, patience=0.4)
    stream.start()
    await ear.has("listening")
    assert await status(postgres) == "active"

    with frozen(pair.primary):
        # Not dead: it takes connections and says nothing, first in the DSN.
        await ear.has("listening", "lost")
        with pytest.raises(StoreUnavailable):
            await postgres.ping()
        assert await pair.execute(pair.standby, "SELECT pg_promote()") is True
        await recovered(postgres)
        await ear.has("listening", "lost", "listening")
        told: list[Change] = []
        ear.on_change = told.append
        async with postgres.connection() as connection:
            await connection.execute("TRUNCATE revocations")

        async def heard() -> bool:
            return [type(change) for change in told] == [Everything]

        await eventually(heard)
    await stream.close()
    await postgres.close()
