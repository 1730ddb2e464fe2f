"""A token that another program has revoked in Redis only stays refused, even if Redis loses its keys."""

import asyncio
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import asyncpg
import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.core.revocations import Learning, Learnt, Target
from gateway.demo.embedded import EmbeddedRedis
from gateway.identity.revocations.learnt_revocations import LearntRevocations
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.directory.revocation_rows import RevocationRows
from gateway.stores.redis.blacklist import RedisBlacklist
from gateway.telemetry.metrics import Metrics
from tests.harness import House, open_house, token
from tests.sockets import Response
from tests.threats.test_two_databases import folder, served_by_redis, until, user_of

PREFIX = "gateway:"
JTI = "of-another-program"
KEY = f"{PREFIX}revoked:jti:main:{JTI}"


@pytest.fixture
async def server() -> AsyncIterator[EmbeddedRedis]:
    """A Redis of the test's own: its settings are changed, and it is halted."""
    redis = EmbeddedRedis()
    await asyncio.to_thread(redis.start)
    yield redis
    await asyncio.to_thread(redis.stop)


@asynccontextmanager
async def gateway(tmp_path: Path, dsn: str, redis_url: str, name: str = "a") -> AsyncIterator[House]:
    async with open_house(
        folder(tmp_path, name), dsn, redis_url, prefix=PREFIX, seeded=name == "a",
        redis={"url": redis_url, "prefix": PREFIX, "timeout": "250ms", "connect_timeout": "500ms"},
    ) as house:  # fmt: skip
        await served_by_redis(house)
        yield house


@pytest.fixture
async def house(tmp_path: Path, dsn: str, server: EmbeddedRedis) -> AsyncIterator[House]:
    async with gateway(tmp_path, dsn, server.url) as house:
        yield house


async def ask(house: House, raw: bytes) -> Response:
    return await house.request("/private/x", token=raw)


async def refused(house: House, raw: bytes) -> None:
    async def no() -> bool:
        return (await ask(house, raw)).status == 401

    await until(no)


async def learnt(house: House) -> list[asyncpg.Record]:
    return await house.sql("SELECT kind, issuer, value, revoked_by FROM learnt_revocations")


async def is_learnt(house: House) -> bool:
    return bool(await learnt(house))


async def pause(client: "Redis", _: EmbeddedRedis) -> None:
    await client.execute_command("CLIENT", "PAUSE", "3000", "ALL")  # type: ignore[no-untyped-call] # has no annotations


async def ask_for_a_password(client: "Redis", _: EmbeddedRedis) -> None:
    await client.config_set("requirepass", "other")
    await client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")  # type: ignore[no-untyped-call] # has no annotations


async def run_out_of_clients(client: "Redis", _: EmbeddedRedis) -> None:
    await client.config_set("maxclients", 1)
    await client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")  # type: ignore[no-untyped-call] # has no annotations


async def halt(client: "Redis", server: EmbeddedRedis) -> None:
    pid = int((await client.info("server"))["process_id"])
    os.kill(pid, signal.SIGSTOP)
    asyncio.get_running_loop().call_later(3, os.kill, pid, signal.SIGCONT)


async def empty(client: "Redis", _: EmbeddedRedis) -> None:
    await client.flushall()


async def restart(_: "Redis", server: EmbeddedRedis) -> None:
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)


async def evict(client: "Redis", _: EmbeddedRedis) -> None:
    """Let Redis throw everything away by itself, as one does that has too little memory."""
    await client.config_set("maxmemory-policy", "allkeys-random")
    await client.config_set("maxmemory", "1")
    with suppress(RedisError):
        await client.set("one", "more")
    await client.config_set("maxmemory", "0")
    assert (await client.info("stats"))["evicted_keys"] > 0


