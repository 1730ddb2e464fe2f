"""A known token of a known user costs no round trip, and still a change counts at once.

The complete gateway, between raw sockets, on real Postgres and Redis.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Final

import pytest
from redis.asyncio import Redis

from tests import tokens
from tests.harness import House, open_house, token
from tests.sockets import request_bytes

REQUESTS: Final = 1000
AT_ONCE: Final = 1.0
"""Seconds; what is expected are milliseconds, but the machine may have other things to do."""
LOOK_UPS: Final = ("cmdstat_mget", "cmdstat_get", "cmdstat_eval", "cmdstat_evalsha", "cmdstat_set")


@pytest.fixture
async def warm(tmp_path: Path, dsn: str, redis_url: str) -> AsyncIterator[House]:
    """A gateway of the test's own whose memory may answer."""
    async with open_house(tmp_path, dsn, redis_url) as house:

        async def from_memory() -> bool:
            same = token()
            for _ in range(2):
                await house.request("/private/x", token=same)
            return await local_answers(house) > 0

        await until(from_memory, 5)
        yield house


async def until(condition: Callable[[], Awaitable[bool]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def local_answers(house: House) -> float:
    return await house.metric("gateway_user_lookups_total", issuer="main", tier="local", result="found")


async def redis_look_ups(house: House) -> dict[str, int]:
    """Return how often each command was executed that a request may cause."""
    async with Redis.from_url(house.redis_url) as client:
        statistics = await client.info("commandstats")
    return {name: statistics.get(name, {}).get("calls", 0) for name in LOOK_UPS}


async def look_ups_in_postgres(house: House) -> set[tuple[int, datetime]]:
    """Return when each of the gateway's sessions last looked up an identity, if that was the last it did."""
    rows = await house.sql(
        "SELECT pid, query_start FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'gateway' AND query LIKE '%identities%'"
    )
    return {(row["pid"], row["query_start"]) for row in rows}


async def test_warm_requests_ask_no_store(warm: House) -> None:
    same = token()
    request = request_bytes("GET", "/private/x", token=same)
    async with warm.connect() as client:
        for _ in range(2):
            await client.send(request)
            assert (await client.response()).status == 200  # type: ignore[union-attr]  # a connection kept open

        answered, asked = await local_answers(warm), await look_ups_in_postgres(warm)
        before, began = await redis_look_ups(warm), time.monotonic()
        for _ in range(REQUESTS):
            await client.send(request)
            assert (await client.response()).status == 200  # type: ignore[union-attr]  # a connection kept open
        after, seconds = await redis_look_ups(warm), time.monotonic() - began

    assert await local_answers(warm) == answered + REQUESTS
    # Twice a second the epoch is kept alive, and a heartbeat written; nothing else may have happened, and
    # least of all a look-up.
    spent = {name: after[name] - before[name] for name in LOOK_UPS}
    assert sum(spent.values()) <= 25 * (seconds + 1), spent
    assert spent["cmdstat_mget"] == 0
    assert asked
    assert await look_ups_in_postgres(warm) <= asked


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("UPDATE users SET status = 'suspended' WHERE id = $1", "user_suspended"),
        ("UPDATE users SET deleted_at = now() WHERE id = $1", "user_deleted"),
        ("DELETE FROM identities WHERE user_id = $1", "user_not_found"),
        (
            "UPDATE users SET tokens_valid_after = now() + interval '1 day' WHERE id = $1",
            "tokens_revoked_before",
        ),
        ("INSERT INTO revocations (kind, value) VALUES ('user', $1::uuid::text)", "tokens_revoked_before"),
    ],
    ids=["suspended", "deleted", "unlinked", "valid-after", "revoked"],
)
async def test_a_change_by_sql_is_honoured_at_once(warm: House, statement: str, code: str) -> None:
    same = token()
    ((user,),) = await warm.sql("SELECT user_id FROM identities WHERE subject = 'member'")
    for _ in range(2):
        assert (await warm.request("/private/x", token=same)).status == 200
    await warm.sql(statement, user)

    async def refused() -> bool:
        response = await warm.request("/private/x", token=same)
        assert response.status in {200, 401}
        return response.status == 401 and response.code == code

    await until(refused, AT_ONCE)
    for _ in range(20):
        assert (await warm.request("/private/x", token=same)).code == code


@pytest.mark.parametrize("by", ["set", "sql"])
async def test_a_token_that_is_revoked_is_refused_at_once(warm: House, by: str) -> None:
    same, other = token(jti="the-jti"), token(jti="another")
    for _ in range(2):
        for raw in (same, other):
            assert (await warm.request("/private/x", token=raw)).status == 200
    if by == "set":
        await warm.set_key("revoked:jti:main:the-jti", "1")
    else:
        await warm.sql(
            "INSERT INTO revocations (kind, issuer, value) VALUES ('jti', $1, 'the-jti')", tokens.ISSUER
        )

    async def refused() -> bool:
        response = await warm.request("/private/x", token=same)
        return response.status == 401 and response.code == "token_revoked"

    await until(refused, AT_ONCE)
    assert (await warm.request("/private/x", token=other)).status == 200


async def test_a_user_created_after_a_denial_is_admitted_at_once(warm: House) -> None:
    same = token("newcomer", iat=int(time.time()) - 60)
    for _ in range(3):
        assert (await warm.request("/private/x", token=same)).code == "user_not_found"
    await warm.sql(
        "WITH u AS (INSERT INTO users (status) VALUES ('active') RETURNING id)"
        " INSERT INTO identities (issuer, subject, user_id) SELECT $1, 'newcomer', id FROM u",
        tokens.ISSUER,
    )

    async def let_in() -> bool:
        return (await warm.request("/private/x", token=same)).status == 200

    await until(let_in, AT_ONCE)


async def test_the_streams_are_up_and_changes_are_counted(warm: House) -> None:
    for stream in ("postgres", "redis"):
        assert await warm.metric("gateway_invalidation_stream_up", stream=stream) == 1
    await warm.sql("UPDATE users SET status = 'locked' WHERE roles = '{admin}'")

    async def counted() -> bool:
        counts = [
            await warm.metric("gateway_invalidations_total", source=source)
            for source in ("postgres", "redis")
        ]
        return all(counts)

    await until(counted, AT_ONCE)
