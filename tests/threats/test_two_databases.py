"""One Redis, two systems of record: a gateway of one neither reads nor writes the data of the other."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis
from typer.testing import CliRunner, Result

from gateway.cli.main import app
from gateway.stores.redis.ownership import Owner
from gateway.stores.system_of_record import SystemOfRecord
from tests import tokens
from tests.conftest import _Databases
from tests.harness import House, open_house, token
from tests.stores.cable import Cable

PREFIX = "shared:"
FOREIGN = "belongs to another database"


@dataclass
class Pair:
    """Two gateways with one Redis, one prefix and one issuer, each with a database of its own."""

    a: House
    b: House


@pytest.fixture
async def second_dsn(_databases: _Databases, _template: str) -> AsyncIterator[str]:
    async with _databases.copy("gateway_second", _template) as dsn:
        yield dsn


@pytest.fixture
async def pair(tmp_path: Path, dsn: str, second_dsn: str, redis_url: str) -> AsyncIterator[Pair]:
    """A has the data in Redis before B starts."""
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(open_house(folder(tmp_path, "a"), dsn, redis_url, prefix=PREFIX))
        await served_by_redis(a)
        b = await stack.enter_async_context(
            open_house(folder(tmp_path, "b"), second_dsn, redis_url, prefix=PREFIX)
        )
        yield Pair(a, b)


def folder(parent: Path, name: str) -> Path:
    made = parent / name
    made.mkdir()
    return made


async def served_by_redis(house: House, subject: str = "member") -> None:
    """Ask until Redis answers for a user: until then Postgres is asked for everything."""
    labels = {"issuer": "main", "tier": "redis", "result": "found"}
    before = await house.metric("gateway_user_lookups_total", **labels)

    async def served() -> bool:
        await house.request("/private/x", token=token(subject))
        return await house.metric("gateway_user_lookups_total", **labels) > before

    await until(served)


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def add_user(house: House, subject: str) -> str:
    rows = await house.sql(
        "WITH u AS (INSERT INTO users (status) VALUES ('active') RETURNING id), i AS ("
        " INSERT INTO identities (issuer, subject, user_id) SELECT $1, $2, id FROM u RETURNING user_id)"
        " SELECT user_id::text AS id FROM i",
        tokens.ISSUER, subject,
    )  # fmt: skip
    return str(rows[0]["id"])


async def user_of(house: House, subject: str) -> str:
    rows = await house.sql("SELECT user_id::text AS id FROM identities WHERE subject = $1", subject)
    return str(rows[0]["id"])


async def dump(house: House) -> dict[bytes, bytes]:
    """Return all keys that a gateway has left below the prefix."""
    async with Redis.from_url(house.redis_url) as client:
        keys = [key async for key in client.scan_iter(f"{PREFIX}*")]
        return {key: value for key in keys if (value := await client.dump(key)) is not None}


async def readyz(house: House) -> dict[str, dict[str, str | None]]:
    answer: dict[str, dict[str, dict[str, str | None]]] = json.loads((await house.admin("/readyz")).content)
    return answer["dependencies"]


async def test_a_user_of_one_database_does_not_exist_at_the_other(pair: Pair) -> None:
    await add_user(pair.a, "only-a")
    await served_by_redis(pair.a, "only-a")
    refused = await pair.b.request("/private/x", token=token("only-a"))
    assert (refused.status, refused.code) == (401, "user_not_found")
    for _ in range(3):
        received = await pair.b.forwarded("/private/x", token=token("member"))
        assert received.values(b"X-User-Id") == [(await user_of(pair.b, "member")).encode()]


async def test_revocations_of_one_database_do_not_hit_the_other(pair: Pair) -> None:
    raw = token("member", jti="revoked-at-a")
    await pair.a.sql("INSERT INTO revocations (kind, issuer, value) VALUES ('jti', 'main', 'revoked-at-a')")

    async def revoked() -> bool:
        return (await pair.a.request("/private/x", token=raw)).status == 401

    await until(revoked)
    assert (await pair.b.request("/private/x", token=raw)).status == 200
    await pair.b.sql("INSERT INTO revocations (kind, issuer) VALUES ('issuer', 'main')")
    assert (await pair.b.request("/private/x", token=raw)).code in {"tokens_revoked_before", "token_revoked"}
    assert (await pair.a.request("/private/x", token=token("member"))).status == 200


async def test_the_other_changes_nothing_there(
    tmp_path: Path, dsn: str, second_dsn: str, redis_url: str
) -> None:
    async with open_house(folder(tmp_path, "a"), dsn, redis_url, prefix=PREFIX) as a:
        await a.sql("INSERT INTO revocations (kind, issuer, value) VALUES ('jti', 'main', 'one')")
        await served_by_redis(a)
    before = await dump(a)
    assert before
    async with open_house(folder(tmp_path, "b"), second_dsn, redis_url, prefix=PREFIX) as b:
        for subject in ("member", "ghost", "suspended"):
            await b.request("/private/x", token=token(subject))
        await b.sql("UPDATE users SET status = 'suspended' WHERE roles = '{reader,writer}'")
        await b.sql("INSERT INTO revocations (kind, issuer, value) VALUES ('jti', 'main', 'two')")
        await b.sql("DELETE FROM revocations")
        await b.sql("TRUNCATE revocations")
        await b.sql("SELECT gateway_flush()")

        async def seen() -> bool:
            response = await b.request("/private/x", token=token("member"))
            return response.status == 401 and response.code == "user_suspended"

        await until(seen)
        # Long enough for what is done every second, and with each heartbeat.
        await until(lambda: metric_is(b, "gateway_redis_foreign", 1.0))
        await asyncio.sleep(1.5)
        after = await dump(b)
        assert after.items() <= before.items()
        # These end by themselves.
        assert before.keys() - after.keys() <= {b"shared:epoch", b"shared:revocations:turn"}


async def metric_is(house: House, name: str, value: float, **labels: str) -> bool:
    return await house.metric(name, **labels) == value


async def test_readyz_and_a_metric_report_the_conflict(pair: Pair) -> None:
    for _ in range(3):
        await pair.b.request("/private/x", token=token("member"))
    found = (await readyz(pair.b))["redis"]
    assert found["status"] == "down"
    detail = found["detail"] or ""
    database = (await pair.a.sql("SELECT current_database() AS name"))[0]["name"]
    system = (await pair.a.sql("SELECT system_identifier::text AS id FROM pg_control_system()"))[0]["id"]
    assert FOREIGN in detail
    assert database in detail
    assert system in detail
    assert await pair.b.metric("gateway_redis_foreign") == 1.0
    assert await pair.a.metric("gateway_redis_foreign") == 0.0
    assert (await readyz(pair.a))["redis"]["status"] == "up"


async def test_it_is_logged_once(tmp_path: Path, dsn: str, redis_url: str) -> None:
    async with (
        open_house(folder(tmp_path, "a"), dsn, redis_url, prefix=PREFIX) as house,
        Redis.from_url(redis_url) as client,
    ):
        await served_by_redis(house)
        own = await client.get("shared:owner")
        other = SystemOfRecord(1, "other", "public", "7001")
        await client.set("shared:owner", Owner("id", other).encode())
        await until(lambda: metric_is(house, "gateway_redis_foreign", 1.0))
        for _ in range(25):
            assert (await house.request("/private/x", token=token("member"))).status == 200
            await asyncio.sleep(0.1)
        (down,) = house.events("dependency_down")
        assert FOREIGN in str(down["detail"])
        assert [line for line in house.log.getvalue().splitlines() if FOREIGN in line] == [
            line for line in house.log.getvalue().splitlines() if "dependency_down" in line
        ]
        assert own is not None
        await client.set("shared:owner", own)
        await until(lambda: metric_is(house, "gateway_redis_foreign", 0.0))
        await served_by_redis(house)

        async def up() -> bool:
            return len(house.events("dependency_up")) == 1

        await until(up)


async def test_both_start_at_once_on_an_empty_redis(
    tmp_path: Path, dsn: str, second_dsn: str, redis_url: str
) -> None:
    async with AsyncExitStack() as stack:
        a, b = await asyncio.gather(
            stack.enter_async_context(open_house(folder(tmp_path, "a"), dsn, redis_url, prefix=PREFIX)),
            stack.enter_async_context(
                open_house(folder(tmp_path, "b"), second_dsn, redis_url, prefix=PREFIX)
            ),
        )
        ids = [await user_of(house, "member") for house in (a, b)]
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            for house, user_id in zip((a, b), ids, strict=True):
                received = await house.forwarded("/private/x", token=token("member"))
                assert received.values(b"X-User-Id") == [user_id.encode()]
        foreign = [await house.metric("gateway_redis_foreign") for house in (a, b)]
        assert sorted(foreign) == [0.0, 1.0]


async def test_redis_that_is_emptied_again_and_again(pair: Pair) -> None:
    """For each next claimant: every gateway answers by its own database."""
    ids = [await user_of(house, "member") for house in (pair.a, pair.b)]
    async with Redis.from_url(pair.a.redis_url) as client:
        for _ in range(20):
            await client.flushall()
            for house, user_id in zip((pair.a, pair.b), ids, strict=True):
                for _ in range(3):
                    received = await house.forwarded("/private/x", token=token("member"))
                    assert received.values(b"X-User-Id") == [user_id.encode()]


async def test_data_of_no_owner_is_claimed_and_void(
    tmp_path: Path, dsn: str, second_dsn: str, redis_url: str
) -> None:
    """As an older version leaves it: then whose users are cached there is not known."""
    async with open_house(folder(tmp_path, "a"), dsn, redis_url, prefix=PREFIX) as a:
        await add_user(a, "only-a")
        await served_by_redis(a, "only-a")
    async with Redis.from_url(redis_url) as client:
        assert await client.delete("shared:owner") == 1
    async with open_house(folder(tmp_path, "b"), second_dsn, redis_url, prefix=PREFIX) as b:
        assert (await b.request("/private/x", token=token("only-a"))).code == "user_not_found"
        await served_by_redis(b)
        assert await b.metric("gateway_redis_foreign") == 0.0


@pytest.mark.parametrize("value", ["", "{}", "not JSON", '{"id": 5}'])
async def test_an_owner_that_cannot_be_read_is_another(
    tmp_path: Path, dsn: str, redis_url: str, value: str
) -> None:
    async with Redis.from_url(redis_url) as client:
        await client.set("shared:owner", value)
    async with open_house(folder(tmp_path, "a"), dsn, redis_url, prefix=PREFIX) as a:
        assert (await a.request("/private/x", token=token("member"))).status == 200
        assert FOREIGN in ((await readyz(a))["redis"]["detail"] or "")
    async with Redis.from_url(redis_url) as client:
        assert await client.keys("shared:*") == [b"shared:owner"]


# Handing over --------------------------------------------------------------------------------------


def configured(folder: Path, house: House) -> Path:
    """Write a configuration file with the stores of a gateway, for commands."""
    config = folder / "gateway.yaml"
    config.write_text(
        json.dumps(
            {
                "issuers": [
                    {
                        "name": "main",
                        "issuer": tokens.ISSUER,
                        "audiences": ["api"],
                        "keys": {"discovery": True},
                    }
                ],
                "postgres": {"dsn": house.dsn},
                "redis": {"url": house.redis_url, "prefix": PREFIX},
                "upstreams": {"raw": {"urls": ["http://127.0.0.1:9"]}},
                "routes": [{"name": "all", "match": {"path": "/**"}, "upstream": "raw"}],
            }
        )
    )
    return config


async def command(config: Path, *words: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, app, [*words, "--config", str(config)])


async def test_redis_is_handed_over_by_a_command(tmp_path: Path, pair: Pair) -> None:
    await pair.a.set_key("revoked:jti:elsewhere:of-another-program", "1")
    await pair.a.sql("INSERT INTO revocations (kind, issuer, value) VALUES ('jti', 'main', 'of-a')")
    async with Redis.from_url(pair.a.redis_url) as client:

        async def mirrored() -> bool:
            return bool(await client.exists("shared:revoked:jti:main:of-a"))

        await until(mirrored)
        config = configured(tmp_path, pair.b)
        refused = await command(config, "redis", "claim")
        assert refused.exit_code == 2
        assert "--yes" in refused.output
        done = await command(config, "redis", "claim", "--yes", "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["claimed"] is True
        assert json.loads(done.stdout)["from"]["schema"] == "public"
        assert not await client.exists("shared:revoked:jti:main:of-a")
        assert await client.exists("shared:revoked:jti:elsewhere:of-another-program")
    audited = await pair.b.sql("SELECT action, target FROM audit")
    assert [tuple(row) for row in audited] == [("redis.claim", "redis")]
    await until(lambda: metric_is(pair.a, "gateway_redis_foreign", 1.0))
    await served_by_redis(pair.b)
    assert await pair.b.metric("gateway_redis_foreign") == 0.0
    assert (await pair.b.request("/private/x", token=token("member", jti="of-a"))).status == 200
    received = await pair.a.forwarded("/private/x", token=token("member"))
    assert received.values(b"X-User-Id") == [(await user_of(pair.a, "member")).encode()]
    again = await command(config, "redis", "claim", "--yes", "--json")
    assert json.loads(again.stdout) == {"claimed": False, "from": None, "cached_users_deleted": 0}


async def test_commands_of_the_other_write_nothing_there(tmp_path: Path, pair: Pair) -> None:
    config = configured(tmp_path, pair.b)
    revoked = await command(config, "revoke", "jti", "main", "some-jti")
    assert revoked.exit_code == 3
    assert FOREIGN in revoked.output
    assert "recorded in Postgres" in revoked.output
    async with Redis.from_url(pair.a.redis_url) as client:
        assert not await client.exists("shared:revoked:jti:main:some-jti")
    lifted = await command(config, "revocations", "lift", "jti", "main", "some-jti")
    assert lifted.exit_code == 3
    assert FOREIGN in lifted.output
    live = await command(config, "check", "--live", "--json")
    (owner,) = [each for each in json.loads(live.stdout)["live"] if each["name"] == "redis_owner"]
    assert owner["outcome"] == "fail"
    assert FOREIGN in owner["found"]


# Without Postgres ----------------------------------------------------------------------------------


async def test_a_gateway_that_starts_without_postgres_goes_by_its_address(
    tmp_path: Path, dsn: str, redis_url: str
) -> None:
    async with Cable(dsn) as cable:
        through = cable.url
        async with open_house(folder(tmp_path, "a"), through, redis_url, prefix=PREFIX) as a:
            user_id = await user_of(a, "member")
            await served_by_redis(a)
            await cable.pull()
            async with open_house(
                folder(tmp_path, "again"), through, redis_url, prefix=PREFIX, seeded=False
            ) as again:
                received = await again.forwarded("/private/x", token=token("member"))
                assert received.values(b"X-User-Id") == [user_id.encode()]
            elsewhere = urlsplit(through)._replace(path="/another").geturl()
            async with open_house(
                folder(tmp_path, "other"), elsewhere, redis_url, prefix=PREFIX, seeded=False
            ) as other:
                assert (await other.request("/private/x", token=token("member"))).status == 503
