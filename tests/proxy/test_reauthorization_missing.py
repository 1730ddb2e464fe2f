"""Open streams of users who are missing or not active, on routes that take them."""

import asyncio

import pytest

from tests.harness import House, token
from tests.proxy.long_lived import (
    Caller,
    caller,
    ended,
    revoke,
    stays_open,
    streaming,
    suspend,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_stream_continues_when_its_missing_user_is_created(house: House) -> None:
    who = Caller(house)
    async with streaming(house, who.token, target="/welcome/x") as client:
        await who.exist()
        await stays_open(client)
        await suspend(who)
        await ended(client)
        assert client.broken
    (line,) = house.events("connection_closed")
    assert line["reason"] == "user_suspended"


async def test_a_stream_of_a_missing_user_ends_with_its_token(house: House) -> None:
    who = Caller(house)
    async with streaming(house, who.token, target="/welcome/x") as client:
        await revoke(who)
        await ended(client)
    (line,) = house.events("connection_closed")
    assert line["reason"] == "token_revoked"


async def test_a_suspension_ends_no_stream_of_a_route_for_any_status(house: House) -> None:
    who = await caller(house)
    async with streaming(house, who.token, target="/leave/x") as client:
        await suspend(who)
        async with asyncio.timeout(5):
            while (await house.request("/private/x", token=token(who.subject))).status == 200:
                pass
        await stays_open(client)
        await revoke(who)
        await ended(client)
