"""A client's connection: pipelining, back-pressure, and clients that leave at every stage."""

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from gateway.core.model import Credential
from gateway.core.reasons import Denial
from gateway.proxy.downstream import lingering_close
from gateway.proxy.downstream.connection import ClientConnection
from gateway.proxy.downstream.head_cache import HeadCache
from gateway.proxy.downstream.incoming import AnyRequest
from gateway.proxy.downstream.limits import DeadlineMonitor, Limits
from gateway.telemetry.metrics import Limit
from tests.harness import House
from tests.sockets import OK, Exchange, RawClient, Received, request_bytes

session = pytest.mark.asyncio(loop_scope="session")

BLOCK = bytes(range(256)) * 192
POST = request_bytes("POST", "/public/post", b"Content-Length: 6")


def has(requests: list[Received], number: int) -> bool:
    return len(requests) == number


async def true(condition: Callable[[], bool]) -> bool:
    """Wait a moment for a condition; return whether it became true."""
    for _ in range(200):
        if condition():
            return True
        await asyncio.sleep(0.002)
    return False


def reading(client: RawClient, *, on: bool) -> None:
    """Stop reading from the gateway, or continue."""
    transport = client.writer.transport
    assert isinstance(transport, asyncio.Transport)
    if on:
        transport.resume_reading()
    else:
        transport.pause_reading()


# Pipelines -----------------------------------------------------------------------------------------


@session
async def test_a_body_after_unread_responses_is_read_once_they_are_read(house: House) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.read_body()
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(BLOCK), BLOCK))

    house.upstream.behave(answer)
    requests = house.upstream.requests
    async with house.connect() as client:
        reading(client, on=False)
        sent = 0
        # Until all buffers are full, and half of the next request waits.
        while len(requests) == sent:
            await client.send(POST + b"abc")
            sent += 1
            if await true(partial(has, requests, sent)):
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
async def test_many_pipelined_requests_are_answered_in_order(house: House) -> None:
    refused = [b"GET /nowhere/%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(1500)]
    body = bytes(50_000)
    ahead = b"".join(refused) + request_bytes("POST", "/public/x", body=body) + b"".join(refused)
    async with house.connect() as client:
        sending = asyncio.create_task(client.send(ahead))
        statuses = [response.status for _ in range(3001) if (response := await client.response()) is not None]
        await sending
    assert statuses == [404] * 1500 + [200] + [404] * 1500
    assert house.upstream.requests[-1].body == body
    assert await house.metric("gateway_in_flight_requests") == 0


@session
async def test_data_for_another_protocol_waits_for_the_requests_before_it(house: House) -> None:
    """Data after a pipelined request for another protocol is not HTTP, even after earlier responses."""

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
async def test_a_client_that_half_closes_sees_that_a_body_is_incomplete(house: House) -> None:
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
async def test_a_connection_that_was_reset_while_reading_was_paused_is_forgotten(house: House) -> None:
    """The gateway notices the reset only when it closes the connection."""
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
        # The second request pauses reading until the first is answered.
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


# Without the buffers of sockets --------------------------------------------------------------------


class Stuck(asyncio.Transport):
    """A transport whose client reads as much as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.unsent = 0
        self.ended: list[str] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.unsent += len(data)

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended.append("eof")

    def close(self) -> None:
        self.ended.append("close")

    def abort(self) -> None:
        self.ended.append("abort")

    def is_closing(self) -> bool:
        return bool({"close", "abort"} & set(self.ended))

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Answering:
    """An exchange that answers at once."""

    def __init__(self, client: ClientConnection, *, keep_alive: bool) -> None:
        self.client = client
        self.keep_alive = keep_alive

    def begin(self) -> None:
        self.client.write(b"response")
        self.client.finished(keep_alive=self.keep_alive)

    def body_arrived(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def client_left(self) -> None: ...
    def cut(self) -> None: ...


class Hall:
    """A house with one connection."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.limits = Limits(header_timeout=0.1, rate_grace=0.1, response_min_rate=1000)
        self.deadlines = DeadlineMonitor(loop, self.limits.check_every)
        self.head_cache = HeadCache(frozenset(), frozenset(), 10)
        self.draining = False
        self.begun = 0
        self.refused: list[Denial] = []
        self.exceeded: list[Limit] = []
        self.transport = Stuck()
        self.client = ClientConnection(self, loop)
        self.client.connection_made(self.transport)

    def enter(self, connection: ClientConnection, transport: asyncio.Transport) -> bool:  # noqa: ARG002
        return True

    def leave(self, connection: ClientConnection) -> None: ...

    def exchange(
        self,
        connection: ClientConnection,
        incoming: AnyRequest,
        credential: Credential | None,  # noqa: ARG002
    ) -> Answering:
        self.begun += 1
        return Answering(connection, keep_alive=connection.keeps_alive(incoming))

    def refuse(self, connection: ClientConnection, denial: Denial, target: str) -> None:  # noqa: ARG002
        self.refused.append(denial)

    def count(self, limit: Limit) -> None:
        self.exceeded.append(limit)

    def cut_off(self, connection: ClientConnection, limit: Limit) -> None:
        self.exceeded.append(limit)
        connection.connection_lost(None)


GET = request_bytes("GET", "/")


async def test_the_last_response_has_a_lowest_rate_too() -> None:
    hall = Hall()
    hall.client.data_received(GET)
    hall.transport.unsent = 0
    await asyncio.sleep(0.1)
    hall.client.data_received(request_bytes("GET", "/", b"Connection: close"))
    assert hall.transport.ended == ["close"]
    await asyncio.sleep(0.4)
    assert hall.exceeded == ["response_min_rate"]


async def test_a_client_that_still_reads_its_response_is_not_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lingering_close, "SILENCE_SECONDS", 0.01)
    hall = Hall()
    hall.client.data_received(POST)
    await asyncio.sleep(0.05)
    assert hall.transport.ended == ["eof"]
    hall.transport.unsent = 0
    await asyncio.sleep(0.05)
    assert hall.transport.ended == ["eof", "abort"]


async def test_a_head_whose_reading_is_paused_is_not_slow() -> None:
    hall = Hall()
    hall.client.pause_writing()
    hall.client.data_received(GET + GET[:-5])
    await asyncio.sleep(0.3)
    hall.client.resume_writing()
    hall.client.data_received(GET[-5:])
    assert hall.transport.unsent == 2 * len(b"response")
    assert hall.refused == []


async def test_pipelined_requests_do_not_delay_other_connections() -> None:
    hall = Hall()
    hall.client.data_received(GET * 50)
    turns = [hall.begun]
    while turns[-1] < 50:
        await asyncio.sleep(0)
        turns.append(hall.begun)
    assert turns == [16, 32, 48, 50]
    # Reading continues once all requests have begun.
    hall.client.data_received(GET)
    assert hall.begun == 51
