"""Reports about a Postgres that no longer accepts the gateway, or is read-only.

As in `test_readiness`, the faults happen while the gateway runs. Here they affect its role, its database or
the server, and end its connections.
"""

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import asyncpg
import pytest

from gateway.stores.availability import HOLD
from tests.admin.client import TOKEN, Api
from tests.admin.test_readiness import Role, explained, live_postgres, readyz, role, until
from tests.harness import House, open_house, token
from tests.workers.program import eventually

__all__ = ["role"]


@dataclass(frozen=True, slots=True)
class Fault:
    made: tuple[str, ...]
    mended: tuple[str, ...]
    words: str
    """What `/readyz` and `gateway check --live` say of it."""
    cause: str = "store_unreachable"
    """What `explain` calls it."""


FAULTS: Final = {
    "a role that may not log in": Fault(
        ("ALTER ROLE {role} NOLOGIN",),
        ("ALTER ROLE {role} LOGIN",),
        r"role .* is not permitted to log in.*user and password",
        cause="store_login_refused",
    ),
    "a role with another password": Fault(
        ("ALTER ROLE {role} PASSWORD 'other'",),
        ("ALTER ROLE {role} PASSWORD 'p'",),
        r"password authentication failed.*user and password",
        cause="store_login_refused",
    ),
    "no connection left for the role": Fault(
        ("ALTER ROLE {role} CONNECTION LIMIT 0",),
        ("ALTER ROLE {role} CONNECTION LIMIT -1",),
        r"too many connections for role.*postgres\.pool_max",
    ),
    "no connection left for the database": Fault(
        ('ALTER DATABASE "{database}" CONNECTION LIMIT 0',),
        ('ALTER DATABASE "{database}" CONNECTION LIMIT -1',),
        r"too many connections for database.*postgres\.pool_max",
    ),
    "a database that takes no connections": Fault(
        ('ALTER DATABASE "{database}" ALLOW_CONNECTIONS false',),
        ('ALTER DATABASE "{database}" ALLOW_CONNECTIONS true',),
        r"not currently accepting connections",
    ),
    "no right to connect": Fault(
        ('REVOKE CONNECT ON DATABASE "{database}" FROM PUBLIC',),
        ('GRANT CONNECT ON DATABASE "{database}" TO PUBLIC',),
        r"permission denied for database.*grant it to the role",
        "store_permission_denied",
    ),
    "a database that was renamed": Fault(
        (
            'ALTER DATABASE "{database}" ALLOW_CONNECTIONS false',
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'",
            'ALTER DATABASE "{database}" RENAME TO "{database}_away"',
        ),
        (
            'ALTER DATABASE "{database}_away" RENAME TO "{database}"',
            'ALTER DATABASE "{database}" ALLOW_CONNECTIONS true',
        ),
        r"database .* does not exist.*create the database",
        cause="store_database_missing",
    ),
}


async def executed(role: Role, maintenance: str, statements: tuple[str, ...]) -> None:
    """Execute as the owner, from another database, and end the gateway's connections."""
    connection = await asyncpg.connect(maintenance)
    try:
        for statement in statements:
            database = urlsplit(role.owner).path[1:]
            await connection.execute(statement.replace("{role}", role.name).replace("{database}", database))
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", role.name
        )
    finally:
        await connection.close()


@pytest.fixture
def maintenance(dsn: str) -> str:
    return urlsplit(dsn)._replace(path="/postgres").geturl()


def told(house: House, event: str) -> list[object]:
    """Return of which dependency or stream an event told, in its order."""
    return [line.get("dependency", line.get("stream")) for line in house.events(event)]


def assert_one_outage(house: House) -> None:
    """Check that one line tells of the outage; another if its lasting cause was not the first to be seen.

    A request may see the connection end before any sees why.
    """
    details = [line["detail"] for line in house.events("dependency_down")]
    assert {*told(house, "dependency_down")} == {"postgres"}
    assert len(details) <= 2
    assert len({*details}) == len(details), details


