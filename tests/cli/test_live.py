"""`gateway check --live`, against real stores and against none."""

import asyncio
import json
import socket
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis
from typer.testing import CliRunner, Result

from gateway.cli.check import live
from gateway.cli.check.result import Check, CheckResult
from gateway.cli.main import app
from gateway.cli.terminal import output
from gateway.demo.embedded import EmbeddedRedis
from gateway.settings import Settings, load
from gateway.stores.redis.ownership import Owner
from gateway.stores.system_of_record import SystemOfRecord
from tests import tokens
from tests.cli.gateway_command import ISS
from tests.harness import unused_port, write_jwks
from tests.sql import as_role, execute
from tests.stores.cable import Pushless
from tests.stores.postgres.pgbouncer import pgbouncer


def written(folder: Path, dsn: str, redis_url: str, upstream: str, *, keys: str | None = None) -> Path:
    jwks = write_jwks(folder / "jwks.json", tokens.rsa_key("main"))
    config = folder / "gateway.yaml"
    config.write_text(
        f"""
issuers:
  - {{name: main, issuer: "{ISS}", audiences: [api], keys: {keys or f"{{jwks_file: {jwks}}}"}}}
postgres: {{dsn: "{dsn}"}}
redis: {{url: "{redis_url}"}}
upstreams:
  echo: {{urls: ["{upstream}"]}}
routes:
  - {{name: all, match: {{path: /**}}, upstream: echo}}
"""
    )
    return config


def check(config: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["check", "--live", "--config", str(config), *options])


def outcomes(result: Result) -> dict[str, str]:
    return {entry["name"]: entry["outcome"] for entry in json.loads(result.stdout)["live"]}


def entry(result: Result, name: str) -> dict[str, str]:
    (found,) = [each for each in json.loads(result.stdout)["live"] if each["name"] == name]
    assert isinstance(found, dict)
    return found


@pytest.fixture
def nowhere() -> int:
    return unused_port()


