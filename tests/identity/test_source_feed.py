"""Changes of users on another server, or without triggers, reach every gateway."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from gateway.stores.postgres.source.install import install
from tests import tokens
from tests.harness import House, open_house, token
from tests.systems.fixtures import Systems
from tests.systems.sources import BLOCKS, source_of
from tests.systems.system import System

INTERVAL: Final = 0.2
POLL: Final[Mapping[str, Any]] = {"changes": "poll", "poll": {"interval": "200ms"}}
WAYS: Final[Mapping[str, Mapping[str, Any]]] = {"poll": POLL, "relay": {"changes": "triggers"}}


@asynccontextmanager
async def two_gateways(
    folder: Path, dsn: str, redis_url: str, block: Mapping[str, Any]
) -> AsyncIterator[tuple[House, House]]:
    """Run two gateways with the same stores, whose users are in a source."""
    block = {"issuer": "main", **block}
    sections: dict[str, Any] = {"seeded": False, "users": {"source": block}}
    async with (
        open_house(folder, dsn, redis_url, **sections) as one,
        open_house(folder, dsn, redis_url, prefix=one.prefix, **sections) as two,
    ):
        yield one, two


async def status(house: House, raw: bytes) -> int:
    return (await house.request("/private/x", token=raw)).status


async def until(house: House, raw: bytes, expected: int) -> float:
    """Wait until a token gets an answer; returns how many seconds that took."""
    began = time.monotonic()
    async with asyncio.timeout(30):
        while await status(house, raw) != expected:  # noqa: ASYNC110 -- another program's
            await asyncio.sleep(0.01)
    return time.monotonic() - began


async def remembered(*houses: House, raw: bytes) -> None:
    """Wait until memory answers for a token in each gateway."""
    async with asyncio.timeout(30):
        for house in houses:
            await house.ready()
            before = await house.metric(
                "gateway_user_lookups_total", issuer="main", tier="local", result="found"
            )
            while (
                await house.metric("gateway_user_lookups_total", issuer="main", tier="local", result="found")
                == before
            ):
                assert await status(house, raw) == 200


@pytest.fixture(params=WAYS)
async def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class TestAnotherServer:
    @pytest.fixture
    async def django(self, systems: Systems) -> System:
        return await systems("django")

    @asynccontextmanager
    async def gateways(
        self, folder: Path, dsn: str, redis_url: str, django: System, way: str
    ) -> AsyncIterator[tuple[House, House]]:
        block = {**BLOCKS["django"], "dsn": django.dsn, **WAYS[way]}
        if way == "relay":
            await install(django.dsn, source_of({"issuer": "main", **block}), {"main": tokens.ISSUER})
        async with two_gateways(folder, dsn, redis_url, block) as houses:
            yield houses

    async def test_changes_reach_each_gateway(
        self, tmp_path: Path, dsn: str, redis_url: str, django: System, way: str
    ) -> None:
        (person,) = await django.add()
        raw = token(person.subject)
        async with self.gateways(tmp_path, dsn, redis_url, django, way) as (one, two):
            await remembered(one, two, raw=raw)
            await django.suspend(person)
            await until(one, raw, 401)
            await until(two, raw, 401)
            await django.reinstate(person)
            await until(one, raw, 200)
            await until(two, raw, 200)
            await remembered(one, two, raw=raw)
            await django.delete(person)
            await until(one, raw, 401)
            await until(two, raw, 401)

    async def test_a_user_who_signs_up_is_admitted(
        self, tmp_path: Path, dsn: str, redis_url: str, django: System, way: str
    ) -> None:
        (person, _) = await django.add(2)
        async with self.gateways(tmp_path, dsn, redis_url, django, way) as (one, two):
            await remembered(one, two, raw=token(person.subject))
            new = (await django.add())[0]
            await until(one, token(new.subject), 200)
            await until(two, token(new.subject), 200)

    async def test_another_process_takes_over(
        self, tmp_path: Path, dsn: str, redis_url: str, django: System, way: str
    ) -> None:
        (person,) = await django.add()
        raw = token(person.subject)
        block = {"issuer": "main", **BLOCKS["django"], "dsn": django.dsn, **WAYS[way]}
        if way == "relay":
            await install(django.dsn, source_of(block), {"main": tokens.ISSUER})
        sections: dict[str, Any] = {"users": {"source": block}}
        async with open_house(tmp_path, dsn, redis_url, seeded=False, **sections) as first:
            await remembered(first, raw=raw)
            async with open_house(
                tmp_path, dsn, redis_url, seeded=False, prefix=first.prefix, **sections
            ) as second:
                await remembered(second, raw=raw)
                holder = await first.sql("SELECT holder FROM gateway_source_feed")
        connection = await asyncpg.connect(dsn)
        assert await connection.fetchval("SELECT lease_until <= clock_timestamp() FROM gateway_source_feed")
        await connection.close()
        async with open_house(
            tmp_path, dsn, redis_url, seeded=False, prefix=first.prefix, **sections
        ) as third:
            await remembered(third, raw=raw)
            # Until another process reads, what the one that has ended reported last still counts.
            async with asyncio.timeout(30):
                while await third.sql("SELECT holder FROM gateway_source_feed") == holder:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            await django.suspend(person)
            await until(third, raw, 401)

    async def test_without_triggers_memory_is_not_trusted(
        self, tmp_path: Path, dsn: str, redis_url: str, django: System
    ) -> None:
        (person,) = await django.add()
        raw = token(person.subject)
        async with self.gateways(tmp_path, dsn, redis_url, django, "relay") as (one, _):
            await remembered(one, raw=raw)
            await django.sql("ALTER TABLE auth_user DISABLE TRIGGER ALL")
            async with asyncio.timeout(30):
                while await one.metric("gateway_invalidation_stream_up", stream="postgres"):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            await django.suspend(person)
            assert await status(one, raw) == 401


PEOPLE: Final = """
CREATE TABLE people (id text PRIMARY KEY, sub text UNIQUE, alive boolean DEFAULT true, changed {type});
CREATE TABLE chosen (person text, role text);
INSERT INTO people VALUES ('1', 'ann', true, {now}), ('2', 'bob', true, {now})
"""
BLOCK: Final[dict[str, Any]] = {
    "table": "people",
    "id": "id",
    "status": [{"when": "NOT alive", "is": "suspended"}],
    "roles": {"query": "SELECT role FROM chosen WHERE person = $1", "watch": {"chosen": "person"}},
    "identities": [{"subject": "sub"}],
}


@pytest.mark.parametrize(
    ("kind", "now"), [("timestamptz", "now()"), ("timestamp", "localtimestamp"), ("bigint", "1")]
)
async def test_a_column_shows_changed_rows(
    tmp_path: Path, empty_dsn: str, dsn: str, redis_url: str, kind: str, now: str
) -> None:
    ann, bob = token("ann"), token("bob")
    other = await asyncpg.connect(empty_dsn)
    await other.execute(PEOPLE.format(type=kind, now=now))
    poll = {"column": "changed", "interval": "200ms", "compare": "1h"}
    block = {**BLOCK, "dsn": empty_dsn, "changes": "poll", "poll": poll}
    async with two_gateways(tmp_path, dsn, redis_url, block) as (one, two):
        await remembered(one, two, raw=ann)
        await remembered(one, two, raw=bob)
        later = now if kind != "bigint" else "changed + 1"
        await other.execute(f"UPDATE people SET alive = false, changed = {later} WHERE sub = 'ann'")  # noqa: S608 -- ours
        await until(one, ann, 401)
        await until(two, ann, 401)
        assert await status(one, bob) == await status(two, bob) == 200
        # A transaction that began before others, and commits after them.
        if kind == "timestamptz":
            late = await asyncpg.connect(empty_dsn)
            transaction = late.transaction()
            await transaction.start()
            await late.execute("UPDATE people SET alive = false, changed = now() WHERE sub = 'bob'")
            await other.execute("UPDATE people SET alive = true, changed = now() WHERE sub = 'ann'")
            await until(one, ann, 200)
            await transaction.commit()
            await until(one, bob, 401)
            await late.close()
    await other.close()


async def test_a_comparison_finds_changes_that_the_column_does_not_show(
    tmp_path: Path, empty_dsn: str, dsn: str, redis_url: str
) -> None:
    ann, bob = token("ann"), token("bob")
    other = await asyncpg.connect(empty_dsn)
    await other.execute(PEOPLE.format(type="timestamptz", now="now()"))
    poll = {"column": "changed", "interval": "200ms", "compare": "400ms"}
    block = {**BLOCK, "dsn": empty_dsn, "changes": "poll", "poll": poll}
    async with two_gateways(tmp_path, dsn, redis_url, block) as (one, two):
        await remembered(one, two, raw=ann)
        await remembered(one, two, raw=bob)
        assert (await one.request("/admin/x", token=bob)).status == 403
        await other.execute("DELETE FROM people WHERE sub = 'ann'")
        await other.execute("INSERT INTO chosen VALUES ('2', 'admin')")
        await until(one, ann, 401)
        await until(two, ann, 401)
        async with asyncio.timeout(30):
            while (await one.request("/admin/x", token=bob)).status != 200:  # noqa: ASYNC110 -- another's
                await asyncio.sleep(0.01)
    await other.close()
