"""Stores that cannot be used as they are: each cause for itself, in the server's own words."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from gateway.explain import Explanation
from gateway.explain.steps.stores import outage
from tests.explain.scenarios import never
from tests.explain.world import World
from tests.harness import token, unused_port


async def refused(
    world: World, cause: str, *says: str, reason: str = "revocation_unavailable"
) -> Explanation:
    """See a request refused and explained."""
    raw = token("ann")
    assert await world.decide(raw) == reason
    explanation = await world.explain(raw)
    assert (explanation.reason, explanation.cause) == (reason, cause), explanation.summary
    assert never.broken(explanation) == []
    assert explanation.fix is not None
    told = f"{explanation.summary} {explanation.fix.text} {explanation.fix.command} {explanation.fix.config}"
    for words in says:
        assert words in told, told
    return explanation


def _dsn(
    world: World, *, user: str | None = None, host: str | None = None, database: str | None = None
) -> str:
    parts = urlsplit(world.dsn)
    named, _, place = parts.netloc.rpartition("@")
    if host is not None:
        place = host
    dsn = parts._replace(netloc=f"{user or named}@{place}".removeprefix("@"))
    return dsn._replace(path=dsn.path if database is None else f"/{database}").geturl()


@asynccontextmanager
async def role(world: World, *grants: str, options: str = "LOGIN") -> AsyncIterator[str]:
    """Make a role that may log in, and only read what is granted."""
    name = f"gateway_{uuid.uuid4().hex[:12]}"
    await world.sql(f"CREATE ROLE {name} PASSWORD 'p' {options}")
    try:
        for grant in grants:
            await world.sql(f"GRANT {grant} TO {name}")
        yield name
    finally:
        await world.sql(f"DROP OWNED BY {name}")
        await world.sql(f"DROP ROLE {name}")


_ALL = "SELECT ON users, identities, revocations"


@pytest.fixture
async def ann(world: World) -> World:
    await world.add()
    return world


class TestServer:
    async def test_nothing_listens(self, ann: World) -> None:
        port = unused_port()
        ann.config["postgres"]["dsn"] = _dsn(ann, host=f"127.0.0.1:{port}")
        explanation = await refused(ann, "store_unreachable", f"pg_isready -h 127.0.0.1 -p {port}")
        assert explanation.fix is not None
        assert explanation.fix.command is None

    async def test_a_host_without_an_address(self, ann: World) -> None:
        ann.config["postgres"]["dsn"] = _dsn(ann, host="postgres.invalid:5432")
        await refused(ann, "store_host_unknown", "postgres.invalid", "DNS")

    async def test_a_database_that_is_not_there(self, ann: World) -> None:
        ann.config["postgres"]["dsn"] = _dsn(ann, database="no_such_one")
        await refused(ann, "store_database_missing", "no_such_one", "has no database")

    async def test_a_role_without_the_right_to_log_in(self, ann: World) -> None:
        async with role(ann, _ALL, options="NOLOGIN") as name:
            ann.config["postgres"]["dsn"] = _dsn(ann, user=f"{name}:p")
            await refused(ann, "store_login_refused", name, "not permitted to log in", f"-U {name}")

    async def test_a_role_that_is_not_there(self, ann: World) -> None:
        ann.config["postgres"]["dsn"] = _dsn(ann, user="no_such_role:secret")
        explanation = await refused(ann, "store_login_refused", "no_such_role")
        assert "secret" not in str(explanation.to_json())

    async def test_too_many_connections(self, ann: World) -> None:
        async with role(ann, _ALL, options="LOGIN CONNECTION LIMIT 0") as name:
            ann.config["postgres"]["dsn"] = _dsn(ann, user=f"{name}:p")
            await refused(ann, "store_connection_limit", "too many connections", name, "pool_max")

    async def test_tls_that_the_server_does_not_have(self, ann: World) -> None:
        ann.config["postgres"]["dsn"] = f"{ann.dsn}{'&' if '?' in ann.dsn else '?'}sslmode=require"
        if urlsplit(ann.dsn).hostname is None:
            pytest.skip("this Postgres is reached by a Unix socket")
        await refused(ann, "store_tls_refused", "TLS")


class TestTables:
    async def test_another_environments_database(self, world: World) -> None:
        await world.add("bob", iss="https://idp.staging.example.com/")
        explanation = await refused(
            world, "store_without_issuer", "no identity of this issuer", "staging", reason="user_not_found"
        )
        assert explanation.fix is not None
        assert explanation.fix.command is None

    async def test_another_environments_database_with_the_subject(self, world: World) -> None:
        """To link the identity there would mend nothing."""
        await world.add("ann", iss="https://idp.staging.example.com/")
        explanation = await refused(world, "store_without_issuer", "[staging.]", reason="user_not_found")
        assert explanation.fix is not None
        assert explanation.fix.command is None

    @pytest.mark.parametrize("beside", [None, "https://idp.staging.example.com/", "https://else.example.org"])
    async def test_another_spelling_of_the_issuer(self, world: World, beside: str | None) -> None:
        await world.add("ann", iss="https://idp.example.com")
        if beside is not None:
            await world.add("ann", iss=beside)
        says = "another spelling of this issuer"
        explanation = await refused(world, "subject_under_other_issuer", says, reason="user_not_found")
        assert "all identities" not in explanation.summary
        await world.apply(explanation.fix)
        assert await world.decide(token("ann")) is None

    async def test_an_empty_database(self, world: World) -> None:
        await refused(world, "user_unknown", reason="user_not_found")

    async def test_another_schema(self, ann: World) -> None:
        ann.config["postgres"]["schema"] = "fresh"
        explanation = await refused(ann, "store_schema_differs", "postgres.schema", "public")
        await ann.apply(explanation.fix)
        assert await ann.decide(token("ann")) is None

    async def test_no_usage_of_the_schema(self, ann: World) -> None:
        await ann.sql("CREATE SCHEMA apart")
        for table in ("users", "identities", "revocations", "gateway_migrations"):
            await ann.sql(f"ALTER TABLE IF EXISTS {table} SET SCHEMA apart")
        async with role(ann) as name:
            ann.config["postgres"] |= {"schema": "apart", "dsn": _dsn(ann, user=f"{name}:p")}
            await refused(ann, "store_permission_denied", f"{name} may not use schema apart", "GRANT USAGE")

    async def test_no_right_to_a_table(self, ann: World) -> None:
        async with role(ann, "SELECT ON users, revocations") as name:
            ann.config["postgres"]["dsn"] = _dsn(ann, user=f"{name}:p")
            explanation = await refused(ann, "store_permission_denied", "lacks SELECT on identities")
            await ann.apply(explanation.fix)
            assert await ann.decide(token("ann")) is None

    @pytest.mark.parametrize("column", ["tenant", "status", "roles"])
    async def test_a_renamed_column(self, ann: World, column: str) -> None:
        await ann.sql(f"ALTER TABLE users RENAME COLUMN {column} TO {column}_old")
        await refused(ann, "store_column_differs", f"sers has no column {column}", "rename it back")

    async def test_a_column_of_another_type(self, ann: World) -> None:
        await ann.sql("ALTER TABLE users RENAME COLUMN roles TO roles_old")
        await ann.sql("ALTER TABLE users ADD COLUMN roles jsonb")
        await refused(ann, "store_column_differs", "sers.roles is jsonb", reason="user_store_unavailable")

    async def test_row_level_security(self, ann: World) -> None:
        async with role(ann, _ALL) as name:
            await ann.sql("ALTER TABLE users ENABLE ROW LEVEL SECURITY")
            ann.config["postgres"]["dsn"] = _dsn(ann, user=f"{name}:p")
            await refused(ann, "store_row_security", "row-level security", name)

    async def test_a_dropped_table(self, ann: World) -> None:
        await ann.sql("DROP TABLE revocations CASCADE")
        await refused(ann, "store_not_migrated", "no table revocations")


class TestRedis:
    @pytest.mark.parametrize(
        ("url", "says"),
        [("redis://127.0.0.1:{}", "Start Redis"), ("redis://redis.invalid:6379", "resolver (DNS)")],
    )
    async def test_one_that_is_away(self, ann: World, url: str, says: str) -> None:
        ann.config["redis"]["url"] = url.format(unused_port())
        explanation = await ann.explain(token("ann"))
        assert (explanation.decision, explanation.cause) == ("allow", "store_unreachable")
        assert explanation.fix is not None
        assert says in explanation.fix.text
        assert never.broken(explanation) == []


def test_an_error_is_looked_for_in_all_that_caused_it() -> None:
    """A group has several, and each has its own."""
    inner = TimeoutError()
    outer = RuntimeError()
    outer.__cause__ = ExceptionGroup("both", [inner, ValueError()])
    assert inner in [*outage._chain(outer)]
