"""A client's connection: pipelines, back-pressure, and clients that leave, at every stage."""

import asyncio
from collections.abc import Callable

import pytest

from tests.harness import House
from tests.sockets import OK, Exchange, RawClient, request_bytes

session = pytest.mark.asyncio(loop_scope="session")

BLOCK = bytes(range(256)) * 192
POST = request_bytes("POST", "/public/post", b"Content-Length: 6")


async def true(condition: Callable[[], bool]) -> bool:
    """Wait a moment for something to become true; tells whether it did."""
    for _ in range(200):
        if condition():
            return True
        await asyncio.sleep(0.002)
    return False


def reading(client: RawClient, *, on: bool) -> None:
    """Stop to read what the gateway sends, or go on."""
    transport = client.writer.transport
    assert isinstance(transport, asyncio.Transport)
    if on:
        transport.resume_reading()
    else:
        transport.pause_reading()


# Pipelines -----------------------------------------------------------------------------------------


@session
async def test_a_body_behind_responses_that_nobody_takes_is_read_once_they_are_taken(house: House) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.read_body()
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(BLOCK), BLOCK))

    house.upstream.behave(answer)
    requests = house.upstream.requests
    async with house.connect() as client:
        reading(client, on=False)
        sent = 0
        # Until all buffers are full, and the next request, of which half is there, has to wait.
        while len(requests) == sent:
            await client.send(POST + b"abc")
            sent += 1
            if await true(lambda sent=sent: len(requests) == sent):
                await client.send(b"def")
                assert await true(lambda: len(requests[-1].body) == 6)
        reading(client, on=True)
        for _ in range(sent - 1):
            response = await client.response()
            assert response is not None
            assert response.body == BLOCK
        await client.send(b"def")
        last = await client.response()
        assert last is not None
        assert last.body == BLOCK


@session
async def test_what_waits_for_a_switch_waits_for_the_requests_before_it(house: House) -> None:
    """Bytes behind a pipelined request for another protocol are no HTTP, whatever ends before it."""

    async def answer(exchange: Exchange) -> None:
        if exchange.request.target == b"/any-protocol/x":
            await exchange.send(b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: custom\r\n\r\n")
            await exchange.send(await exchange.wire.exactly(len(early)))
            await exchange.wire.close()
        else:
            await exchange.send(OK)

    early = b"GET /public/early HTTP/1.1\r\nHost: a\r\n\r\n"
    house.upstream.behave(answer)
    async with house.connect() as client:
        switch = request_bytes("GET", "/any-protocol/x", b"Connection: upgrade", b"Upgrade: custom")
        await client.send(request_bytes("GET", "/public/first") + switch + early)
        statuses = [response.status for _ in range(2) if (response := await client.response()) is not None]
        assert statuses == [200, 101]
        assert await client.exactly(len(early)) == early


# Clients that leave --------------------------------------------------------------------------------


@session
async def test_a_client_that_leaves_after_its_body_ends_the_upstreams_exchange(house: House) -> None:
    arrived = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        await exchange.read_body()
        arrived.set()
        await exchange.wire.to_end()

    house.upstream.behave(answer)
    async with house.connect() as client:
        await client.send(POST + b"abcdef")
        await arrived.wait()
    (wire,) = house.upstream.wires
    await wire.until_ended()
    assert await house.metric("gateway_in_flight_requests") == 0


@session
async def test_a_client_that_ends_its_side_does_not_take_half_a_body_for_the_whole(house: House) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\n\r\nhalf of it")
        await exchange.wire.to_end()

    house.upstream.behave(answer)
    async with house.connect() as client:
        await client.send(request_bytes("GET", "/public/x"))
        await client.until(b"half of it")
        client.writer.write_eof()
        await client.to_end()
        assert client.broken


@session
async def test_a_connection_that_was_reset_while_nothing_was_read_is_forgotten(house: House) -> None:
    """Its end shows only in what is done last."""
    begun, reset = asyncio.Event(), asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
        begun.set()
        await reset.wait()
        await asyncio.sleep(0.05)
        await exchange.wire.close()

    before = await house.metric("gateway_client_connections")
    house.upstream.behave(answer)
    async with house.connect() as client:
        # The second stops the reading until the first is answered.
        await client.send(request_bytes("GET", "/public/1") + request_bytes("GET", "/public/2"))
        await begun.wait()
        await client.until(b"abc")
        client.reset()
        reset.set()
    for _ in range(100):
        if await house.metric("gateway_client_connections") == before:
            return
        await asyncio.sleep(0.02)
    pytest.fail("the connection stays")
