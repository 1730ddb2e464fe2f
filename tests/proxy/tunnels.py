"""Tunnels for tests: handshakes, upstreams that switch, and clients."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from tests.harness import House
from tests.sockets import Exchange, RawClient, request_bytes

SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
ASK = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13")
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
MEGABYTE = 1024 * 1024

session = pytest.mark.asyncio(loop_scope="session")


def handshake(target: str, *fields: bytes, bearer: bytes | None = None) -> bytes:
    return request_bytes("GET", target, *ASK, KEY, *fields, token=bearer)


def switching(
    then: Callable[[Exchange], Awaitable[None]], *fields: bytes, behind: bytes = b""
) -> Callable[[Exchange], Awaitable[None]]:
    """Answer 101 with data directly after it, and continue in the other protocol."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(SWITCHED + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + behind)
        await then(exchange)

    return script


async def nothing(exchange: Exchange) -> None:
    await exchange.wire.to_end()


async def echo(exchange: Exchange) -> None:
    while await exchange.wire.more():
        await exchange.send(await exchange.wire.exactly(len(exchange.wire._buffer)))
    await exchange.wire.close()


@asynccontextmanager
async def tunnel(house: House, target: str = "/public/ws", *fields: bytes) -> AsyncIterator[RawClient]:
    async with house.connect() as client:
        await client.send(handshake(target, *fields))
        response = await client.response()
        assert response is not None
        assert response.status == 101, response.body
        yield client


async def eventually(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    for _ in range(500):
        if await condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail(what)


async def tunnels_are(house: House, number: int) -> None:
    """Wait until exactly this number of tunnels, and no other connections, are left on both sides."""

    async def reached() -> bool:
        metrics = await house.metrics()
        upstream = (("upstream", "raw"),)
        return (
            metrics["gateway_tunnels", upstream] == number
            and metrics["gateway_client_connections", ()] == number
            and metrics["gateway_in_flight_requests", ()] == number
            and metrics["gateway_upstream_connections", (("state", "active"), *upstream)] == number
        )

    await eventually(reached, f"there are not {number} tunnels")
