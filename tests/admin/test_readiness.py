"""A broken Postgres: the answers of `/readyz`, requests, `explain` and `gateway check --live`.

The owner of the tables causes the faults while a gateway runs, whose connections were opened before. The
gateway has its own role, as docs/operations.md advises.
"""

import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis

from gateway.cli.check import live
from gateway.cli.check.result import CheckResult
from gateway.core.model import JSON
from gateway.demo.embedded import EmbeddedRedis
from gateway.settings import Settings
from gateway.stores.availability import HOLD
from tests.admin.client import TOKEN
from tests.harness import House, configuration, open_house, seed, token
from tests.sockets import request_bytes
from tests.sql import as_role
from tests.stores.cable import Cable
from tests.stores.postgres.pgbouncer import pgbouncer
from tests.workers.program import eventually


@dataclass(frozen=True)
class Role:
    """A role that may read the three tables, and how it logs in."""

    name: str
    dsn: str
    owner: str

    async def sql(self, statement: str) -> None:
        """Execute SQL as the owner; `{role}` is the role's name."""
        connection = await asyncpg.connect(self.owner)
        try:
            await connection.execute(statement.replace("{role}", self.name))
        finally:
            await connection.close()


@pytest.fixture
async def role(dsn: str) -> AsyncIterator[Role]:
    name = f"runtime_{uuid.uuid4().hex}"
    role = Role(name, as_role(dsn, name, "p"), dsn)
    await role.sql(
        "CREATE ROLE {role} LOGIN PASSWORD 'p'; GRANT SELECT ON users, identities, revocations TO {role};"
        "GRANT EXECUTE ON FUNCTION gateway_provision_user TO {role}"
    )
    await seed(dsn)
    yield role
    await role.sql("DROP OWNED BY {role}; DROP ROLE {role}")


async def readyz(house: House) -> tuple[int, str, dict[str, dict[str, str | None]]]:
    response = await house.admin("/readyz")
    document = json.loads(response.content)
    return response.status, document["status"], document["dependencies"]


async def until(house: House, holds: Callable[[dict[str, dict[str, str | None]]], bool]) -> None:
    async def found() -> bool:
        return holds((await readyz(house))[2])

    await eventually(found)


async def explained(house: House, subject: str) -> dict[str, JSON]:
    body = json.dumps({"token": token(subject).decode()}).encode()
    async with house.connect(admin=True) as client:
        await client.send(
            request_bytes(
                "POST",
                "/v1/explain",
                b"Authorization: Bearer " + TOKEN.encode(),
                b"Content-Type: application/json",
                body=body,
            )
        )
        response = await client.response()
    assert response is not None
    document = json.loads(response.content)
    assert isinstance(document, dict), response
    return document


async def live_postgres(folder: Path, house: House, dsn: str | None = None, **changes: JSON) -> CheckResult:
    settings = configuration(folder, house.upstream.url, dsn or house.dsn, house.redis_url, house.prefix)
    postgres = settings["postgres"]
    assert isinstance(postgres, dict)
    postgres["connect_timeout"] = "8s"  # a busy machine is no outage
    postgres.update(changes)
    found = await asyncio.to_thread(live.try_all, Settings.model_validate(settings))
    return next(each for each in found if each.name == "postgres")


