"""Clients that are too slow or too many: the answers on the wire, without an effect on other clients."""

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.core.model import JSON
from gateway.proxy.downstream.limits import (
    ConnectionLimiter,
    DeadlineMonitor,
    LimitExceeded,
    Limits,
    TransferRate,
    network_of,
)
from tests.harness import House
from tests.proxy.downstream.limited import KIB, exceeding, house_with, poll, refused, session
from tests.sockets import OK, Exchange, request_bytes

# Times ---------------------------------------------------------------------------------------------


@session
async def test_a_slow_head_is_refused(tight: House) -> None:
    async with exceeding(tight, "header_timeout"), tight.connect() as client:
        await client.send(b"GET /public/x HT")
        await refused(client, 408, "request_timeout")


@session
async def test_a_slow_second_head_is_refused(tight: House) -> None:
    async with exceeding(tight, "header_timeout"), tight.connect() as client:
        await client.send(request_bytes("GET", "/public/x"))
        assert await client.response()
        # Long enough that the gateway no longer watches the connection.
        await asyncio.sleep(0.25)
        await client.send(b"GET /public/x HT")
        await refused(client, 408, "request_timeout")


@session
async def test_a_head_that_has_begun_is_not_cut_off_as_idle(tight: House) -> None:
    async with tight.connect() as client:
        await client.send(request_bytes("GET", "/public/x"))
        assert await client.response()
        await asyncio.sleep(0.4)
        await client.send(b"GET /public/x HT")
        await asyncio.sleep(0.25)
        await client.send(b"TP/1.1\r\nHost: gateway.test\r\n\r\n")
        response = await client.response()
        assert response is not None
        assert response.status == 200


@session
async def test_a_head_that_arrives_byte_by_byte_in_time_passes(tight: House) -> None:
    async with tight.connect() as client:
        for octet in request_bytes("GET", "/public/x"):
            client.writer.write(bytes([octet]))
            await asyncio.sleep(0)
        response = await client.response()
        assert response is not None
        assert response.status == 200


@session
async def test_a_connection_that_sends_nothing_is_closed_without_an_answer(tight: House) -> None:
    async with exceeding(tight, "header_timeout"), tight.connect() as client:
        assert await client.closed()


@session
async def test_an_idle_connection_is_closed_without_an_answer(tight: House) -> None:
    denied = len(tight.events("denied"))
    async with tight.connect() as client:
        await client.send(request_bytes("GET", "/public/x"))
        assert await client.response()
        assert await client.closed()
    assert len(tight.events("denied")) == denied


@session
async def test_waiting_for_an_upstream_does_not_count_as_slowness_of_the_client(tight: House) -> None:
    async def answer_late(exchange: Exchange) -> None:
        await asyncio.sleep(0.7)
        await exchange.send(OK)

    tight.upstream.behave(answer_late)
    assert (await tight.request("/public/x")).status == 200


@session
async def test_a_head_after_a_request_in_progress_is_not_slow(tight: House) -> None:
    async def answer_late(exchange: Exchange) -> None:
        await asyncio.sleep(0.7)
        await exchange.send(OK)

    tight.upstream.behave(answer_late)
    async with tight.connect() as client:
        await client.send(request_bytes("GET", "/public/x"), b"GET /public/y HT")
        for _ in range(2):
            response = await client.response()
            assert response is not None
            assert response.status == 200
            tight.upstream.answer(OK)
            await client.send(b"TP/1.1\r\nHost: gateway.test\r\n\r\n")


# Responses -----------------------------------------------------------------------------------------


@session
async def test_a_client_that_does_not_read_is_cut_off(tight: House) -> None:
    async def pour(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        while not exchange.wire.writer.is_closing():
            await exchange.send(b"a" * 64 * KIB)

    tight.upstream.behave(pour)
    async with exceeding(tight, "response_min_rate"), tight.connect() as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that reads, too
        await client.send(request_bytes("GET", "/public/x"))

        async def cut_off() -> bool:
            return bool(tight.events("limit_exceeded"))

        await poll(cut_off)
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]  # the same
        await client.to_end()
        assert client.broken


