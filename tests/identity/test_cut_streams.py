"""A worker asks Postgres as soon as its change stream is cut."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import orjson
import pytest

from tests.harness import House, open_house, token
from tests.stores.examples import eventually

CUT: Final = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name = 'gateway changes'"
)
MEMBER: Final = "(SELECT user_id FROM identities WHERE subject = 'member')"
LATE: Final = 1.0
"""Seconds after which no request may be admitted any more; usual is a tenth of that."""


async def at_rest(house: House) -> None:
    """Wait until all is heard, and the user's document is in Redis."""

    async def known() -> bool:
        response = await house.request("/private/x", token=token())
        assert response.status == 200, response.body
        up = await house.metric("gateway_invalidation_stream_up", stream="postgres") == 1
        return up and bool(house.events("local_tier_trusted"))

    await eventually(known)


async def last_admitted(house: House, raw: bytes, since: float, refused: str) -> float:
    """Ask until some time after the change; return how long after it a request was last admitted."""
    latest = 0.0
    while (now := time.monotonic() - since) < 4:
        response = await house.request("/private/x", token=raw)
        if response.status == 200:
            latest = now
        else:
            assert orjson.loads(response.content)["code"] == refused
        await asyncio.sleep(0.02)
    return latest


async def suspend(house: House) -> None:
    await house.sql(f"UPDATE users SET status = 'suspended' WHERE id = {MEMBER}")  # noqa: S608 -- a constant


async def revoke_token(house: House) -> None:
    await house.sql("INSERT INTO revocations (kind, issuer, value) VALUES ('jti', 'main', 'token-1')")


async def revoke_user(house: House) -> None:
    await house.sql(f"INSERT INTO revocations (kind, value) SELECT 'user', {MEMBER}::text")


async def unlink(house: House) -> None:
    await house.sql("DELETE FROM identities WHERE subject = 'member'")


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        (suspend, "user_suspended"),
        (unlink, "user_not_found"),
        (revoke_token, "token_revoked"),
        (revoke_user, "tokens_revoked_before"),
    ],
)
async def test_a_change_right_after_the_cut_counts_at_once(
    tmp_path: Path,
    dsn: str,
    redis_url: str,
    change: Callable[[House], Awaitable[None]],
    refused: str,
) -> None:
    async with open_house(tmp_path, dsn, redis_url) as house:
        await at_rest(house)
        raw = token(jti="token-1")
        assert (await house.request("/private/x", token=raw)).status == 200
        assert (await house.sql(CUT))[0]["count"] == 1
        await change(house)
        late = await last_admitted(house, raw, time.monotonic(), refused)
        print(f"last let through {late * 1000:.0f} ms after the change")  # noqa: T201 -- a figure for `pytest -s`
        assert late < LATE