FAULTS: list[Callable[[Redis, EmbeddedRedis], Awaitable[None]]] = [
    pause, ask_for_a_password, run_out_of_clients, halt, empty, restart, evict,
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_refusal_outlives_redis(
    house: House, server: EmbeddedRedis, fault: Callable[[Redis, EmbeddedRedis], Awaitable[None]]
) -> None:
    raw = token("member", jti=JTI)
    assert (await ask(house, raw)).status == 200
    async with Redis.from_url(server.url) as client:
        await client.set(KEY, "1", ex=600)
        await refused(house, raw)
        await fault(client, server)
        deadline = time.monotonic() + 4
        answers = set()
        while time.monotonic() < deadline:
            answers.add((await ask(house, raw)).status)
            await asyncio.sleep(0.05)
        # While Redis is being lost, that is a fault of ours for a moment.
        assert answers <= {401, 503}
        assert (await ask(house, raw)).status == 401
        assert (await ask(house, token("member"))).status == 200


@pytest.mark.parametrize("fault", [empty, restart, evict])
@pytest.mark.parametrize("kind", ["user", "issuer", "jti"])
async def test_an_examined_key_is_put_back_into_redis(
    house: House,
    server: EmbeddedRedis,
    fault: Callable[[Redis, EmbeddedRedis], Awaitable[None]],
    kind: str,
) -> None:
    """Though no token was ever refused for it: Redis tells of the key."""
    key, value = {
        "user": (f"revoked:user:{await user_of(house, 'member')}", str(time.time())),
        "issuer": ("revoked:issuer:main", str(time.time())),
        "jti": (f"revoked:jti:main:{JTI}", "any value"),
    }[kind]
    async with Redis.from_url(server.url) as client:
        await client.set(f"{PREFIX}{key}", value, ex=600)
        await until(lambda: is_learnt(house))
        await fault(client, server)

    async def back() -> bool:
        # The first request that finds the blacklist incomplete has it filled.
        await ask(house, token("member"))
        try:
            async with Redis.from_url(server.url) as client:
                return 500 < await client.ttl(f"{PREFIX}{key}") <= 600
        except RedisError:
            return False

    await until(back)
    assert [row["revoked_by"] for row in await learnt(house)] == ["redis"]


async def test_a_deleted_key_lifts_the_learnt_revocation(house: House, server: EmbeddedRedis) -> None:
    raw = token("member", jti=JTI)
    async with Redis.from_url(server.url) as client:
        for _ in range(3):
            await client.set(KEY, "left on a train")
            await refused(house, raw)
            await until(lambda: is_learnt(house))
            await on_record(client)
            await client.delete(KEY)

            async def passes() -> bool:
                return (await ask(house, raw)).status == 200 and not await is_learnt(house)

            await until(passes)
        # A filling brings nothing back.
        await asyncio.sleep(0.5)
        assert (await ask(house, raw)).status == 200


async def on_record(client: "Redis") -> None:
    async def recorded() -> bool:
        return bool(await client.hexists(f"{PREFIX}revocations:records", KEY))

    await until(recorded)


async def test_a_key_that_is_deleted_at_once_is_not_learnt_for_good(
    house: House, server: EmbeddedRedis
) -> None:
    raw = token("member", jti=JTI)
    async with Redis.from_url(server.url) as client:
        for number in range(30):
            await client.set(KEY, "1")
            await asyncio.sleep(number * 0.01)
            await client.delete(KEY)

        async def passes() -> bool:
            return (await ask(house, raw)).status == 200 and not await is_learnt(house)

        await until(passes)
        await asyncio.sleep(1)
        assert await passes()


async def test_a_key_that_is_set_again_stays(house: House, server: EmbeddedRedis) -> None:
    raw = token("member", jti=JTI)
    async with Redis.from_url(server.url) as client:
        for number in range(20):
            await client.set(KEY, "1")
            await asyncio.sleep(number * 0.02)
            await client.delete(KEY)
        await client.set(KEY, "1")
        await refused(house, raw)
        await until(lambda: is_learnt(house))
        await on_record(client)
        await asyncio.sleep(1)
        assert await is_learnt(house)
        assert await client.exists(KEY)
        assert (await ask(house, raw)).status == 401


async def test_a_row_of_an_operator_stays(house: House, server: EmbeddedRedis) -> None:
    raw = token("member", jti=JTI)
    await house.sql(
        "INSERT INTO revocations (kind, issuer, value, revoked_by) VALUES ('jti', 'main', $1, 'ann')", JTI
    )
    await refused(house, raw)
    async with Redis.from_url(server.url) as client:
        await on_record(client)
        await client.set(KEY, "1", ex=5)
        await asyncio.sleep(0.5)
        await client.delete(KEY)
        await asyncio.sleep(0.5)
    rows = await house.sql("SELECT revoked_by, expires_at FROM ONLY revocations")
    assert [tuple(row) for row in rows] == [("ann", None)]


async def test_a_later_instant_moves_the_row(house: House, server: EmbeddedRedis) -> None:
    key = f"{PREFIX}revoked:user:{await user_of(house, 'member')}"
    now = time.time()
    async with Redis.from_url(server.url) as client:
        for instant in (now - 100, now - 50, now - 70):
            await client.set(key, repr(instant), ex=600)

            async def moved(least: float = min(instant, now - 50)) -> bool:
                rows = await house.sql(
                    "SELECT extract(epoch FROM revoked_at)::float8 AS at FROM learnt_revocations"
                )
                return len(rows) == 1 and rows[0]["at"] > least - 0.001

            await until(moved)
        rows = await house.sql("SELECT extract(epoch FROM revoked_at)::float8 AS at FROM learnt_revocations")
        assert rows[0]["at"] == pytest.approx(now - 50, abs=0.001)


async def test_two_gateways_write_one_row(tmp_path: Path, house: House, server: EmbeddedRedis) -> None:
    async with AsyncExitStack() as stack:
        b, c = [
            await stack.enter_async_context(gateway(tmp_path, house.dsn, server.url, name)) for name in "bc"
        ]
        houses = [house, b, c]
        raw = token("member", jti=JTI)
        async with Redis.from_url(server.url) as client:
            await client.set(KEY, "1", ex=600)
            for each in houses:
                await refused(each, raw)
            await until(lambda: is_learnt(house))
            await asyncio.sleep(0.5)
            assert len(await learnt(house)) == 1
            await on_record(client)
            await client.delete(KEY)
            for each in houses:

                async def passes(each: House = each) -> bool:
                    return (await ask(each, raw)).status == 200

                await until(passes)
            assert not await is_learnt(house)


async def test_it_expires_with_the_key(house: House, server: EmbeddedRedis) -> None:
    raw = token("member", jti=JTI)
    async with Redis.from_url(server.url) as client:
        await client.set(KEY, "1", ex=2)
        await refused(house, raw)

        async def passes() -> bool:
            return (await ask(house, raw)).status == 200

        await until(passes)
        rows = await house.sql("SELECT FROM revocations WHERE expires_at IS NULL OR expires_at > now()")
        assert not rows


async def test_without_the_right_it_is_said_once_and_nothing_is_refused(
    tmp_path: Path, dsn: str, server: EmbeddedRedis
) -> None:
    async with gateway(tmp_path, dsn, server.url) as house:
        await house.sql("DROP FUNCTION gateway_learn_revocations")
        raw = token("member", jti=JTI)
        async with Redis.from_url(server.url) as client:
            await client.set(KEY, "1", ex=600)
            await refused(house, raw)

            async def counted() -> bool:
                return await house.metric("gateway_revocations_learnt_total", result="failed") > 0

            await until(counted)
            assert (await ask(house, raw)).status == 401
            assert (await ask(house, token("member"))).status == 200
            assert len(house.events("revocations_not_learnt")) == 1
            # What the worker has refused it goes on refusing.
            await client.flushall()
            for _ in range(20):
                assert (await ask(house, raw)).status == 401
                await asyncio.sleep(0.1)


async def test_an_operator_lifts_it(house: House, server: EmbeddedRedis) -> None:
    """In SQL; that takes the key along."""
    raw = token("member", jti=JTI)
    async with Redis.from_url(server.url) as client:
        await client.set(KEY, "1")
        await refused(house, raw)
        await until(lambda: is_learnt(house))
        await on_record(client)
        await house.sql("SELECT gateway_lift_learnt_revocation('jti', '{main}', $1)", JTI)

        async def passes() -> bool:
            return (await ask(house, raw)).status == 200

        await until(passes)
        assert not await client.exists(KEY)
        await asyncio.sleep(1)
        assert not await is_learnt(house)


async def test_only_the_expired_row_of_a_key_is_deleted(dsn: str) -> None:
    """One key may have a row of an operator, and one that was learnt."""
    connection = await asyncpg.connect(dsn)
    postgres = Postgres(dsn)
    try:
        await connection.execute(
            "INSERT INTO revocations (kind, issuer, value) VALUES ('jti', 'main', 'x');"
            "INSERT INTO learnt_revocations (kind, issuer, value, expires_at)"
            " VALUES ('jti', 'main', 'x', now() - interval '2 hours')"
        )
        assert await postgres.prune() == 1
        assert await connection.fetchval("SELECT count(*) FROM learnt_revocations") == 0
        assert await connection.fetchval("SELECT count(*) FROM revocations") == 1
    finally:
        await postgres.close()
        await connection.close()


async def test_an_operator_lifts_a_learnt_revocation(dsn: str) -> None:
    postgres = Postgres(dsn)
    rows = RevocationRows(postgres)
    try:
        await postgres.learn([Learnt(("jti", "main", "x"), None, None)])
        assert [(row.value, row.revoked_by) for row in await rows.latest()] == [("x", "redis")]
        await rows.revoke("jti", issuer="main", value="x")
        assert await rows.lift("jti", issuers=["main", "https://idp/"], value="x") == 2
        assert await postgres.counting_revocations() == []
    finally:
        await postgres.close()


async def test_learnt_rows_are_read_with_the_right_to_read_revocations(dsn: str) -> None:
    """It has a table of its own, which no role is to be granted, and none is kept from dropping the other."""
    postgres = Postgres(dsn)
    connection = await asyncpg.connect(dsn)
    read = "SELECT value FROM gateway_learnt_revocations(NULL, NULL, NULL)"
    role = f"reader_{uuid.uuid4().hex}"
    try:
        await postgres.learn([Learnt(("jti", "main", "x"), None, None)])
        await connection.execute(f'CREATE ROLE "{role}"; SET ROLE "{role}"')
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="table revocations"):
            await connection.fetch(read)
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="table revocations"):
            await connection.fetch("SELECT gateway_lift_learnt_revocation('jti', '{main}', 'x')")
        for granted in ("SELECT", "SELECT (kind, value)"):
            await connection.execute(
                f'RESET ROLE; GRANT {granted} ON revocations TO "{role}"; SET ROLE "{role}"'
            )
            assert [row["value"] for row in await connection.fetch(read)] == ["x"]
            await connection.execute(f'RESET ROLE; REVOKE ALL ON revocations FROM "{role}"')
        await connection.execute("DROP TABLE revocations")
    finally:
        await connection.execute(f'RESET ROLE; DROP OWNED BY "{role}"; DROP ROLE "{role}"')
        await connection.close()
        await postgres.close()