@pytest.fixture
def serving() -> Iterator[str]:
    """The URL of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_all_is_well(dsn: str, redis_url: str, tmp_path: Path, serving: str) -> None:
    result = check(written(tmp_path, dsn, redis_url, serving), "--json")

    assert result.exit_code == output.OK, result.output
    assert outcomes(result) == {
        "postgres": "pass",
        "stream:postgres": "pass",
        "redis": "pass",
        "redis_owner": "pass",
        "stream:redis": "pass",
        "issuer:main": "pass",
        "upstream:echo": "pass",
    }
    assert set(entry(result, "postgres")) == {"name", "outcome", "found", "fix"}
    assert "pooler" not in entry(result, "postgres")["found"]


def test_a_role_that_may_not_create_users(dsn: str, redis_url: str, tmp_path: Path, serving: str) -> None:
    """The configuration says that it creates some."""
    config = written(tmp_path, dsn, redis_url, serving)
    text = config.read_text().replace("audiences: [api],", "audiences: [api], provisioning: {},")
    provisioning = text.replace("upstream: echo}", "upstream: echo, missing_user: provision}")
    with reading_role(dsn) as own:
        config.write_text(provisioning.replace(dsn, own))
        found = entry(check(config, "--json"), "postgres")
        assert (found["outcome"], "may not create users" in found["found"]) == ("warn", True)

        sql(dsn, found["fix"].partition(": ")[2])
        assert entry(check(config, "--json"), "postgres")["outcome"] == "pass"

        sql(dsn, "DROP FUNCTION gateway_provision_user")
        found = entry(check(config, "--json"), "postgres")
        assert (found["outcome"], found["fix"]) == ("warn", "run `gateway migrate`")
        config.write_text(text.replace(dsn, own).replace("provisioning: {},", ""))
        assert entry(check(config, "--json"), "postgres")["outcome"] == "pass"


def test_rights_that_only_limits_need(dsn: str, redis_url: str, tmp_path: Path, serving: str) -> None:
    with reading_role(dsn) as own, Redis.from_url(redis_url) as client:
        client.execute_command(
            "ACL", "SETUSER", "ann", "on", ">pw", "~gateway:*", "+@all", "-zadd", "-pexpireat"
        )
        config = written(tmp_path, own, redis_url.replace("redis://", "redis://ann:pw@"), serving)
        try:
            result = check(config, "--json")
            assert [entry(result, name)["outcome"] for name in ("postgres", "redis")] == ["pass", "pass"]

            text = config.read_text()
            config.write_text(f"{text}limits:\n  - {{name: daily, per: user, quota: 10/day}}\n")
            result = check(config, "--json")
            found = entry(result, "postgres")
            assert (found["outcome"], "may not copy the quotas" in found["found"]) == ("warn", True)
            refused = entry(result, "redis")["found"]
            assert ("ZADD" in refused, "PEXPIREAT" in refused, "ZRANGE" in refused) == (True, True, False)
            assert client.keys("*") == []

            sql(dsn, found["fix"].partition(": ")[2])
            client.execute_command("ACL", "SETUSER", "ann", "+zadd", "+pexpireat")
            result = check(config, "--json")
            assert [entry(result, name)["outcome"] for name in ("postgres", "redis")] == ["pass", "pass"]
            assert client.keys("*") == []
        finally:
            client.acl_deluser("ann")


def test_older_tables_do_not_hide_missing_requirements(
    dsn: str, redis_url: str, tmp_path: Path, serving: str
) -> None:
    """Requests under a quota are refused there, so an operator must hear of both."""
    sql(dsn, "DROP FUNCTION gateway_quota_used", "DROP FUNCTION gateway_save_quotas")
    sql(dsn, "DELETE FROM gateway_migrations WHERE version >= 15")
    config = written(tmp_path, dsn, redis_url, serving)
    config.write_text(f"{config.read_text()}limits:\n  - {{name: daily, per: user, quota: 10/day}}\n")

    found = entry(check(config, "--json"), "postgres")

    assert found["outcome"] == "warn"
    assert "the tables are older than this version" in found["found"]
    assert "no functions for quotas, so requests under them are refused" in found["found"]
    assert found["fix"] == "run `gateway migrate` of this version"


@contextmanager
def reading_role(dsn: str) -> Iterator[str]:
    """The DSN of a role that may read the tables, and nothing else."""
    role = f"live_{uuid.uuid4().hex}"
    sql(dsn, f"CREATE ROLE {role} LOGIN PASSWORD 'pw'", f"GRANT USAGE ON SCHEMA public TO {role}")
    sql(dsn, f"GRANT SELECT ON users, identities, revocations TO {role}")
    try:
        yield as_role(dsn, role, "pw")
    finally:
        sql(dsn, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def sql(dsn: str, *statements: str) -> None:
    """Execute statements as the owner of the tables."""
    asyncio.run(execute(dsn, *statements))


def test_people_get_a_line_for_each(dsn: str, redis_url: str, tmp_path: Path, serving: str) -> None:
    result = check(written(tmp_path, dsn, redis_url, serving))

    assert result.exit_code == output.OK
    lines = [line for line in result.stdout.splitlines() if line.startswith("ok ")]
    assert {line.split()[1] for line in lines} == {
        "postgres:",
        "stream:postgres:",
        "redis:",
        "redis_owner:",
        "stream:redis:",
        "issuer:main:",
        "upstream:echo:",
    }
    assert "password" not in result.output


def test_stores_that_are_not_there(tmp_path: Path, nowhere: int, serving: str) -> None:
    config = written(
        tmp_path,
        f"postgresql://gateway:geheim@127.0.0.1:{nowhere}/gateway",
        f"redis://:geheim@127.0.0.1:{nowhere}/0",
        serving,
    )
    result = check(config, "--json")

    assert result.exit_code == output.UNREACHABLE
    assert (outcomes(result)["postgres"], outcomes(result)["redis"]) == ("fail", "fail")
    assert outcomes(result)["stream:redis"] == "fail"
    assert "start it" in entry(result, "stream:redis")["fix"]
    assert "start it" in entry(result, "postgres")["fix"]
    assert str(nowhere) in entry(result, "redis")["found"]
    assert "geheim" not in result.output


def test_an_upstream_that_is_not_there_is_a_warning(
    dsn: str, redis_url: str, tmp_path: Path, nowhere: int
) -> None:
    result = check(written(tmp_path, dsn, redis_url, f"http://127.0.0.1:{nowhere}"), "--json")

    assert result.exit_code == output.OK
    assert outcomes(result)["upstream:echo"] == "warn"


def test_an_issuer_that_is_not_there(
    dsn: str, redis_url: str, tmp_path: Path, nowhere: int, serving: str
) -> None:
    keys = f"{{jwks_uri: 'http://127.0.0.1:{nowhere}/jwks'}}"
    result = check(written(tmp_path, dsn, redis_url, serving, keys=keys), "--json")

    assert result.exit_code == output.UNREACHABLE
    assert outcomes(result)["issuer:main"] == "fail"


def test_a_file_of_keys_that_is_not_there(dsn: str, redis_url: str, tmp_path: Path, serving: str) -> None:
    keys = f"{{jwks_file: '{tmp_path}/absent.json'}}"
    result = check(written(tmp_path, dsn, redis_url, serving, keys=keys), "--json")

    assert result.exit_code == output.DENIED
    assert "absent.json" in entry(result, "issuer:main")["found"]


def test_tables_that_are_missing(empty_dsn: str, redis_url: str, tmp_path: Path, serving: str) -> None:
    result = check(written(tmp_path, empty_dsn, redis_url, serving), "--json")

    assert result.exit_code == output.DENIED
    assert outcomes(result)["postgres"] == "fail"
    assert "gateway migrate" in json.dumps(entry(result, "postgres"))


def test_a_pooler_that_delivers_no_notifications(
    dsn: str, redis_url: str, tmp_path: Path, serving: str
) -> None:
    with pgbouncer(dsn) as pooler:
        config = written(tmp_path, pooler.dsn, redis_url, serving)
        result = check(config, "--json")
        assert result.exit_code == output.DENIED
        assert entry(result, "stream:postgres")["outcome"] == "fail"
        assert (
            "a pooler is in between, and gets statements without names" in entry(result, "postgres")["found"]
        )
        assert (
            entry(result, "stream:postgres")["fix"]
            == "set `postgres.listen_dsn` to an address that bypasses it"
        )

        text = config.read_text().replace("postgres: {", f'postgres: {{listen_dsn: "{dsn}", ')
        config.write_text(text)
        result = check(config, "--json")
        assert entry(result, "stream:postgres")["outcome"] == "pass", result.output


async def test_a_proxy_that_swallows_pushes(dsn: str, redis_url: str, tmp_path: Path, serving: str) -> None:
    async with Pushless(redis_url) as proxy:
        config = written(tmp_path, dsn, proxy.url, serving)
        result = await asyncio.to_thread(check, config, "--json")
    assert result.exit_code == output.DENIED
    found = outcomes(result)
    assert (found["redis"], found["stream:redis"]) == ("pass", "fail")
    assert "a proxy swallows pushes" in entry(result, "stream:redis")["found"]
    assert entry(result, "stream:redis")["fix"] == "point `redis.url` past it"
    with Redis.from_url(redis_url) as client:
        assert client.keys("*") == []


def test_a_listen_dsn_that_leads_to_another_database(
    dsn: str, empty_dsn: str, redis_url: str, tmp_path: Path, serving: str
) -> None:
    config = written(tmp_path, dsn, redis_url, serving)
    config.write_text(config.read_text().replace("postgres: {", f'postgres: {{listen_dsn: "{empty_dsn}", '))
    result = check(config, "--json")

    assert result.exit_code == output.DENIED
    assert "`postgres.listen_dsn` leads to database" in entry(result, "stream:postgres")["found"]
    assert "password" not in result.output


def test_a_listen_dsn_that_leads_nowhere(
    dsn: str, redis_url: str, tmp_path: Path, serving: str, nowhere: int
) -> None:
    config = written(tmp_path, dsn, redis_url, serving)
    gone = f"postgresql://127.0.0.1:{nowhere}/gateway"
    config.write_text(config.read_text().replace("postgres: {", f'postgres: {{listen_dsn: "{gone}", '))
    result = check(config, "--json")

    assert result.exit_code == output.UNREACHABLE
    assert (outcomes(result)["postgres"], outcomes(result)["stream:postgres"]) == ("pass", "fail")
    assert "postgres.listen_dsn" in entry(result, "stream:postgres")["fix"]


def test_a_right_that_is_missing_in_redis(dsn: str, redis_url: str, tmp_path: Path, serving: str) -> None:
    with Redis.from_url(redis_url) as client:
        client.execute_command(
            "ACL", "SETUSER", "ann", "on", ">pw", "~gateway:*", "+@all", "-hscan", "-client"
        )
    config = written(tmp_path, dsn, redis_url.replace("redis://", "redis://ann:pw@"), serving)
    result = check(config, "--json")

    assert result.exit_code == output.DENIED
    assert "HSCAN" in entry(result, "redis")["found"]
    assert "CLIENT TRACKING" in entry(result, "redis")["found"]
    with Redis.from_url(redis_url) as client:
        client.acl_deluser("ann")
        assert client.keys("*") == []


@pytest.mark.parametrize("whose", ["own", "another's", "none"])
def test_a_redis_of_another_database_is_not_written_to(
    dsn: str, redis_url: str, tmp_path: Path, serving: str, whose: str
) -> None:
    config = written(tmp_path, dsn, redis_url, serving)
    with Redis.from_url(redis_url) as client:
        if whose == "own":
            claimed = CliRunner().invoke(app, ["redis", "claim", "--yes", "--config", str(config)])
            assert claimed.exit_code == 0, claimed.output
        elif whose == "another's":
            client.set("gateway:owner", Owner("id", SystemOfRecord(1, "b", "public", "7001")).encode())
        before = sorted(client.keys("*"))
        client.config_resetstat()
        result = check(config, "--json")
        tried = "cmdstat_hset" in client.info("commandstats")
        assert sorted(client.keys("*")) == before

    foreign = whose == "another's"
    assert tried is not foreign
    assert entry(result, "redis")["outcome"] == ("warn" if foreign else "pass")
    assert entry(result, "stream:redis")["outcome"] == ("warn" if foreign else "pass")
    assert entry(result, "redis_owner")["outcome"] == ("fail" if foreign else "pass")


def test_a_redis_that_evicts(
    dsn: str, redis_url: str, tmp_path: Path, serving: str, redis_server: EmbeddedRedis
) -> None:
    with Redis.from_url(redis_url) as client:
        client.config_set("maxmemory", "512mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            result = check(written(tmp_path, dsn, redis_url, serving), "--json")
        finally:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", "0")

    assert result.exit_code == output.OK
    assert entry(result, "redis")["outcome"] == "warn"
    assert "noeviction" in entry(result, "redis")["fix"]


def test_a_configuration_with_mistakes_tries_nothing(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text("issuers: 1\n")
    result = check(config, "--json")

    assert result.exit_code == output.USAGE
    assert "live" not in json.loads(result.stdout)


def settings_of(tmp_path: Path) -> Settings:
    return load(written(tmp_path, "postgresql://h/d", "redis://h", "http://127.0.0.1:9"))


def test_a_check_that_hangs_or_breaks_takes_no_other_along(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def hangs() -> CheckResult:
        await asyncio.Event().wait()
        raise AssertionError

    async def breaks() -> CheckResult:
        raise ZeroDivisionError("odd")

    async def works() -> CheckResult:
        return CheckResult("works", "pass", "well")

    def plan(_: Settings) -> Iterable[Check]:
        return [Check("hangs", hangs), Check("breaks", breaks), Check("works", works)]

    monkeypatch.setattr(live, "PLANS", (plan,))
    monkeypatch.setattr(live, "SECONDS", 0.05)
    told: list[CheckResult] = []
    found = live.try_all(settings_of(tmp_path), told.append)

    assert [(each.name, each.outcome) for each in found] == [
        ("hangs", "fail"),
        ("breaks", "fail"),
        ("works", "pass"),
    ]
    assert {each.name for each in told} == {"hangs", "breaks", "works"}
    assert told[-1].name == "hangs"
    assert live.exit_code(found) == output.UNREACHABLE
    assert live.exit_code(found[1:]) == output.DENIED
