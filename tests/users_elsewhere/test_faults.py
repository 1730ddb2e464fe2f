"""A source while something is broken: stores that are down, missing triggers, rows that cannot be read."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest
from redis.asyncio import Redis

from gateway.stores.postgres.source.install import remove
from tests.harness import House
from tests.sql import execute
from tests.stores.cable import Cable
from tests.systems.sources import source_of
from tests.users_elsewhere.gateways import (
    Crowd,
    in_memory,
    install_triggers,
    one_process,
    reports,
    token,
)
from tests.workers.program import eventually

TABLES: Final = """
CREATE TABLE person (
    id integer PRIMARY KEY, subject text UNIQUE, active boolean NOT NULL DEFAULT true,
    share integer NOT NULL DEFAULT 1, plan text NOT NULL DEFAULT '1'
);
INSERT INTO person (id, subject) VALUES (1, 'ann'), (2, 'bob'), (3, 'eve');
"""
BLOCK: Final[dict[str, Any]] = {
    "table": "person",
    "id": "id",
    "issuer": "main",
    "status": [{"when": "NOT active", "is": "suspended"}],
    "identities": [{"subject": "subject"}],
}
ANN: Final = "UPDATE person SET active = {} WHERE id = 1"


@pytest.fixture
async def database(shared_dsn: str) -> str:
    await execute(shared_dsn, TABLES)
    await install_triggers(shared_dsn, BLOCK)
    return shared_dsn


@pytest.fixture
async def started(database: str, redis_url: str, tmp_path: Path) -> AsyncIterator[tuple[House, Crowd]]:
    async with one_process(tmp_path, database, redis_url, BLOCK) as started:
        yield started


async def stream(house: House) -> dict[str, Any]:
    """Return what `/readyz` says of the stream of changes."""
    found: dict[str, Any] = json.loads((await house.admin("/readyz")).content)["dependencies"]
    return dict(found["stream:postgres"])


async def deaf(house: House) -> str:
    """Wait until `/readyz` says that changes may be missed; return why."""

    async def noticed() -> bool:
        return bool((await stream(house))["status"] == "down")

    await eventually(noticed)
    return str((await stream(house))["detail"])


class TestStores:
    async def test_redis_is_down(self, database: str, redis_url: str, tmp_path: Path) -> None:
        async with Cable(redis_url) as cable, one_process(tmp_path, database, cable.url, BLOCK) as started:
            house, clients = started
            ann = token("ann")
            await in_memory(house, clients, ann)
            await cable.pull()
            await house.sql(ANN.format("false"))
            await clients.agree("user_suspended", ann)
            await house.sql(ANN.format("true"))
            await clients.agree(200, ann)
            await clients.agree("user_not_found", token("nobody"))
            await house.sql(ANN.format("false"))
            await cable.plug()
            await house.ready()
            await clients.agree("user_suspended", ann)

    async def test_redis_is_emptied(self, started: tuple[House, Crowd], redis_url: str) -> None:
        house, clients = started
        ann = token("ann")
        await in_memory(house, clients, ann)
        async with Redis.from_url(redis_url) as client:
            await client.flushall()
        await house.sql(ANN.format("false"))
        await clients.agree("user_suspended", ann)
        async with Redis.from_url(redis_url) as client:
            await client.flushall()
        await house.sql(ANN.format("true"))
        await clients.agree(200, ann)

    async def test_postgres_is_down(self, database: str, redis_url: str, tmp_path: Path) -> None:
        async with Cable(database) as cable, one_process(tmp_path, cable.url, redis_url, BLOCK) as started:
            house, clients = started
            ann, bob = token("ann"), token("bob")
            await in_memory(house, clients, ann)
            await house.filled()
            await cable.pull()
            await deaf(house)
            # What was known serves for `stale_if_error`; of others nothing is claimed.
            await clients.agree(200, ann)
            await clients.agree("user_store_unavailable", bob)
            await execute(database, ANN.format("false"))
            await cable.plug()
            await clients.agree("user_suspended", ann)
            await clients.agree(200, bob)

    async def test_the_table_is_away(self, started: tuple[House, Crowd]) -> None:
        house, clients = started
        await in_memory(house, clients, token("ann"))
        await house.sql("ALTER TABLE person RENAME TO persons")
        await clients.agree("user_store_unavailable", token("bob"))
        await house.sql("ALTER TABLE persons RENAME TO person")
        await clients.agree(200, token("bob"))


class TestTriggers:
    """While the triggers are not as configured, memory is not trusted, and `/readyz` says so."""

    @pytest.mark.parametrize(
        "harm",
        [
            pytest.param("ALTER TABLE person DISABLE TRIGGER gateway_source_update", id="disabled"),
            pytest.param("ALTER TABLE person DISABLE TRIGGER USER", id="all disabled"),
            pytest.param("DROP TRIGGER gateway_source_update ON person", id="dropped"),
            pytest.param("DROP SCHEMA gateway_source CASCADE", id="removed"),
        ],
    )
    async def test_it_is_noticed_and_mended_by_migrate(
        self, harm: str, started: tuple[House, Crowd], database: str
    ) -> None:
        house, clients = started
        ann = token("ann")
        await in_memory(house, clients, ann)
        await house.sql(harm)
        # No trigger tells of this change.
        await house.sql(ANN.format("false"))
        await clients.agree("user_suspended", ann)
        assert "gateway migrate" in await deaf(house)
        await house.sql(ANN.format("true"))
        await clients.agree(200, ann)
        assert await install_triggers(database, BLOCK)
        await house.ready()
        await in_memory(house, clients, ann)
        await house.sql(ANN.format("false"))
        await clients.agree("user_suspended", ann)

    async def test_triggers_of_another_configuration_are_replaced(
        self, started: tuple[House, Crowd], database: str
    ) -> None:
        house, clients = started
        ann = token("ann")
        await in_memory(house, clients, ann)
        other = {**BLOCK, "status": [{"when": "share = 0", "is": "locked"}]}
        assert await install_triggers(database, other)
        # They report no change of the column that counts here.
        await house.sql(ANN.format("false"))
        await clients.agree("user_suspended", ann)
        assert "of another configuration on" in await deaf(house)
        assert await install_triggers(database, BLOCK)
        await house.ready()
        await in_memory(house, clients, token("bob"))
        await house.sql("UPDATE person SET active = false WHERE id = 2")
        await clients.agree("user_suspended", token("bob"))

    async def test_remove_is_noticed(self, started: tuple[House, Crowd], database: str) -> None:
        house, clients = started
        await in_memory(house, clients, token("ann"))
        assert await remove(database, source_of(BLOCK))
        await house.sql(ANN.format("false"))
        await clients.agree("user_suspended", token("ann"))
        assert "gateway migrate" in await deaf(house)

    async def test_a_gap_of_a_moment_is_no_loss(self, started: tuple[House, Crowd]) -> None:
        """Disabled and enabled in one transaction: no heartbeat ever finds a trigger missing."""
        house, clients = started
        ann = token("ann")
        await in_memory(house, clients, ann)
        await house.sql(
            f"DO $$ BEGIN ALTER TABLE person DISABLE TRIGGER USER; {ANN.format('false')};"
            " ALTER TABLE person ENABLE TRIGGER USER; END $$"
        )
        await clients.agree("user_suspended", ann)


class TestExpressions:
    """Expressions that fail for some rows."""

    BLOCK: Final = {
        **BLOCK,
        "status": [{"when": "10 / share > 5 AND NOT active", "is": "suspended"}],
        "attributes": {"level": "plan::integer"},
    }

    @pytest.mark.parametrize(
        "failing",
        ["UPDATE person SET share = 0 WHERE id = 1", "UPDATE person SET plan = 'gold' WHERE id = 1"],
    )
    async def test_it_is_503_for_that_user_alone_and_no_fault_of_the_other_system(
        self, failing: str, shared_dsn: str, redis_url: str, tmp_path: Path
    ) -> None:
        await execute(shared_dsn, TABLES)
        await install_triggers(shared_dsn, self.BLOCK)
        async with one_process(tmp_path, shared_dsn, redis_url, self.BLOCK) as (house, clients):
            await in_memory(house, clients, token("ann"))
            await in_memory(house, clients, token("bob"))
            connection = await asyncpg.connect(shared_dsn)
            warnings: list[str] = []
            connection.add_log_listener(lambda _, message: warnings.append(str(message)))
            async with reports(shared_dsn) as reported:
                assert await connection.execute(failing) == "UPDATE 1"
            await connection.close()
            assert [report["kind"] for report in reported] == ["all"]
            assert "a change of person is reported as one of all users" in warnings[0]
            await clients.agree("user_store_unavailable", token("ann"))
            await clients.agree(200, token("bob"))
            # Changes of others are found as before.
            async with reports(shared_dsn) as reported:
                await house.sql("UPDATE person SET active = false WHERE id = 2")
            await clients.agree("user_suspended", token("bob"))
            assert [report["kind"] for report in reported] == ["identities"]
            await house.sql("UPDATE person SET share = 1, plan = '1' WHERE id = 1")
            await clients.agree(200, token("ann"))

    async def test_many_rows_with_one_that_fails_are_written(self, shared_dsn: str) -> None:
        await execute(shared_dsn, TABLES)
        await install_triggers(shared_dsn, self.BLOCK)
        await execute(shared_dsn, "UPDATE person SET share = 0")
        await execute(shared_dsn, "INSERT INTO person (id, subject, plan) VALUES (9, 'x', 'none')")
        await execute(shared_dsn, "UPDATE person SET share = 1, active = false")
        await execute(shared_dsn, "DELETE FROM person")
