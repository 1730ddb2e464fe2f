"""Connections to one endpoint: their number, how long they are kept, and waiting requests."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from gateway.core.reasons import Denial
from gateway.proxy.upstream.balancer import Upstream
from gateway.proxy.upstream.options import UpstreamRules
from tests.harness import unused_port
from tests.proxy.services import acquire, exchange, settled
from tests.sockets import Exchange, RawUpstream


@pytest.fixture
async def server() -> AsyncIterator[RawUpstream]:
    async with RawUpstream() as server:
        yield server


def upstream(server: RawUpstream, **rules: Any) -> Upstream:  # noqa: ANN401 -- those of `UpstreamRules`
    return Upstream(UpstreamRules("orders", (server.url,), **rules))


# Keeping -------------------------------------------------------------------------------------------


async def test_a_connection_is_kept_and_used_again(server: RawUpstream) -> None:
    service = upstream(server)
    first, second = await exchange(service), await exchange(service)
    assert first.connection is second.connection
    assert (service.active, service.idle, service.pending) == (0, 1, 0)
    service.close()
    assert service.idle == 0


async def test_the_connection_used_last_is_used_next(server: RawUpstream) -> None:
    service = upstream(server)
    await asyncio.gather(*(exchange(service) for _ in range(3)))
    last = await exchange(service)
    assert (await exchange(service)).connection is last.connection
    service.close()


async def test_a_connection_without_an_exchange_is_not_kept(server: RawUpstream) -> None:
    service = upstream(server)
    connection = await acquire(service)
    assert (service.active, service.idle) == (1, 0)
    connection.owner.release(connection)
    assert (service.active, service.idle) == (0, 0)


async def test_an_idle_connection_is_closed_after_keep_alive(server: RawUpstream) -> None:
    service = upstream(server, keep_alive=0.05)
    await asyncio.gather(*(exchange(service) for _ in range(3)))
    assert service.idle == 3
    await settled(lambda: service.idle == 0 and all(wire.ended for wire in server.wires))


async def test_a_busy_connection_is_not_closed_after_keep_alive(server: RawUpstream) -> None:
    service = upstream(server, keep_alive=0.2)
    for _ in range(6):
        await exchange(service)
        await asyncio.sleep(0.05)
    assert len(server.wires) == 1
    service.close()


async def test_an_old_connection_is_replaced(server: RawUpstream) -> None:
    service = upstream(server, max_age=0.05)
    await exchange(service)
    await asyncio.sleep(0.06)
    await exchange(service)
    assert service.idle == 0
    await exchange(service)
    assert len(server.wires) == 2
    service.close()


async def test_a_closing_connection_is_not_used(server: RawUpstream) -> None:
    service = upstream(server)
    first = await exchange(service)
    first.connection.abort()
    assert (await exchange(service)).connection is not first.connection
    service.close()


async def test_a_connection_that_idled_too_long_is_not_used_by_a_busy_loop(
    server: RawUpstream,
) -> None:
    service = upstream(server, keep_alive=0.05)
    first = await exchange(service)
    time.sleep(0.06)  # noqa: ASYNC251 -- no timer can have run when the connection is asked for
    assert (await exchange(service)).connection is not first.connection
    service.close()


async def test_a_connection_that_ends_while_idle_is_forgotten(server: RawUpstream) -> None:
    service = upstream(server, keep_alive=60.0)
    await exchange(service)
    await server.settle()
    await settled(lambda: service.idle == 0)
    assert (await exchange(service)).body == b"ok"


async def test_unrequested_bytes_end_an_idle_connection(server: RawUpstream) -> None:
    service = upstream(server, keep_alive=60.0)
    await exchange(service)
    server.wires[0].writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    await settled(lambda: service.idle == 0)
    assert (await exchange(service)).body == b"ok"


# Limits --------------------------------------------------------------------------------------------


def held(server: RawUpstream) -> asyncio.Event:
    """Let the server answer only once the event is set."""
    released = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        await released.wait()
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    server.behave(answer)
    return released


async def test_there_are_no_more_connections_than_allowed(server: RawUpstream) -> None:
    released = held(server)
    service = upstream(server, max_connections=2)
    running = [asyncio.create_task(exchange(service)) for _ in range(7)]
    await settled(lambda: (service.active, service.pending) == (2, 5))
    released.set()
    answers = await asyncio.gather(*running)
    assert [answer.body for answer in answers] == [b"ok"] * 7
    assert len(server.wires) == 2
    assert (service.active, service.idle, service.pending) == (0, 2, 0)
    service.close()


async def test_the_request_that_waits_longest_is_served_first(server: RawUpstream) -> None:
    released = held(server)
    service = upstream(server, max_connections=1)
    order: list[int] = []

    async def numbered(number: int) -> None:
        await exchange(service)
        order.append(number)

    running = []
    for number in range(5):
        running.append(asyncio.create_task(numbered(number)))
        await asyncio.sleep(0)
    released.set()
    await asyncio.gather(*running)
    assert order == [0, 1, 2, 3, 4]
    service.close()


async def test_too_many_waiting_requests_are_refused_at_once(server: RawUpstream) -> None:
    service = upstream(server, max_connections=1, max_pending=1)
    connection = await acquire(service)
    waiting = asyncio.create_task(acquire(service))
    await asyncio.sleep(0)
    with pytest.raises(Denial, match="overloaded: 1 requests wait"):
        await acquire(service)
    connection.owner.release(connection)
    connection = await waiting
    connection.owner.release(connection)
    assert (service.active, service.pending) == (0, 0)


async def test_waiting_ends_after_connect_timeout(server: RawUpstream) -> None:
    service = upstream(server, max_connections=1, connect_timeout=0.05)
    connection = await acquire(service)
    with pytest.raises(Denial, match="overloaded: no connection to orders became free"):
        await acquire(service)
    assert (service.active, service.pending) == (1, 0)
    connection.owner.release(connection)
    assert service.active == 0


async def test_a_broken_connection_makes_room_for_a_waiting_request(server: RawUpstream) -> None:
    service = upstream(server, max_connections=1)
    connection = await acquire(service)
    waiting = asyncio.create_task(exchange(service))
    await asyncio.sleep(0)
    connection.abort()
    connection.owner.release(connection)
    assert (await waiting).body == b"ok"
    assert len(server.wires) == 2
    service.close()


@pytest.mark.parametrize("handed", [False, True], ids=["while waiting", "just as it is served"])
async def test_a_client_that_leaves_the_queue_takes_no_connection(
    server: RawUpstream, *, handed: bool
) -> None:
    service = upstream(server, max_connections=1)
    connection = await acquire(service)
    leaving = asyncio.create_task(acquire(service))
    staying = asyncio.create_task(exchange(service))
    await asyncio.sleep(0)
    if handed:
        connection.owner.release(connection)
        leaving.cancel()
    else:
        leaving.cancel()
        await asyncio.sleep(0)
        connection.owner.release(connection)
    with pytest.raises(asyncio.CancelledError):
        await leaving
    async with asyncio.timeout(2):
        assert (await staying).body == b"ok"
    assert (service.active, service.idle, service.pending) == (0, 1, 0)
    service.close()


async def test_a_place_is_free_again_after_a_failure() -> None:
    service = Upstream(UpstreamRules("orders", (f"http://127.0.0.1:{unused_port()}",), max_connections=1))
    for _ in range(3):
        with pytest.raises(Denial, match="upstream_unreachable"):
            await acquire(service)
    assert (service.active, service.pending) == (0, 0)


async def test_a_place_is_free_again_when_the_client_leaves_while_connecting(server: RawUpstream) -> None:
    service = upstream(server, max_connections=1)
    connecting = asyncio.create_task(acquire(service))
    await asyncio.sleep(0)
    connecting.cancel()
    with suppress(asyncio.CancelledError):
        await connecting
    assert service.active == 0
    assert (await exchange(service)).body == b"ok"
    service.close()


async def test_a_fresh_connection_takes_the_place_of_an_idle_one(server: RawUpstream) -> None:
    service = upstream(server, max_connections=1)
    first = await exchange(service)
    second = await exchange(service, fresh=True)
    assert first.connection is not second.connection
    assert (service.active, service.idle) == (0, 1)
    service.close()


async def test_a_waiting_request_may_open_a_fresh_connection(server: RawUpstream) -> None:
    released = held(server)
    service = upstream(server, max_connections=1)
    first = asyncio.create_task(exchange(service))
    await settled(lambda: server.requests)
    second = asyncio.create_task(exchange(service, fresh=True))
    await asyncio.sleep(0)
    released.set()
    assert (await first).connection is not (await second).connection
    assert (service.active, service.idle) == (0, 1)
    service.close()


async def test_a_connection_that_is_released_after_the_end_is_closed(server: RawUpstream) -> None:
    released = held(server)
    service = upstream(server)
    running = asyncio.create_task(exchange(service))
    await settled(lambda: server.requests)
    service.close()
    released.set()
    assert (await running).body == b"ok"
    assert (service.active, service.idle) == (0, 0)
