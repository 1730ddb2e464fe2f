"""Tunnels end when their caller loses access: real clients, Postgres and Redis."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websockets
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from gateway.proxy.exchanges.websocket import close_frame
from tests.harness import House, open_house, token
from tests.proxy.long_lived import (
    AT_ONCE,
    HELLO,
    caller,
    ended,
    revoke,
    session,
    stay,
    suspend,
    tunnelling,
    until_live,
)
from tests.sockets import Exchange, Wire, request_bytes
from tests.stores.examples import eventually


async def test_a_websocket_gets_a_close_frame_on_both_sides(tmp_path: Path, dsn: str, redis_url: str) -> None:
    behind: list[ServerConnection] = []

    async def handle(socket: ServerConnection) -> None:
        behind.append(socket)
        async for message in socket:
            await socket.send(message)

    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serve_websockets(handle, "127.0.0.1", 0))
        port = next(iter(server.sockets)).getsockname()[1]
        house = await stack.enter_async_context(
            open_house(
                tmp_path,
                dsn,
                redis_url,
                upstreams={"raw": {"urls": [f"http://127.0.0.1:{port}"]}},
                errors={"detail": "generic"},
            )
        )
        url = f"{house.url.replace('http', 'ws', 1)}/private/ws"
        for loss, told in ((suspend, "invalid_token"), (revoke, "token_revoked")):
            who = await caller(house)
            other = await stack.enter_async_context(
                connect(url, additional_headers={"Authorization": f"Bearer {token().decode()}"})
            )
            bearer = {"Authorization": f"Bearer {who.token.decode()}"}
            async with connect(url, additional_headers=bearer) as socket:
                await socket.send("hello")
                assert await socket.recv() == "hello"
                await loss(who)
                with pytest.raises(ConnectionClosed):
                    await asyncio.wait_for(socket.recv(), AT_ONCE)
                assert (socket.close_code, socket.close_reason) == (1008, told)
            served = behind[-1]
            await asyncio.wait_for(served.wait_closed(), AT_ONCE)
            assert (served.close_code, served.close_reason) == (1008, told)
            await other.send("still here")
            assert await other.recv() == "still here"
            ended_by = await house.metric("gateway_tunnels_ended_total", upstream="raw", by="revocation")
            assert ended_by >= 1
            await other.close()
        await until_live(house, 0)


@session
async def test_a_close_frame_follows_complete_frames_and_is_the_last_one(house: House) -> None:
    who = await caller(house)
    async with tunnelling(house, who.token) as client:
        # The parts of a message are frames, too.
        part = Frame(Opcode.TEXT, b"part", fin=False).serialize(mask=False)
        (wire,) = house.upstream.wires
        wire.writer.write(part)
        assert await client.exactly(len(part)) == part
        await suspend(who)
        assert await client.exactly(len(close_frame("user_suspended"))) == close_frame("user_suspended")
        wire.writer.write(HELLO)
        await client.send(Frame(Opcode.TEXT, b"too late").serialize(mask=True))
        assert await ended(client) == b""
        assert not client.broken
        # The upstream's script reads to the end, and keeps the data.
        await eventually(lambda: _has_ended(wire))
        told = bytes(wire.raw[-len(close_frame("user_suspended", bytes(4))) :])
        assert close_frame("user_suspended", told[2:6]) == told
    assert house.events("library") == []
    await until_live(house, 0)


@session
@pytest.mark.parametrize("where", ["in-the-head", "in-the-payload"])
async def test_in_the_middle_of_a_frame_the_connection_is_broken_off(house: House, where: str) -> None:
    who = await caller(house)
    frame = Frame(Opcode.BINARY, bytes(1000)).serialize(mask=False)
    begun = HELLO + frame[: 3 if where == "in-the-head" else 500]
    async with tunnelling(house, who.token, behind=begun) as client:
        await suspend(who)
        assert await ended(client) == b""
        assert client.broken
        await house.upstream.wires[-1].until_ended()
    await until_live(house, 0)


@session
async def test_an_upstream_in_the_middle_of_a_frame_sees_an_end(house: House) -> None:
    who = await caller(house)
    begun = Frame(Opcode.BINARY, bytes(1000)).serialize(mask=True)[:500]
    async with tunnelling(house, who.token) as client:
        await client.send(begun)
        (wire,) = house.upstream.wires

        async def arrived() -> bool:
            return wire.raw.endswith(begun)

        await eventually(arrived)
        await suspend(who)
        assert await ended(client) == close_frame("user_suspended")
        await wire.until_ended()
        assert wire.raw.endswith(begun)


@session
async def test_after_a_close_frame_there_is_no_other(house: House) -> None:
    who = await caller(house)
    bye = Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=False)
    async with tunnelling(house, who.token, behind=bye) as client:
        await suspend(who)
        assert await ended(client) == b""
    await until_live(house, 0)


@session
@pytest.mark.parametrize("reading", [True, False])
async def test_a_side_that_does_not_close_is_cut_off_soon(house: House, reading: bool) -> None:
    async def gone() -> bool:
        metrics = await house.metrics()
        upstream = ("gateway_upstream_connections", (("state", "active"), ("upstream", "raw")))
        return metrics["gateway_client_connections", ()] == metrics[upstream] == 0

    who = await caller(house)
    async with tunnelling(house, who.token) as client:
        if not reading:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream's transport reads too
            large = Frame(Opcode.BINARY, bytes(50_000_000)).serialize(mask=False)
            house.upstream.wires[-1].writer.write(large)
            await asyncio.sleep(0.1)
        await suspend(who)
        await until_live(house, 0)
        await eventually(gone)
        assert not client.writer.is_closing()


@session
async def test_data_that_a_client_sends_before_the_close_frame_arrives_is_read(house: House) -> None:
    """Otherwise, closing would reset the connection, and the close frame would be lost."""
    who = await caller(house)
    async with tunnelling(house, who.token) as client:
        house.upstream.wires[-1].writer.transport.pause_reading()  # type: ignore[attr-defined]  # as above
        client.writer.write(Frame(Opcode.BINARY, bytes(20_000_000)).serialize(mask=True))
        await asyncio.sleep(0.2)
        assert client.writer.transport.get_write_buffer_size()
        await suspend(who)
        async with asyncio.timeout(AT_ONCE):
            await client.writer.drain()
            assert await client.until(b"suspended") == close_frame("user_suspended")
        house.upstream.wires[-1].writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above


@session
async def test_another_protocol_is_broken_off(house: House) -> None:
    async def switch(exchange: Exchange) -> None:
        await exchange.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: custom\r\nConnection: Upgrade\r\n\r\nwelcome"
        )
        await stay(exchange)

    who = await caller(house)
    house.upstream.behave(switch)
    async with house.connect() as client:
        fields = (b"Connection: upgrade", b"Upgrade: custom")
        await client.send(request_bytes("GET", "/switched/x", *fields, token=who.token))
        await client.until(b"welcome")
        await suspend(who)
        assert await ended(client) == b""
        assert client.broken
    await until_live(house, 0)


async def _has_ended(wire: Wire) -> bool:
    return wire.ended
