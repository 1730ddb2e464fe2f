"""`/readyz` and the metrics where users are in tables of another system."""

from pathlib import Path

from gateway.core.model import JSON
from gateway.stores.postgres.migrate import migrate
from gateway.stores.postgres.source.install import install
from tests import tokens
from tests.admin.test_readiness import readyz, until
from tests.harness import open_house, token, unused_port
from tests.systems.fixtures import Systems
from tests.systems.sources import BLOCKS, source_of

BLOCK: dict[str, JSON] = {**BLOCKS["authjs"], "issuer": "main"}


async def test_the_users_are_a_dependency_of_their_own(
    tmp_path: Path, redis_url: str, systems: Systems
) -> None:
    system = await systems("authjs")
    await migrate(system.dsn, "gateway_own")
    await install(system.dsn, source_of(BLOCKS["authjs"]), {"main": tokens.ISSUER})
    (person,) = await system.add()
    async with open_house(
        tmp_path,
        system.dsn,
        redis_url,
        seeded=False,
        postgres={"schema": "gateway_own"},
        users={"source": BLOCK},
    ) as house:
        await until(
            house,
            lambda found: all(found[name]["status"] == "up" for name in ("users_source", "stream:postgres")),
        )
        assert (await house.request("/private/x", token=token(person.subject))).status == 200
        assert await house.metric("gateway_dependency_up", dependency="users_source") == 1

        await system.sql("ALTER TABLE users RENAME COLUMN email TO mail")
        await until(house, lambda found: found["users_source"]["status"] == "down")
        _, _, found = await readyz(house)
        assert 'column "email" does not exist' in (found["users_source"]["detail"] or "")
        assert found["postgres"]["status"] == "up"
        assert await house.metric("gateway_dependency_up", dependency="users_source") == 0
        response = await house.request("/private/x", token=token("ghost"))
        assert (response.status, response.code) == (503, "user_store_unavailable")

        await system.sql("ALTER TABLE users RENAME COLUMN mail TO email")
        await until(house, lambda found: found["users_source"]["status"] == "up")
        assert (await house.request("/private/x", token=token("ghost"))).status == 401
    assert "users_source" in {event["dependency"] for event in house.events("dependency_down")}


async def test_a_gateway_that_could_never_read_the_users_is_not_ready(
    tmp_path: Path, dsn: str, redis_url: str
) -> None:
    nowhere = f"postgresql://ann:geheim@127.0.0.1:{unused_port()}/shop"
    source: dict[str, JSON] = {**BLOCK, "dsn": nowhere, "replica_dsn": nowhere}
    async with open_house(tmp_path, dsn, redis_url, seeded=False, users={"source": source}) as house:
        status, word, found = await readyz(house)
        assert (status, word) == (503, "not_ready")
        assert found["postgres"]["status"] == "up"
        assert found["users_source"]["status"] == found["users_source_replica"]["status"] == "down"
        assert "geheim" not in str(found)


async def test_a_replica_that_is_away_is_no_outage(tmp_path: Path, redis_url: str, systems: Systems) -> None:
    system = await systems("authjs")
    await migrate(system.dsn, "gateway_own")
    nowhere = f"postgresql://127.0.0.1:{unused_port()}/shop"
    source: dict[str, JSON] = {**BLOCK, "dsn": system.dsn, "replica_dsn": nowhere}
    async with open_house(
        tmp_path,
        system.dsn,
        redis_url,
        seeded=False,
        postgres={"schema": "gateway_own"},
        users={"source": source},
    ) as house:
        await until(house, lambda found: found["users_source"]["status"] == "up")
        status, word, found = await readyz(house)
        assert (status, word) == (200, "degraded")
        assert found["users_source_replica"]["status"] == "down"