async def asked_until(house: House, event: str) -> bool:
    """Ask all dependencies, and tell whether an event has been logged."""
    await readyz(house)
    return bool(told(house, event))


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_server_that_lets_the_gateway_in_no_longer_is_one_outage(
    tmp_path: Path, role: Role, maintenance: str, redis_url: str, fault: Fault
) -> None:
    async with open_house(tmp_path, role.dsn, redis_url, seeded=False, admin={"token": TOKEN}) as house:
        await house.ready()
        assert (await house.request("/private/x", token=token("acme"))).status == 200
        await executed(role, maintenance, fault.made)
        await until(house, lambda found: found["postgres"]["status"] == "down")
        for _ in range(5):
            _, word, found = await readyz(house)
            assert word != "ready"
            assert found["postgres"]["status"] == "down"
            assert re.search(fault.words, found["postgres"]["detail"] or ""), found
            # Who is known is admitted while Redis stands in; who is not known may exist.
            for subject, allowed in (("acme", {200, 503}), ("globex", {503}), ("ghost", {503})):
                response = await house.request("/private/x", token=token(subject))
                assert response.status in allowed, (subject, response)
                if response.status == 503:
                    assert response.code == "user_store_unavailable"
            # Longer than a store must be quiet to count as up again.
            await asyncio.sleep(HOLD / 3)
        explanation = await explained(house, "globex")
        assert explanation["cause"] == fault.cause, explanation
        tried = await live_postgres(tmp_path, house)
        assert tried.outcome == "fail"
        assert re.search(fault.words, f"{tried.found} {tried.fix}"), tried
        assert_one_outage(house)
        assert told(house, "dependency_up") == []
        assert told(house, "invalidation_stream_down").count("postgres") <= 1

        await executed(role, maintenance, fault.mended)
        await eventually(lambda: asked_until(house, "dependency_up"))
        await house.ready()
        assert (await house.request("/private/x", token=token("globex"))).status == 200
        assert (await house.request("/private/x", token=token("ghost"))).status == 401
        assert_one_outage(house)


async def test_a_read_only_server_is_ready_and_reports_failed_writes(
    tmp_path: Path, role: Role, redis_url: str
) -> None:
    """Requests only read. So it is behind a fail-over that went wrong, or where a disk was full."""
    await role.sql(
        "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {role};"
        "GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role};"
        "ALTER ROLE {role} SET default_transaction_read_only = on"
    )
    async with (
        open_house(tmp_path, role.dsn, redis_url, seeded=False, admin={"token": TOKEN}) as house,
        Api.of(house) as api,
    ):
        await house.ready()
        await house.set_key("revoked:jti:main:elsewhere", "")

        async def refused() -> bool:
            return (await house.request("/private/x", token=token("acme", jti="elsewhere"))).status == 401

        await eventually(refused)
        await house.ready()
        await eventually(lambda: asyncio.sleep(0, house.events("revocations_not_learnt")))
        for number in range(10):
            assert (await house.request("/private/x", token=token("globex"))).status == 200
            assert (await house.request("/private/x", token=token(f"ghost-{number}"))).status == 401
            # As long as an attempt to write would need to be repeated, and noticed.
            found = (await readyz(house))[2]
            assert found["postgres"] == {"status": "up", "detail": None}
            await asyncio.sleep(HOLD / 3)
        [line] = house.events("revocations_not_learnt")
        assert "read-only transaction" in str(line["error"])
        assert "may write" in str(line["fix"])
        # A slow machine may take a connection for lost; that nothing can be written is no outage.
        assert not [line for line in house.events("dependency_down") if "read-only" in str(line["detail"])]

        answer = await api.call("POST", "/revocations", {"kind": "jti", "issuer": "main", "value": "x"})
        assert (answer.status, answer.code) == (503, "store_unavailable")
        assert (await readyz(house))[2]["postgres"]["status"] == "up"
        tried = await live_postgres(tmp_path, house)
        assert (tried.outcome, "it is read-only" in tried.found) == ("warn", True)