FAULTS = {
    "a table that was dropped": (
        "DROP TABLE revocations CASCADE",
        "store_not_migrated",
        r"revocations.*(dropped|backup)",
    ),
    "no right to read a table": (
        "REVOKE SELECT ON revocations FROM {role}",
        "store_permission_denied",
        r"permission denied for table revocations.*GRANT SELECT ON .*revocations",
    ),
    "no right to read a column": (
        "REVOKE SELECT ON users FROM {role};"
        "GRANT SELECT (id, status, tenant, email, display_name, attributes, tokens_valid_after) ON users"
        " TO {role}",
        "store_permission_denied",
        r"permission denied for table users.*columns roles",
    ),
    "no right to use the schema": (
        "REVOKE USAGE ON SCHEMA public FROM PUBLIC",
        "store_permission_denied",
        r"GRANT USAGE ON SCHEMA \"public\"",
    ),
    "a column that was renamed": (
        "ALTER TABLE users RENAME COLUMN tenant TO organisation",
        "store_column_differs",
        r"tenant.* does not exist.*users has no column tenant",
    ),
    "a column of another type": (
        "ALTER TABLE users ALTER COLUMN tenant TYPE integer USING length(tenant)",
        "store_column_differs",
        r"users\.tenant is integer, but must be text",
    ),
    "roles that are one text": (
        "ALTER TABLE users DROP CONSTRAINT users_roles_present;"
        "ALTER TABLE users ALTER COLUMN roles DROP DEFAULT;"
        "ALTER TABLE users ALTER COLUMN roles TYPE text USING array_to_string(roles, ',')",
        "store_column_differs",
        r"users\.roles is text, but must be text\[\]",
    ),
    "an id of another type": (
        "ALTER TABLE identities DROP CONSTRAINT identities_user_id_fkey;"
        "ALTER TABLE identities ALTER COLUMN user_id TYPE integer USING 1",
        "store_column_differs",
        r"uuid = integer",
    ),
    "values of another type": (
        "ALTER TABLE revocations ALTER COLUMN revoked_at DROP DEFAULT;"
        "ALTER TABLE revocations ALTER COLUMN revoked_at TYPE text",
        "store_column_differs",
        r"revocations\.revoked_at is text, but must be timestamp with time zone",
    ),
    "row-level security on users": (
        "ALTER TABLE users ENABLE ROW LEVEL SECURITY",
        "store_row_security",
        r"row-level security.*users",
    ),
    "row-level security on identities": (
        "ALTER TABLE identities ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY few ON identities USING (subject = 'nobody')",
        "store_row_security",
        r"row-level security.*identities",
    ),
    "row-level security on revocations": (
        "ALTER TABLE revocations ENABLE ROW LEVEL SECURITY",
        "store_row_security",
        r"row-level security.*revocations",
    ),
}


@pytest.mark.parametrize("sent", ["named", "unnamed"])
@pytest.mark.parametrize(("statement", "cause", "words"), FAULTS.values(), ids=FAULTS)
async def test_readyz_names_what_a_statement_of_requests_lacks(
    tmp_path: Path, role: Role, redis_url: str, statement: str, cause: str, words: str, sent: str
) -> None:
    async with open_house(
        tmp_path,
        role.dsn,
        redis_url,
        seeded=False,
        admin={"token": TOKEN},
        postgres={"prepared_statements": sent},
    ) as house:
        await until(house, lambda found: found["postgres"]["status"] == "up")
        await role.sql(statement)

        _, word, found = await readyz(house)
        assert (word != "ready", found["postgres"]["status"]) == (True, "down")
        detail = found["postgres"]["detail"] or ""
        assert re.search(words, detail), detail
        # The epoch in Redis lapses for some of the faults, after 3 s; none of the answers may be a refusal.
        for subject in ("acme", "ghost"):
            response = await house.request("/private/x", token=token(subject))
            # While Redis vouches for the revocations, only users are asked of Postgres.
            admitted = "revocations" in statement and (response.status, subject) == (200, "acme")
            # A column that cannot be read says nothing of who is not there.
            asked = "revocations" in statement or "ALTER TABLE users ALTER" in statement
            unknown = asked and (response.status, subject) == (401, "ghost")
            assert admitted or unknown or response.status == 503, (subject, response)
        explanation = await explained(house, "globex")
        assert explanation["cause"] == cause, explanation

        tried = await live_postgres(tmp_path, house, prepared_statements=sent)
        assert tried.outcome == "fail"
        assert not tried.unreachable
        assert re.search(words, f"{tried.found} {tried.fix}"), tried