@session
async def test_a_quiet_stream_is_not_a_slow_reader(tight: House) -> None:
    async def events(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        await asyncio.sleep(0.8)
        await exchange.send(b"cd")

    tight.upstream.behave(events)
    response = await tight.request("/public/x")
    assert (response.content, response.complete) == (b"abcd", True)


# Connections ---------------------------------------------------------------------------------------


@session
async def test_a_connection_has_a_largest_number_of_requests(tight: House) -> None:
    async with exceeding(tight, "keepalive_requests"), tight.connect() as client:
        for number in range(1, 5):
            await client.send(request_bytes("GET", "/public/x"))
            response = await client.response()
            assert response is not None
            assert response.field(b"connection") == (b"close" if number == 4 else None)
        assert await client.closed()


@session
async def test_a_client_has_a_largest_number_of_connections(tmp_path: Path) -> None:
    async with house_with(tmp_path, {"connections_per_client": 2}) as house:
        async with house.connect() as first, house.connect() as second:
            for client in (first, second):
                await client.send(request_bytes("GET", "/public/x"))
                assert await client.response()
            assert await house.metric("gateway_client_connections") == 2
            async with exceeding(house, "connections_per_client"), house.connect() as third:
                response = await third.response()
                assert response is not None
                assert (response.status, response.code) == (429, "connections_exceeded")
                assert response.field(b"retry-after") == b"5"
                assert await third.closed()

        async def none_left() -> bool:
            return await house.metric("gateway_client_connections") == 0

        await poll(none_left)
        assert (await house.request("/public/x")).status == 200


@session
async def test_a_worker_has_a_largest_number_of_connections_from_all_clients(tmp_path: Path) -> None:
    limits: dict[str, JSON] = {"connections_per_client": 1, "max_connections": 2}
    async with (
        house_with(tmp_path, limits, trusted_proxies=["127.0.0.0/8"]) as house,
        house.connect() as first,
        house.connect() as second,
    ):
        for client in (first, second):
            await client.send(request_bytes("GET", "/public/x"))
            response = await client.response()
            assert response is not None
            assert response.status == 200
        async with exceeding(house, "max_connections"), house.connect() as third:
            response = await third.response()
            assert response is not None
            assert (response.status, response.code) == (503, "overloaded")


# Values --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_a_client_is_an_address_or_a_network(peer: str, client: str) -> None:
    assert network_of(peer) == client


def test_connections_over_unix_sockets_are_not_limited_by_client() -> None:
    clients = ConnectionLimiter(Limits(connections_per_client=1), exempt=lambda _: False)
    clients.enter("")
    clients.enter("")
    clients.enter("192.0.2.7")
    with pytest.raises(LimitExceeded, match="connections_per_client"):
        clients.enter("192.0.2.7")
    assert clients.total == 3


def test_a_fast_transfer_saves_at_most_the_grace() -> None:
    rate = TransferRate()
    assert not rate.too_slow(0, 1.0, rate=100, grace=5.0)
    assert not rate.too_slow(1_000_000, 1.0, rate=100, grace=5.0)
    stalled = [rate.too_slow(1_000_000, 1.0, rate=100, grace=5.0) for _ in range(6)]
    assert stalled == [False] * 5 + [True]


def test_a_transfer_at_half_the_rate_is_too_slow_after_twice_the_grace() -> None:
    rate = TransferRate()
    seconds = next(second for second in range(100) if rate.too_slow(second * 50, 1.0, rate=100, grace=5.0))
    assert seconds == 11


def test_a_rate_of_zero_is_no_limit() -> None:
    rate = TransferRate()
    assert not any(rate.too_slow(0, 60.0, rate=0, grace=1.0) for _ in range(10))


async def test_a_bug_in_one_check_does_not_end_the_others() -> None:
    class Odd:
        def check(self, _: float) -> bool:
            raise ZeroDivisionError("odd")

    class Patient:
        looks = 0

        def check(self, _: float) -> bool:
            self.looks += 1
            return self.looks < 3

    patient = Patient()
    deadlines = DeadlineMonitor(asyncio.get_running_loop(), 0.01)
    with capture_logs() as entries:
        deadlines.watch(Odd())
        deadlines.watch(patient)
        await asyncio.sleep(0.2)
    assert patient.looks == 3
    assert {entry["event"] for entry in entries} == {"limits_not_looked_at"}