async def test_no_request_is_denied_when_the_server_has_no_more_connections(
    tmp_path: Path, role: Role, dsn: str, redis_url: str
) -> None:
    """Those that are open serve; a request that would need another one gets a 503, or an answer."""
    async with open_house(tmp_path, role.dsn, redis_url, seeded=False) as house:
        await house.ready()
        # One connection for look-ups stays open. The next one that is wanted is one too many.
        await house.sql(
            "SELECT pg_terminate_backend(pid, 5000) FROM ("
            "SELECT pid, row_number() OVER () AS number FROM pg_stat_activity"
            " WHERE usename = $1 AND datname = current_database() AND application_name = 'gateway'"
            ") AS pool WHERE number > 1",
            role.name,
        )
        open_ones = await house.sql(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND datname = current_database()",
            role.name,
        )
        # One of them is this one.
        await role.sql(f"ALTER ROLE {{role}} CONNECTION LIMIT {open_ones[0][0] - 1}")
        subjects = [f"ghost-{number}" for number in range(40)] + ["acme", "globex"] * 5
        blocker = await asyncpg.connect(dsn)
        async with blocker.transaction():
            # The look-ups in flight wait, so that the next ones want a connection of their own.
            await blocker.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
            requests = [asyncio.create_task(house.request("/private/x", token=token("ghost")))]
            while not told(house, "dependency_down"):
                requests += [
                    asyncio.create_task(house.request("/private/x", token=token(subject)))
                    for subject in subjects
                ]
                await asyncio.wait(requests, timeout=0.2)
        await blocker.close()
        asked = ["ghost", *subjects * (len(requests) // len(subjects))]
        responses = await asyncio.gather(*requests)
        for subject, response in zip(asked, responses, strict=True):
            expected = {401, 503} if subject.startswith("ghost") else {200, 503}
            assert response.status in expected, response
            if response.status == 503:
                assert response.code == "user_store_unavailable"
        # The gateway itself may have had the open connection when the first one wanted it.
        assert any(response.status != 503 for response in responses)
        assert told(house, "dependency_down") == ["postgres"]
        assert "too many connections" in str(house.events("dependency_down")[0]["detail"])
        await role.sql("ALTER ROLE {role} CONNECTION LIMIT -1")
        await eventually(lambda: asked_until(house, "dependency_up"))
        assert told(house, "dependency_down") == ["postgres"]
        assert (await house.request("/private/x", token=token("ghost"))).status == 401


REPLICA_FAULTS: Final = {
    "may not log in": ("ALTER ROLE {role} NOLOGIN", "ALTER ROLE {role} LOGIN"),
    "may not read": ("REVOKE SELECT ON identities FROM {role}", "GRANT SELECT ON identities TO {role}"),
    "gives no connections": (
        "ALTER ROLE {role} CONNECTION LIMIT 0",
        "ALTER ROLE {role} CONNECTION LIMIT -1",
    ),
}


@pytest.mark.parametrize(("made", "mended"), REPLICA_FAULTS.values(), ids=REPLICA_FAULTS)
async def test_a_replica_that_fails_its_reads_is_one_outage_and_the_primary_answers(
    tmp_path: Path, role: Role, dsn: str, maintenance: str, redis_url: str, made: str, mended: str
) -> None:
    """What is called the replica here is the same database through a role of its own."""
    async with open_house(
        tmp_path, dsn, redis_url, seeded=False, postgres={"replica_dsn": role.dsn}
    ) as house:
        await until(house, lambda found: found["postgres_replica"]["status"] == "up")
        await role.sql(made)
        if "ALTER ROLE" in made:
            # It counts for new connections alone.
            await executed(role, maintenance, ())
        await until(house, lambda found: found["postgres_replica"]["status"] == "down")
        for number in range(5):
            status, word, found = await readyz(house)
            assert (status, word, found["postgres"]["status"]) == (200, "degraded", "up")
            assert (await house.request("/private/x", token=token("acme"))).status == 200
            assert (await house.request("/private/x", token=token("globex"))).status == 200
            assert (await house.request("/private/x", token=token(f"ghost-{number}"))).status == 401
            await asyncio.sleep(HOLD / 3)
        assert told(house, "dependency_down") == ["postgres_replica"]
        await role.sql(mended)
        await eventually(lambda: asked_until(house, "dependency_up"))
        assert told(house, "dependency_down") == ["postgres_replica"]
        assert told(house, "dependency_up") == ["postgres_replica"]