@pytest.mark.parametrize("fault", ["no right to read a table", "a column that was renamed"])
async def test_behind_a_pooler_a_refusal_is_one_outage_with_its_cause(
    tmp_path: Path, role: Role, redis_url: str, fault: str
) -> None:
    statement, _, words = FAULTS[fault]
    with pgbouncer(role.dsn) as pooler:
        async with open_house(
            tmp_path, pooler.dsn, redis_url, seeded=False, postgres={"listen_dsn": role.dsn}
        ) as house:
            await until(house, lambda found: found["postgres"]["status"] == "up")
            await role.sql(statement)
            for _ in range(5):
                found = (await readyz(house))[2]["postgres"]
                assert found["status"] == "down"
                assert re.search(words, found["detail"] or ""), found
                # Longer than a store must be quiet to count as up again.
                await asyncio.sleep(HOLD / 3)
            tried = await live_postgres(tmp_path, house)
            assert (tried.outcome, tried.unreachable) == ("fail", False)
            assert re.search(words, f"{tried.found} {tried.fix}"), tried
        told = [event for event in house.events("dependency_down") if event["dependency"] == "postgres"]
        assert len(told) == 1
        assert house.events("dependency_up") == []


async def test_a_view_in_place_of_a_table_will_do(tmp_path: Path, role: Role, redis_url: str) -> None:
    await role.sql(
        "ALTER TABLE users RENAME TO people; CREATE VIEW users AS SELECT * FROM people;"
        "GRANT SELECT ON users TO {role}"
    )
    async with open_house(tmp_path, role.dsn, redis_url, seeded=False) as house:
        await until(house, lambda found: found["postgres"]["status"] == "up")
        assert (await house.request("/private/x", token=token("acme"))).status == 200
        assert (await live_postgres(tmp_path, house)).outcome == "pass"


async def test_a_mended_gateway_is_ready_without_a_restart(
    tmp_path: Path, role: Role, redis_url: str
) -> None:
    async with open_house(tmp_path, role.dsn, redis_url, seeded=False) as house:
        await role.sql("REVOKE SELECT ON revocations FROM {role}")
        await until(house, lambda found: found["postgres"]["status"] == "down")
        # Other statements are still answered, and end nothing.
        for subject in ("acme", "globex", "admin"):
            await house.request("/private/x", token=token(subject))
            await asyncio.sleep(0.5)
        await readyz(house)
        await role.sql("GRANT SELECT ON revocations TO {role}")
        await eventually(lambda: asyncio.sleep(0, bool(house.events("dependency_up"))))
        assert (await readyz(house))[2]["postgres"]["status"] == "up"
    assert [event["dependency"] for event in house.events("dependency_down")] == ["postgres"]


BAD_ROWS = {
    "a status that is none": (
        "ALTER TABLE users DROP CONSTRAINT users_status_known;UPDATE users SET status = 'banned' WHERE {acme}"
    ),
    "attributes that are no object": (
        "ALTER TABLE users DROP CONSTRAINT users_attributes_object;"
        "UPDATE users SET attributes = '[]' WHERE {acme}"
    ),
    "a role that is null": (
        "ALTER TABLE users DROP CONSTRAINT users_roles_present;"
        "UPDATE users SET roles = ARRAY[NULL] WHERE {acme}"
    ),
}


@pytest.mark.parametrize("statement", BAD_ROWS.values(), ids=BAD_ROWS)
async def test_a_bad_row_is_refused_alone_and_nothing_older_stands_in_for_it(
    tmp_path: Path, role: Role, redis_url: str, statement: str
) -> None:
    async with open_house(tmp_path, role.dsn, redis_url, seeded=False, admin={"token": TOKEN}) as house:
        assert (await house.request("/private/x", token=token("acme"))).status == 200
        await role.sql(statement.replace("{acme}", "tenant = 'acme'"))

        async def refused() -> bool:
            return (await house.request("/private/x", token=token("acme"))).status != 200

        await eventually(refused)
        for _ in range(5):
            response = await house.request("/private/x", token=token("acme"))
            assert (response.status, response.code) == (503, "user_store_unavailable")
        assert (await house.request("/private/x", token=token("globex"))).status == 200
        assert (await readyz(house))[2]["postgres"]["status"] == "up"
        assert (await explained(house, "acme"))["cause"] == "store_not_migrated"
    assert house.events("dependency_down") == []


