"""One connection: silence, and how much of a body is buffered."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path

import pytest
import uvloop

from gateway.core.reasons import Denial
from gateway.proxy.upstream.balancer import Upstream
from gateway.proxy.upstream.connection import READ_BYTES, WRITE_HIGH_WATER
from gateway.proxy.upstream.options import UpstreamRules
from gateway.proxy.upstream.parser import ResponseParser
from tests.proxy.services import REQUEST, Receiver, UnixUpstream, acquire, exchange
from tests.sockets import Exchange, RawUpstream

TOTAL = 8 * 1024 * 1024
BLOCK = bytes(range(256)) * 1024
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % TOTAL


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


async def test_a_body_that_stops_ends_with_a_timeout(server: RawUpstream) -> None:
    server.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
    with pytest.raises(Denial, match="upstream_timeout: its response stands still"):
        await exchange(upstream(server, idle_timeout=0.1))


async def test_a_moving_body_may_take_any_time(server: RawUpstream) -> None:
    async def drip(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(12):
            await exchange.send(b"1\r\na\r\n")
            await asyncio.sleep(0.05)
        await exchange.send(b"0\r\n\r\n")

    server.behave(drip)
    answer = await exchange(upstream(server, idle_timeout=0.3))
    assert answer.body == b"1\r\na\r\n" * 12 + b"0\r\n\r\n"


async def test_an_upstream_that_does_not_read_the_request_ends_with_a_timeout(server: RawUpstream) -> None:
    async def ignore(_: Exchange) -> None:
        await asyncio.Event().wait()

    server.behave(ignore)
    service = upstream(server, idle_timeout=0.1)
    connection = await acquire(service)
    receiver = Receiver()
    connection.begin(POST, ResponseParser(bodiless=False), receiver)
    for _ in range(TOTAL // len(BLOCK)):
        connection.write(BLOCK)
        connection.sent()
    async with asyncio.timeout(2):
        with pytest.raises(Denial, match="upstream_timeout: no answer in time"):
            await receiver.head()
    connection.owner.release(connection)


async def test_there_is_no_timeout_while_the_client_does_not_read(server: RawUpstream) -> None:
    server.behave(send_large)
    service = upstream(server, idle_timeout=0.1)
    connection = await acquire(service)
    receiver = Receiver()
    connection.begin(REQUEST, ResponseParser(bodiless=False), receiver)
    await receiver.head()
    connection.pause_reading()
    await asyncio.sleep(0.4)
    connection.resume_reading()
    assert len(await receiver.whole()) == TOTAL
    connection.owner.release(connection)
    assert service.idle == 1
    service.close()


async def test_a_shorter_timeout_for_the_body_replaces_that_for_the_head(server: RawUpstream) -> None:
    server.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
    service = upstream(server, idle_timeout=0.1)
    connection = await acquire(service)
    receiver = Receiver()
    connection.begin(REQUEST, ResponseParser(bodiless=False), receiver)
    connection.allow(30.0)
    async with asyncio.timeout(2):
        await receiver.head()
        with pytest.raises(Denial, match="upstream_timeout"):
            await receiver.whole()
    assert receiver.body == b"ab"
    connection.owner.release(connection)


async def test_a_connection_that_closed_before_its_exchange_is_an_error(
    server: RawUpstream,
) -> None:
    service = upstream(server)
    connection = await acquire(service)
    connection.abort()
    await asyncio.sleep(0.01)
    receiver = Receiver()
    connection.begin(REQUEST, ResponseParser(bodiless=False), receiver)
    async with asyncio.timeout(2):
        with pytest.raises(Denial, match="upstream_protocol_error"):
            await receiver.head()
    connection.owner.release(connection)


# Back-pressure -------------------------------------------------------------------------------------


async def holds_no_more_than_promised(server: RawUpstream) -> None:
    server.behave(send_large)
    service = upstream(server)
    connection = await acquire(service)
    receiver = Receiver()
    connection.begin(REQUEST, ResponseParser(bodiless=False), receiver)
    await receiver.head()
    while len(receiver.body) < TOTAL:
        connection.pause_reading()
        before = len(receiver.body)
        await asyncio.sleep(0.003)
        # While reading is paused, no more data arrives.
        assert len(receiver.body) == before
        connection.resume_reading()
        await receiver.more_than(before)
    assert max(receiver.batches) <= READ_BYTES
    connection.owner.release(connection)
    service.close()


async def request_bodies_stop(server: RawUpstream) -> None:
    released = asyncio.Event()

    async def read_late(exchange: Exchange) -> None:
        await released.wait()
        await exchange.read_body()
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    server.behave(read_late)
    service = upstream(server)
    connection = await acquire(service)
    receiver = Receiver()
    connection.begin(POST, ResponseParser(bodiless=False), receiver)
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
            await receiver.until(lambda: not connection.writing_paused)
    assert receiver.times_writable
    assert (await receiver.head()).status == 200
    connection.owner.release(connection)
    service.close()


Scenario = Callable[[RawUpstream], Coroutine[None, None, None]]


@pytest.mark.parametrize("scenario", [holds_no_more_than_promised, request_bodies_stop])
@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_buffers_are_bounded(
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
