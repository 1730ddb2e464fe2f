"""One connection: silence, and how much is held of a body."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path

import pytest
import uvloop

from gateway.core.reasons import Denial
from gateway.proxy.connection import HIGH_WATER, READ_BYTES, WRITE_HIGH_WATER
from gateway.proxy.response_parser import ResponseParser
from gateway.proxy.rules import UpstreamRules
from gateway.proxy.upstream import Upstream
from tests.proxy.services import REQUEST, UnixUpstream, exchange
from tests.sockets import Exchange, RawUpstream

TOTAL = 8 * 1024 * 1024
BLOCK = bytes(range(256)) * 1024


@pytest.fixture
async def server() -> AsyncIterator[RawUpstream]:
    async with RawUpstream() as server:
        yield server


def upstream(server: RawUpstream, *, idle_timeout: float = 300.0) -> Upstream:
    return Upstream(UpstreamRules("orders", (server.url,), idle_timeout=idle_timeout))


async def send_large(exchange: Exchange) -> None:
    exchange.wire.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % TOTAL)
    for _ in range(TOTAL // len(BLOCK)):
        await exchange.send(BLOCK)


# Silence -------------------------------------------------------------------------------------------


async def test_a_body_that_stands_still_is_given_up(server: RawUpstream) -> None:
    server.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
    with pytest.raises(Denial, match="upstream_timeout: its response stands still"):
        await exchange(upstream(server, idle_timeout=0.1))


async def test_a_body_may_last_as_long_as_it_moves(server: RawUpstream) -> None:
    async def drip(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(12):
            await exchange.send(b"1\r\na\r\n")
            await asyncio.sleep(0.05)
        await exchange.send(b"0\r\n\r\n")

    server.behave(drip)
    answer = await exchange(upstream(server, idle_timeout=0.3))
    assert answer.body == b"1\r\na\r\n" * 12 + b"0\r\n\r\n"


async def test_an_upstream_that_takes_nothing_of_a_request_is_given_up(server: RawUpstream) -> None:
    async def ignore(_: Exchange) -> None:
        await asyncio.Event().wait()

    server.behave(ignore)
    service = upstream(server, idle_timeout=0.1)
    connection = await service.acquire()
    connection.begin(
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % TOTAL, ResponseParser(bodiless=False)
    )
    for _ in range(TOTAL // len(BLOCK)):
        connection.write(BLOCK)
        connection.sent()
    async with asyncio.timeout(2):
        await connection.drain()
    with pytest.raises(Denial, match="upstream_timeout: no answer in time"):
        await connection.next_head()
    service.release(connection)


async def test_the_time_does_not_run_while_the_client_takes_nothing(server: RawUpstream) -> None:
    server.behave(send_large)
    service = upstream(server, idle_timeout=0.1)
    connection = await service.acquire()
    connection.begin(REQUEST, ResponseParser(bodiless=False))
    await connection.next_head()
    await asyncio.sleep(0.4)
    received = 0
    while data := await connection.read():
        received += len(data)
    assert received == TOTAL
    service.release(connection)
    assert service.idle == 1
    service.close()


async def test_the_time_for_a_body_follows_a_longer_one_for_the_head(server: RawUpstream) -> None:
    server.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
    service = upstream(server, idle_timeout=0.1)
    connection = await service.acquire()
    connection.begin(REQUEST, ResponseParser(bodiless=False))
    connection.allow(30.0)
    await connection.next_head()
    async with asyncio.timeout(2):
        assert await connection.read() == b"ab"
        with pytest.raises(Denial, match="upstream_timeout"):
            await connection.read()
    service.release(connection)


# Back-pressure -------------------------------------------------------------------------------------


async def holds_no_more_than_promised(server: RawUpstream) -> None:
    server.behave(send_large)
    service = upstream(server)
    connection = await service.acquire()
    connection.begin(REQUEST, ResponseParser(bodiless=False))
    await connection.next_head()
    largest = received = 0
    while True:
        await asyncio.sleep(0.003)  # as much as is read meanwhile
        batch = connection.read_nowait()
        largest, received = max(largest, len(batch)), received + len(batch)
        if connection.complete and not connection.unread:
            break
    assert received == TOTAL
    assert HIGH_WATER < largest <= HIGH_WATER + READ_BYTES
    service.release(connection)
    service.close()


async def request_bodies_stop(server: RawUpstream) -> None:
    released = asyncio.Event()

    async def read_late(exchange: Exchange) -> None:
        await released.wait()
        await exchange.read_body()
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    server.behave(read_late)
    service = upstream(server)
    connection = await service.acquire()
    connection.begin(
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % TOTAL, ResponseParser(bodiless=False)
    )
    sent = 0
    while sent < TOTAL:
        connection.write(BLOCK)
        sent += len(BLOCK)
        await asyncio.sleep(0)
        if connection.writing_paused:
            transport = connection._transport
            assert transport is not None
            assert transport.get_write_buffer_limits()[1] == WRITE_HIGH_WATER
            assert transport.get_write_buffer_size() <= WRITE_HIGH_WATER + len(BLOCK)
            released.set()
            await connection.drain()
    assert (await connection.next_head()).status == 200
    service.release(connection)
    service.close()


Scenario = Callable[[RawUpstream], Coroutine[None, None, None]]


@pytest.mark.parametrize("scenario", [holds_no_more_than_promised, request_bodies_stop])
@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_little_is_held(
    tmp_path: Path, scenario: Scenario, loop: Callable[[], asyncio.AbstractEventLoop], *, unix: bool
) -> None:
    async def run() -> None:
        async with UnixUpstream(tmp_path / "orders.sock") if unix else RawUpstream() as server:
            await scenario(server)

    _run(loop, run)


def _run(loop: Callable[[], asyncio.AbstractEventLoop], main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await main()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(bounded())