async def test_a_role_that_could_never_read_is_not_ready(tmp_path: Path, role: Role, redis_url: str) -> None:
    await role.sql("REVOKE SELECT ON revocations FROM {role}")
    async with open_house(tmp_path, role.dsn, redis_url, seeded=False) as house:
        status, word, _ = await readyz(house)
        assert (status, word) == (503, "not_ready")


async def test_redis_replaces_postgres_only_while_its_users_count(
    tmp_path: Path, role: Role, redis_url: str
) -> None:
    lives = {"user_ttl": "1s", "stale_if_error": "1s"}
    async with open_house(tmp_path, role.dsn, redis_url, seeded=False, cache=lives) as house:
        assert (await house.request("/private/x", token=token("acme"))).status == 200
        await house.filled()
        await role.sql("DROP TABLE identities CASCADE")
        status, word, _ = await readyz(house)
        assert (status, word) == (200, "degraded")

        async def not_ready() -> bool:
            return (await readyz(house))[:2] == (503, "not_ready")

        await eventually(not_ready)
        response = await house.request("/private/x", token=token("acme"))
        assert response.status == 503


async def test_a_postgres_that_is_far_away_is_up_and_one_that_falls_silent_is_down(
    tmp_path: Path, role: Role, redis_url: str
) -> None:
    sent: dict[str, JSON] = {
        "prepared_statements": "unnamed",
        "listen_dsn": role.dsn,
        "connect_timeout": "8s",
    }
    async with (
        Cable(role.dsn) as cable,
        open_house(tmp_path, cable.url, redis_url, seeded=False, postgres=sent) as house,
    ):
        await house.filled()
        # A round trip takes 0.12 s, a probe of all statements some 1.5 s.
        cable.delay = 0.06
        for _ in range(4):
            found = (await readyz(house))[2]["postgres"]
            assert found == {"status": "up", "detail": None}
        assert (await house.request("/private/x", token=token("acme"))).status == 200
        await cable.cut()
        await until(house, lambda found: found["postgres"]["status"] == "up")
        cable.freeze()
        silent = {"status": "down", "detail": "no answer within 1 s"}
        await until(house, lambda found: found["postgres"] == silent)
        cable.thaw()
        cable.delay = 0.0
        await until(house, lambda found: found["postgres"]["status"] == "up")


@pytest.fixture(scope="module")
def own_redis() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as server:
        yield server


@pytest.mark.parametrize("lost_by", ["FLUSHALL", "restart"])
async def test_redis_replaces_postgres_only_while_it_has_all_revocations(
    tmp_path: Path, role: Role, own_redis: EmbeddedRedis, lost_by: str
) -> None:
    async with open_house(tmp_path, role.dsn, own_redis.url, seeded=False) as house:
        await until(house, lambda found: found["postgres"]["status"] == found["redis"]["status"] == "up")
        assert (await house.request("/private/x", token=token("acme"))).status == 200
        await house.filled()
        await role.sql("DROP TABLE identities CASCADE; DROP TABLE revocations CASCADE")
        assert (await readyz(house))[:2] == (200, "degraded")
        if lost_by == "restart":
            await asyncio.to_thread(own_redis.stop)
            await asyncio.to_thread(own_redis.start)
        else:
            async with Redis.from_url(house.redis_url) as client:
                await client.flushall()

        async def redis_up() -> bool:
            return (await readyz(house))[2]["redis"]["status"] == "up"

        await eventually(redis_up)
        assert (await house.request("/private/x", token=token("acme"))).status == 503
        assert (await readyz(house))[:2] == (503, "not_ready")


async def test_a_normal_stop_warns_of_nothing(tmp_path: Path, dsn: str, redis_url: str) -> None:
    async with open_house(tmp_path, dsn, redis_url) as house:

        async def remembered() -> bool:
            await house.request("/private/x", token=token("acme", jti="kept"))
            return any(
                name == "gateway_user_lookups_total" and ("tier", "local") in labels and value > 0
                for (name, labels), value in (await house.metrics()).items()
            )

        await eventually(remembered)
        before = len(house.log.getvalue())
    assert '"level":"warning"' not in house.log.getvalue()[before:]
