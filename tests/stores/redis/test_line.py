import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis as Client

from gateway.core.model import StoreUnavailable
from gateway.stores.redis.line import RedisLine
from gateway.stores.redis.shared_tier import RedisTier
from gateway.stores.redis.topology import server_at
from tests.stores.cable import Cable
from tests.stores.examples import claims, eventually

NAME = "line-under-test"


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator["Client"]:
    """Another program."""
    async with Client.from_url(redis_url) as client:
        await client.mset({"a": "1", "b": "2"})
        yield client


@pytest.fixture
async def cable(redis_url: str) -> AsyncIterator[Cable]:
    async with Cable(redis_url) as cable:
        yield cable


@pytest.fixture
async def line(cable: Cable) -> AsyncIterator[RedisLine]:
    server = server_at(f"{cable.url}?client_name={NAME}", "gateway:")
    line = RedisLine(server, connect_timeout=2.0)
    yield line
    await line.close()


async def connections(client: "Client") -> int:
    return len([each for each in await client.client_list() if each["name"] == NAME])


async def test_values_come_in_the_order_of_the_keys(line: RedisLine, client: "Client") -> None:
    assert await line.read(["b", "absent", "a"]) == [b"2", None, b"1"]
    assert await line.read(["a"]) == [b"1"]
    assert await connections(client) == 1


async def test_a_connection_that_was_cut_is_replaced_unnoticed(
    line: RedisLine, client: "Client", cable: Cable
) -> None:
    await line.read(["a"])
    await cable.cut()
    assert await line.read(["a"]) == [b"1"]
    assert await connections(client) == 1


async def test_without_a_server_each_read_fails(line: RedisLine, client: "Client", cable: Cable) -> None:
    await line.read(["a"])
    await cable.pull()
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="Connection refused"):
            await line.read(["a"])
    await cable.plug()
    assert await line.read(["b"]) == [b"2"]


async def test_a_reply_to_a_caller_that_gave_up_reaches_no_other(
    line: RedisLine, client: "Client", cable: Cable
) -> None:
    await line.read(["a"])
    cable.freeze()
    hasty = asyncio.create_task(line.read(["a"]))
    await asyncio.sleep(0.05)
    hasty.cancel()
    await asyncio.gather(hasty, return_exceptions=True)
    cable.thaw()
    assert await line.read(["b"]) == [b"2"]


async def test_a_refusal_costs_no_connection(line: RedisLine, client: "Client") -> None:
    await line.read(["a"])
    (before,) = [each for each in await client.client_list() if each["name"] == NAME]
    await client.acl_setuser("default", enabled=True, commands=["+@all", "-mget"], nopass=True)
    try:
        with pytest.raises(StoreUnavailable, match="refuses the command"):
            await line.read(["a"])
    finally:
        await client.acl_setuser("default", enabled=True, commands=["+@all"], nopass=True)
    assert await line.read(["a"]) == [b"1"]
    (after,) = [each for each in await client.client_list() if each["name"] == NAME]
    assert after["id"] == before["id"]


async def test_concurrent_connects_keep_one_connection(line: RedisLine, client: "Client") -> None:
    *_, answer = await asyncio.gather(line.connect(), line.connect(), line.read(["a"]))
    assert answer == [b"1"]

    async def one() -> bool:
        return await connections(client) == 1

    await eventually(one)


async def test_readers_that_cannot_wait_find_a_connection_once_another_has_waited(
    client: "Client", cable: Cable
) -> None:
    redis = RedisTier(cable.url, timeout=0.4, connect_timeout=5.0)
    # Far away: each of the round trips that it takes to connect is quick enough, all together are not.
    cable.delay = 0.18
    with pytest.raises(StoreUnavailable, match="no answer in time"):
        await redis.read(claims(), None)
    await redis.ping()
    assert not (await redis.read(claims(), None)).complete
    await redis.close()