@pytest.mark.parametrize("issuer", ["main", "https://idp/"])
async def test_a_revocation_that_has_a_row_is_not_learnt(dsn: str, issuer: str) -> None:
    """Else it would stay revoked when the row is lifted, for Redis lost its key before that was looked at."""
    postgres = Postgres(dsn)
    rows = RevocationRows(postgres)
    now = time.time()
    try:
        await rows.revoke("jti", issuer=issuer, value="x", expires_at=now + 600)
        user = str(uuid.uuid4())
        await rows.revoke("user", value=user)
        of_user: Target = ("user", "", user)
        of_token: Target = ("jti", "main", "x")
        for learnt, written in (
            (Learnt(of_token, None, now + 600, "https://idp/"), 0),
            (Learnt(of_token, None, now + 900, "https://idp/", seen=False), 0),
            (Learnt(of_user, now - 60, None), 0),
            # These say more than the row.
            (Learnt(of_token, None, now + 900, "https://idp/"), 1),
            (Learnt(of_user, now + 60, None), 1),
        ):
            assert await postgres.learn([learnt]) == Learning(written, (not written,)), learnt
    finally:
        await postgres.close()


async def test_a_row_that_is_lifted_stays_lifted_though_redis_was_emptied(
    house: House, server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key that mirrors a row may be lost before it is looked at."""
    emptied, written = asyncio.Event(), asyncio.Event()
    examine, learn = RedisBlacklist.examine, Postgres.learn

    async def examine_late(self: RedisBlacklist, targets: Sequence[Target]) -> Any:  # noqa: ANN401 -- as it returns
        await emptied.wait()
        return await examine(self, targets)

    async def learn_and_tell(self: Postgres, revocations: Sequence[Learnt]) -> Learning | None:
        learning = await learn(self, revocations)
        written.set()
        return learning

    monkeypatch.setattr(RedisBlacklist, "examine", examine_late)
    monkeypatch.setattr(Postgres, "learn", learn_and_tell)
    raw = token("member", jti=JTI)
    await house.sql("INSERT INTO revocations (kind, issuer, value) VALUES ('jti', 'main', $1)", JTI)
    await refused(house, raw)
    async with Redis.from_url(server.url) as client:
        await client.flushall()
    emptied.set()
    async with asyncio.timeout(10):
        await written.wait()
    assert (await ask(house, raw)).status == 401
    await house.sql("DELETE FROM revocations")

    async def passes() -> bool:
        return (await ask(house, raw)).status == 200

    await until(passes)
    assert not await is_learnt(house)


async def test_a_flood_is_bounded(dsn: str) -> None:
    postgres = Postgres(dsn)
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(
            "INSERT INTO learnt_revocations (kind, issuer, value)"
            " SELECT 'jti', 'main', 'x' || n FROM generate_series(1, 100000) AS n"
        )
        one_more = [Learnt(("jti", "main", "one-more"), None, None)]
        assert await postgres.learn(one_more) is None
        await connection.execute("DELETE FROM learnt_revocations WHERE value = 'x1'")
        assert await postgres.learn([Learnt(("jti", "main", "one-more"), None, None)]) == Learning(
            1, (False,)
        )
    finally:
        await postgres.close()
        await connection.close()


def learnt_revocations(postgres: Postgres | None = None) -> LearntRevocations:
    return LearntRevocations(
        cast("Any", None), cast("Any", postgres), {"main": "https://idp/"}, Metrics(), hearing=lambda: None
    )


@pytest.mark.parametrize(
    ("target", "fits"),
    [
        (("jti", "main", "one"), True),
        (("jti", "main", ""), False),
        (("jti", "other", "one"), False),
        (("jti", "main", "x" * 2001), False),
        (("jti", "main", "a\x00b"), False),
        (("jti", "main", "a\ufffdb"), False),
        (("user", "", "0d6b9f0e-58cf-4e0e-9ad5-3a7f1a0d6f00"), True),
        (("user", "", "0D6B9F0E-58CF-4E0E-9AD5-3A7F1A0D6F00"), False),
        (("user", "", "17"), False),
        (("issuer", "main", ""), True),
        (("issuer", "other", ""), False),
    ],
)
def test_a_revocation_that_no_row_can_hold_is_not_learnt(target: Target, fits: bool) -> None:
    learner = learnt_revocations()
    learner.touched(target)
    assert bool(learner.waiting) is fits


@pytest.mark.parametrize(
    ("value", "fits"), [("17", True), ("Ann", True), ("", False), ("a\x00b", False), ("x" * 2001, False)]
)
def test_users_of_another_system_have_ids_of_their_own(value: str, fits: bool) -> None:
    learner = LearntRevocations(
        cast("Any", None), cast("Any", None), {}, Metrics(), hearing=lambda: None, any_user=True
    )
    learner.touched(("user", "", value))
    assert bool(learner.waiting) is fits


def test_the_number_of_waiting_keys_is_bounded() -> None:
    learner = learnt_revocations()
    for number in range(10_100):
        learner.touched(("jti", "main", str(number)))
    assert learner.waiting == 10_000
