"""WebSockets and other tunnels through a gateway: real clients and servers, bytes and ends."""

import asyncio
import os
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websockets
from websockets.exceptions import InvalidStatus

from gateway.app import serve
from gateway.settings import Settings
from tests.harness import House, configuration, open_house, token
from tests.proxy.tunnels import (
    KEY,
    MEGABYTE,
    echo,
    handshake,
    nothing,
    session,
    switching,
    tunnel,
    tunnels_are,
)
from tests.sockets import Exchange, RawClient, RawUpstream

# Real clients and servers --------------------------------------------------------------------------


async def test_a_websocket_echoes_through_the_gateway(tmp_path: Path, dsn: str, redis_url: str) -> None:
    seen: list[ServerConnection] = []

    async def handle(socket: ServerConnection) -> None:
        seen.append(socket)
        async for message in socket:
            await socket.send(message)

    async with (
        serve_websockets(handle, "127.0.0.1", 0, subprotocols=None, max_size=None) as server,
        open_house(
            tmp_path,
            dsn,
            redis_url,
            upstreams={"raw": {"urls": [f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"]}},
        ) as house,
    ):
        url = house.url.replace("http", "ws", 1)
        bearer = {"Authorization": f"Bearer {token().decode()}"}
        async with connect(f"{url}/private/ws?a=1", additional_headers=bearer, max_size=None) as socket:
            await socket.send("text")
            assert await socket.recv() == "text"
            large = os.urandom(MEGABYTE)
            await socket.send([large[:1000], large[1000:]])
            assert await socket.recv() == large
            assert await (await socket.ping()) >= 0
            await tunnels_are(house, 1)
        (behind,) = seen
        await behind.wait_closed()
        assert socket.close_code == behind.close_code == 1000
        assert behind.request is not None
        assert behind.request.path == "/private/ws?a=1"
        assert behind.request.headers.get_all("X-Auth-Subject") == ["member"]
        assert "Authorization" not in behind.request.headers
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"{url}/private/ws")
        assert refused.value.response.status_code == 401
        assert refused.value.response.headers["Content-Type"] == "application/problem+json"
        await tunnels_are(house, 0)
        assert await house.metric("gateway_requests_total", route="private", method="GET", status="101") == 1


# Bytes ---------------------------------------------------------------------------------------------


@session
async def test_the_handshake_is_forwarded_with_our_headers(house: House) -> None:
    house.upstream.behave(switching(nothing, b"Sec-WebSocket-Accept: x", b"Keep-Alive: timeout=5"))
    async with house.connect() as client:
        fields = (b"X-User-Id: forged", b"Sec-WebSocket-Protocol: chat, v2")
        await client.send(handshake("/private/ws", *fields, bearer=token()))
        response = await client.response()
        assert response is not None
        assert response.status == 101
        assert response.field(b"connection") == b"Upgrade"
        assert response.field(b"upgrade") == b"websocket"
        assert response.field(b"sec-websocket-accept") == b"x"
        assert response.values(b"keep-alive") == []
        assert response.field(b"x-request-id")
    (received,) = house.upstream.requests
    assert received.values(b"connection") == [b"Upgrade"]
    assert received.values(b"upgrade") == [b"websocket"]
    assert received.values(b"sec-websocket-key") == [KEY.partition(b": ")[2]]
    assert received.values(b"sec-websocket-protocol") == [b"chat, v2"]
    assert received.values(b"authorization") == []
    assert received.values(b"x-auth-subject") == [b"member"]
    assert received.values(b"x-forwarded-for") == [b"127.0.0.1"]
    assert b"forged" not in received.head


@session
async def test_a_tunnel_changes_no_byte(house: House) -> None:
    there, back = os.urandom(MEGABYTE), os.urandom(MEGABYTE)
    arrived: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def both_ways(exchange: Exchange) -> None:
        sending = asyncio.create_task(exchange.send(back))
        arrived.set_result(await exchange.wire.exactly(len(there)))
        await sending

    house.upstream.behave(switching(both_ways))
    async with tunnel(house) as client:
        _, received = await asyncio.gather(client.send(there), client.exactly(len(back)))
        assert received == back
        assert await arrived == there


@session
@pytest.mark.parametrize("size", [10, 5_000, 60_000])
async def test_bytes_directly_after_the_heads_are_not_lost(house: House, size: int) -> None:
    """After the client's head, before the 101, and directly after the 101."""
    early, behind = os.urandom(size), os.urandom(size)
    house.upstream.behave(switching(echo, behind=behind))
    async with house.connect() as client:
        await client.send(handshake("/public/ws") + early[:7], early[7:])
        response = await client.response()
        assert response is not None
        assert response.status == 101
        assert await client.exactly(2 * size) == behind + early
        await client.send(b"later")
        assert await client.exactly(5) == b"later"


@session
async def test_early_data_beyond_the_bound_is_refused(house: House) -> None:
    """More than a head may have, sent before the 101."""
    asked = asyncio.Event()

    async def hesitating(exchange: Exchange) -> None:
        asked.set()
        await exchange.wire.to_end()

    house.upstream.behave(hesitating)
    async with house.connect() as client:
        await client.send(handshake("/slow/ws"))
        await asked.wait()
        client.writer.write(bytes(10 * MEGABYTE))
        await asyncio.sleep(0.1)
        assert client.writer.transport.get_write_buffer_size() > MEGABYTE
        assert len(house.upstream.wires[0].raw) < 1000
        response = await client.response()
        assert response is None or response.status == 504


@session
async def test_a_side_that_does_not_read_stops_the_other(house: House) -> None:
    house.upstream.behave(switching(nothing))
    async with tunnel(house) as client:
        (wire,) = house.upstream.wires
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream's transport reads too
        wire.writer.write(bytes(32 * MEGABYTE))
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.writer.write(bytes(32 * MEGABYTE))
        before = (-1, -1)
        while (
            now := (
                client.writer.transport.get_write_buffer_size(),
                wire.writer.transport.get_write_buffer_size(),
            )
        ) != before:
            before = now
            await asyncio.sleep(0.1)
        # The rest is in the kernel's buffers, and a little in the gateway's.
        assert min(now) > 16 * MEGABYTE
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len(await client.exactly(32 * MEGABYTE)) == 32 * MEGABYTE
        client.writer.transport.abort()
        wire.writer.transport.abort()


# Ends ----------------------------------------------------------------------------------------------


@session
async def test_half_close_is_passed_on_in_both_directions(house: House) -> None:
    async def answer_at_the_end(exchange: Exchange) -> None:
        question = await exchange.wire.to_end()
        await exchange.send(b"all of " + question)
        exchange.wire.writer.write_eof()

    house.upstream.behave(switching(answer_at_the_end))
    async with tunnel(house) as client:
        await client.send(b"question")
        client.writer.write_eof()
        assert await client.to_end() == b"all of question"
        assert not client.broken
    await tunnels_are(house, 0)
    assert await house.metric("gateway_tunnels_ended_total", upstream="raw", by="client") >= 1


@session
@pytest.mark.parametrize("way", ["close", "reset"])
async def test_a_client_that_leaves_ends_the_upstreams_side(house: House, way: str) -> None:
    ended = asyncio.Event()

    async def until_the_end(exchange: Exchange) -> None:
        await exchange.wire.to_end()
        ended.set()

    house.upstream.behave(switching(until_the_end))
    async with tunnel(house) as client:
        if way == "reset":
            client.reset()
        else:
            client.writer.close()
        await asyncio.wait_for(ended.wait(), 1)
    await house.upstream.settle()
    await tunnels_are(house, 0)


@session
@pytest.mark.parametrize("way", ["close", "reset"])
async def test_an_upstream_that_leaves_ends_the_clients_side(house: House, way: str) -> None:
    async def leave(exchange: Exchange) -> None:
        await exchange.wire.until(b"go")
        if way == "reset":
            exchange.wire.reset()
        else:
            exchange.wire.writer.close()

    house.upstream.behave(switching(leave, behind=b"hello"))
    async with tunnel(house) as client:
        await client.send(b"go")
        assert await asyncio.wait_for(client.to_end(), 1) == b"hello"
    await tunnels_are(house, 0)
    assert await house.metric("gateway_tunnels_ended_total", upstream="raw", by="upstream") >= 1


@session
async def test_data_of_an_upstream_that_closes_directly_after_its_101_arrives(house: House) -> None:
    async def close(exchange: Exchange) -> None:
        exchange.wire.writer.close()

    house.upstream.behave(switching(close, behind=b"bye"))
    async with tunnel(house) as client:
        assert await client.to_end() == b"bye"
    await tunnels_are(house, 0)


@session
async def test_a_silent_tunnel_ends(house: House) -> None:
    house.upstream.behave(switching(nothing))
    async with tunnel(house, "/brief/ws") as client:
        for _ in range(5):
            # Longer than the timeout in total, but each silence is shorter.
            await client.send(b"x")
            await asyncio.sleep(0.1)
        assert not client.writer.transport.is_closing()
        assert await asyncio.wait_for(client.to_end(), 1) == b""
    await tunnels_are(house, 0)
    assert await house.metric("gateway_tunnels_ended_total", upstream="raw", by="idle") == 1


async def test_stopping_ends_tunnels_after_the_drain_timeout(
    tmp_path: Path, dsn: str, redis_url: str
) -> None:
    loop = asyncio.get_running_loop()
    async with RawUpstream() as upstream:
        upstream.behave(switching(echo))
        settings = Settings.model_validate(configuration(tmp_path, upstream.url, dsn, redis_url, "gateway:"))
        async with serve(settings) as running:
            reader, writer = await asyncio.open_connection(*running.url.removeprefix("http://").split(":"))
            client = RawClient(reader, writer)
            await client.send(handshake("/public/ws"))
            assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            started = loop.time()
            draining = asyncio.create_task(running.drain(0.5))
            await asyncio.sleep(0.1)
            await client.send(b"still here")
            assert await client.exactly(10) == b"still here"
            await draining
            assert 0.5 <= loop.time() - started < 3
            assert await client.to_end() == b""
            await client.close()
