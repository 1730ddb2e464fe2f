"""The owner of Redis: which databases are the same, and which gateways may claim."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
from redis.asyncio import Redis as Client

from gateway.core.model import StoreUnavailable
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.hosts import place_of
from gateway.stores.redis.ownership import ForeignRedis, Owner, owner_from
from gateway.stores.redis.shared_tier import RedisTier
from gateway.stores.system_of_record import SystemOfRecord
from tests.sql import as_role

A = SystemOfRecord(16384, "app", "public", "7001", "copy-a")


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (A, True),
        (SystemOfRecord(16384, "renamed", "public", "7001", "copy-a"), True),
        (SystemOfRecord(16384, "app", "public", "7002", "copy-a"), False),
        (SystemOfRecord(16385, "app", "public", "7001", "copy-a"), False),
        (SystemOfRecord(16384, "app", "other", "7001", "copy-a"), False),
        (SystemOfRecord(16384, "app", "public", None, "copy-a"), True),
        (SystemOfRecord(16384, "app", "public", None, "copy-b"), False),
        (SystemOfRecord(16384, "app", "public", "7001", None), True),
        (SystemOfRecord(16384, "app", "public", None, None), False),
    ],
)
def test_which_are_the_same(other: SystemOfRecord, same: bool) -> None:
    assert A.is_same(other) is same
    assert other.is_same(A) is same


def test_an_owner_reads_as_it_was_written() -> None:
    owner = Owner("id", A)
    assert owner.encode().startswith(owner.mark)
    assert owner_from(owner.encode()) == owner


def test_an_owner_that_is_nested_too_deep_cannot_be_read() -> None:
    held = Owner("id", A).encode().removesuffix(b"}") + b', "more": ' + b"[" * 65 + b"]" * 65 + b"}"
    assert owner_from(held) is None


def test_an_address_is_shown_without_user_and_password() -> None:
    dsn = "postgresql://{}@db.example.com:6432/app?sslmode=require"
    assert place_of(dsn.format("ann:one"), "public") == place_of(dsn.format("bob:two"), "public")
    assert place_of(dsn.format("ann"), "public") != place_of(dsn.format("ann"), "other")
    assert place_of("postgresql://db/app", "public") != place_of("postgresql://db/app2", "public")
    assert place_of("postgresql://db:1/app", "public") != place_of("postgresql://db:2/app", "public")
    assert place_of("postgresql://a,b/app", "public") == place_of("postgresql://b,a/app", "public")


def test_an_address_of_this_machine_counts_on_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    local = ["postgresql://localhost/app", "postgresql://127.0.0.1/app", "postgresql:///app?host=/run/pg"]
    here = [place_of(dsn, "public") for dsn in [*local, "postgresql://db.example.com/app"]]
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    there = [place_of(dsn, "public") for dsn in [*local, "postgresql://db.example.com/app"]]
    assert [one == other for one, other in zip(here, there, strict=True)] == [False, False, False, True]


@pytest.fixture
async def pair(redis_url: str) -> AsyncIterator[tuple[RedisTier, RedisTier]]:
    """Clients of two databases, of which neither has been heard."""
    both = RedisTier(redis_url, timeout=2.0, place="a"), RedisTier(redis_url, timeout=2.0, place="b")
    yield both
    for redis in both:
        await redis.close()


async def test_nothing_is_used_before_the_database_is_known(pair: tuple[RedisTier, RedisTier]) -> None:
    with pytest.raises(StoreUnavailable, match="before Postgres has answered"):
        await pair[0].epoch()
    with pytest.raises(StoreUnavailable, match="before Postgres has answered"):
        await pair[0].begin_epoch("beat")


async def test_one_of_many_that_claim_at_once_wins(redis_url: str, pair: tuple[RedisTier, RedisTier]) -> None:
    pair[0].ownership.heard(A)
    pair[1].ownership.heard(SystemOfRecord(16385, "b", "public", "7001"))
    async with Client.from_url(redis_url) as client:
        for _ in range(20):
            await client.flushall()
            results = await asyncio.gather(
                *(redis.begin_epoch("beat") for redis in (*pair, *pair)), return_exceptions=True
            )
            assert sum(isinstance(result, ForeignRedis) for result in results) == 2, results


async def test_a_write_that_was_under_way_when_the_owner_changed_is_refused(
    redis_url: str, pair: tuple[RedisTier, RedisTier]
) -> None:
    a, b = pair
    a.ownership.heard(A)
    await a.begin_epoch("beat")
    b.ownership.heard(SystemOfRecord(16385, "b", "public", "7001"))
    await b.ownership.claim()
    with pytest.raises(ForeignRedis, match="belongs to another database: database 'b'"):
        await a.bury([("main", "sub")], 1)
    with pytest.raises(ForeignRedis):
        await a.epoch()
    assert a.ownership.foreign
    assert await b.epoch() is None
    async with Client.from_url(redis_url) as client:
        assert sorted(await client.keys("gateway:*")) == [b"gateway:owner", b"gateway:owner:places"]


async def test_after_a_fail_over_to_another_server_redis_is_not_used(
    pair: tuple[RedisTier, RedisTier],
) -> None:
    a = pair[0]
    a.ownership.heard(A)
    await a.begin_epoch("beat")
    a.ownership.heard(SystemOfRecord(16384, "app", "public", "7002"))
    with pytest.raises(ForeignRedis):
        await a.epoch()
    a.ownership.heard(A)
    assert await a.epoch() is not None


async def test_the_same_database_is_known_by_either_of_its_signs(redis_url: str) -> None:
    """Roles differ in what they may ask."""
    signs = [("7001", "copy-a"), (None, "copy-a"), ("7001", None), ("7001", "copy-a")]
    for system, copy in signs:
        redis = RedisTier(redis_url, timeout=2.0, place=f"{system}{copy}")
        redis.ownership.heard(SystemOfRecord(16384, "app", "public", system, copy))
        await redis.begin_epoch("beat")
        await redis.close()


async def hosts(redis_url: str, count: int, *, heard: bool = True) -> list[RedisTier]:
    """Return clients of one database on as many hosts, each with an address of its own."""
    clients = [RedisTier(redis_url, timeout=20.0, place=f"host-{number}") for number in range(count)]
    if heard:
        for client in clients:
            client.ownership.heard(A)
    return clients


async def close(clients: list[RedisTier]) -> None:
    for client in clients:
        await client.close()


async def test_many_hosts_do_not_disturb_one_another(redis_url: str) -> None:
    clients = await hosts(redis_url, 24)
    async with Client.from_url(redis_url) as client:
        # A common start: none is refused.
        await asyncio.gather(*(each.epoch() for each in clients))
        owner = await client.get("gateway:owner")
        written = (await client.info("commandstats"))["cmdstat_set"]["calls"]
        for _ in range(5):
            await asyncio.gather(*(each.epoch() for each in clients))
            await asyncio.gather(*(each.bury([("main", "sub")], 1) for each in clients))
        assert await client.get("gateway:owner") == owner
        # But for the one tombstone.
        assert (await client.info("commandstats"))["cmdstat_set"]["calls"] - written == 1
    await close(clients)


async def test_an_owner_that_becomes_better_known_disturbs_no_reader(redis_url: str) -> None:
    first, second = await hosts(redis_url, 2, heard=False)
    first.ownership.heard(SystemOfRecord(16384, "app", "public", None, "copy-a"))
    await first.begin_epoch("beat")
    assert first.ownership.id
    second.ownership.heard(SystemOfRecord(16384, "renamed", "public", "7001", "copy-a"))
    await second.epoch()
    async with Client.from_url(redis_url) as client:
        held = await client.get("gateway:owner")
    assert isinstance(held, bytes)
    assert owner_from(held) == Owner(
        first.ownership.id, SystemOfRecord(16384, "renamed", "public", "7001", "copy-a")
    )
    assert first.ownership.owns(held)
    await close([first, second])


@pytest.mark.parametrize("count", [1, 9, 40])
async def test_without_postgres_the_address_of_each_host_is_known(redis_url: str, count: int) -> None:
    clients = await hosts(redis_url, count)
    for client in clients:
        await client.begin_epoch("beat")
    await close(clients)
    started_again = await hosts(redis_url, count, heard=False)
    for client in started_again:
        assert await client.epoch() is not None
    await close(started_again)
    other = RedisTier(redis_url, timeout=2.0, place="elsewhere")
    with pytest.raises(ForeignRedis):
        await other.epoch()
    await other.close()


async def test_places_are_bounded_and_the_latest_stay(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.stores.redis.ownership._PLACES", 3)
    clients = await hosts(redis_url, 5)
    for each in [*clients, clients[2]]:
        each.ownership.heard(SystemOfRecord(1, "", ""))
        each.ownership.heard(A)
        await each.epoch()
    async with Client.from_url(redis_url) as client:
        places = await client.get("gateway:owner:places") or b""
    assert places.split()[1:] == [b"host-3", b"host-4", b"host-2"]
    await close(clients)


async def test_places_of_another_owner_are_not_one_s_own(
    redis_url: str, pair: tuple[RedisTier, RedisTier]
) -> None:
    pair[0].ownership.heard(A)
    await pair[0].epoch()
    async with Client.from_url(redis_url) as client:
        await client.set("gateway:owner", Owner("another", A).encode())
    restarted = RedisTier(redis_url, timeout=2.0, place="a")
    with pytest.raises(ForeignRedis):
        await restarted.epoch()
    await restarted.close()


# The database says which it is ---------------------------------------------------------------------


async def test_a_role_that_may_not_ask_for_the_system_identifier(dsn: str) -> None:
    role = f"role_{uuid4().hex}"
    owner = await asyncpg.connect(dsn)
    try:
        await owner.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'pw'")
        await owner.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        postgres = Postgres(as_role(dsn, role, "pw"))
        found = await postgres.identify()
        await postgres.close()
        everything = Postgres(dsn)
        known = await everything.identify()
        await everything.close()
        assert (found.system, found.copy) == (None, known.copy)
        assert known.system is not None
        assert known.copy is not None
        assert found.is_same(known)
    finally:
        await owner.execute("GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC")
        await owner.execute(f"DROP ROLE {role}")
        await owner.close()


async def test_a_database_that_is_restored_makes_up_another_id(dsn: str) -> None:
    """A dump has the row, and not the column that is generated."""
    connection = await asyncpg.connect(dsn)
    try:
        before = await connection.fetchval("SELECT gateway_database_copy()")
        await connection.execute("DELETE FROM gateway_copy")
        await connection.copy_records_to_table("gateway_copy", records=[(True,)], columns=["only_one"])
        assert await connection.fetchval("SELECT gateway_database_copy()") != before
    finally:
        await connection.close()


async def test_a_new_connection_identifies_its_database(dsn: str) -> None:
    heard: list[SystemOfRecord] = []
    postgres = Postgres(dsn, heard=heard.append)
    await postgres.latest_transaction()
    await postgres.close()
    assert [record.database for record in heard] == [urlsplit(dsn).path.removeprefix("/")]
