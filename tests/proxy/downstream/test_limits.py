"""Clients that exceed a limit: their answers on the wire, without an effect on other clients."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from gateway.app import serve
from gateway.core.model import JSON
from gateway.proxy.downstream.limits import (
    ConnectionLimiter,
    DeadlineMonitor,
    LimitExceeded,
    Limits,
    TransferRate,
    network_of,
)
from gateway.settings import Settings
from gateway.telemetry import logs
from tests.harness import House, configuration, unused_port
from tests.sockets import OK, Exchange, RawClient, RawUpstream, request_bytes

session = pytest.mark.asyncio(loop_scope="session")

TIGHT: dict[str, JSON] = {
    "head_size": "4KiB",
    "header_count": 20,
    "field_size": "1KiB",
    "target_length": "100B",
    "header_timeout": "300ms",
    "keepalive_timeout": "600ms",
    "keepalive_requests": 4,
    "body_size": "10KiB",
    "body_min_rate": "1KiB",
    "response_min_rate": "1KiB",
    "rate_grace": "300ms",
}
KIB = 1024


@asynccontextmanager
async def house_with(folder: Path, limits: dict[str, JSON], **server: JSON) -> AsyncIterator[House]:
    """Run a gateway without stores: its public routes need none."""
    dsn, redis = f"postgresql://x@127.0.0.1:{unused_port()}/x", f"redis://127.0.0.1:{unused_port()}"
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(RawUpstream())
        settings = configuration(folder, upstream.url, dsn, redis, "gateway:")
        settings["server"] = {"listen": "127.0.0.1:0", "workers": 1, "limits": limits, **server}
        assert isinstance(settings["routes"], list)
        large: dict[str, JSON] = {
            "name": "large",
            "match": {"path": "/large/**"},
            "upstream": "raw",
            "auth": "none",
        }
        settings["routes"].insert(0, {**large, "max_body": "64MiB"})
        running = await stack.enter_async_context(serve(Settings.model_validate(settings)))
        house = House(running.url, running.admin_url, upstream, dsn, redis, "gateway:")
        logs.configure("info", house.log)
        yield house


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def standing_tight(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with house_with(tmp_path_factory.mktemp("tight"), TIGHT) as house:
        yield house


@pytest_asyncio.fixture(loop_scope="session")
async def tight(standing_tight: House) -> AsyncIterator[House]:
    """One gateway with small limits."""
    logs.configure("info", standing_tight.log)
    yield standing_tight
    await standing_tight.upstream.reset()


@asynccontextmanager
async def exceeding(house: House, limit: str) -> AsyncIterator[None]:
    """Expect that exactly one limit is exceeded, once."""

    async def exceeded() -> dict[str, float]:
        return {
            dict(labels)["limit"]: value
            for (name, labels), value in (await house.metrics()).items()
            if name == "gateway_limits_exceeded_total"
        }

    before = await exceeded()
    yield
    after = await exceeded()
    assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == {limit: 1}


async def refused(client: RawClient, status: int, code: str) -> None:
    """Expect a refusal and the end of the connection."""
    response = await client.response()
    assert response is not None
    assert (response.status, response.code) == (status, code)
    assert response.field(b"connection") == b"close"
    assert await client.closed()


async def poll(condition: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(300):
        if await condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it never became true")


# Heads ---------------------------------------------------------------------------------------------


def target(length: int) -> str:
    return "/public/".ljust(length, "x")


def head(size: int, fields: int = 6) -> bytes:
    """Return a head of `size` bytes, with a number of fields."""
    empty = request_bytes("GET", "/public/x", *[b"X-Fill: "] * fields)
    share, rest = divmod(size - len(empty), fields)
    filled = request_bytes(
        "GET", "/public/x", *[b"X-Fill: " + b"y" * (share + (n < rest)) for n in range(fields)]
    )
    assert len(filled) == size
    return filled


AT_THE_LIMIT = {
    "target_length": request_bytes("GET", target(100)),
    "field_size": request_bytes("GET", "/public/x", b"X-A: " + b"y" * (KIB - 3)),
    "header_count": request_bytes("GET", "/public/x", *[b"X-A: b"] * 19),
    "head_size": head(4 * KIB),
}
BEYOND = {
    "target_length": (request_bytes("GET", target(101)), 414, "target_too_long"),
    "field_size": (request_bytes("GET", "/public/x", b"X-A: " + b"y" * (KIB + 1)), 431, "request_too_large"),
    "header_count": (request_bytes("GET", "/public/x", *[b"X-A: b"] * 20), 431, "request_too_large"),
    "head_size": (head(4 * KIB + 1), 431, "request_too_large"),
}


@session
@pytest.mark.parametrize("limit", AT_THE_LIMIT)
async def test_a_head_at_the_limit_passes(tight: House, limit: str) -> None:
    assert (await tight.exchange(AT_THE_LIMIT[limit])).status == 200


@session
@pytest.mark.parametrize("limit", BEYOND)
async def test_a_head_beyond_the_limit_is_refused(tight: House, limit: str) -> None:
    sent, status, code = BEYOND[limit]
    async with exceeding(tight, limit), tight.connect() as client:
        await client.send(sent)
        await refused(client, status, code)
    assert tight.upstream.wires == []


@session
@pytest.mark.parametrize("limit", BEYOND)
async def test_requests_before_a_head_beyond_the_limit_are_answered(tight: House, limit: str) -> None:
    sent, status, code = BEYOND[limit]
    async with tight.connect() as client:
        await client.send(request_bytes("GET", "/public/x"), sent)
        first = await client.response()
        assert first is not None
        assert first.status == 200
        await refused(client, status, code)
    assert len(tight.upstream.requests) == 1


@session
async def test_pipelined_heads_are_measured_one_by_one(tight: House) -> None:
    async with exceeding(tight, "head_size"), tight.connect() as client:
        await client.send(head(4 * KIB) + head(4 * KIB) + head(4 * KIB + 1))
        for _ in range(2):
            response = await client.response()
            assert response is not None
            assert response.status == 200
        await refused(client, 431, "request_too_large")


@session
@pytest.mark.parametrize(
    ("limit", "start", "drop", "status"),
    [
        ("head_size", b"GET /public/x HTTP/1.1\r\nHost: a\r\n", b"X-A: " + b"y" * 500 + b"\r\n", 431),
        ("head_size", b"POST /large/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
         b"X-A: " + b"y" * 500 + b"\r\n", 431),
        ("head_size", b"POST /large/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;",
         b"e" * 500, 431),
    ],
    ids=["head", "trailers", "chunk extension"],
)  # fmt: skip
async def test_endless_data_is_refused_while_it_arrives(
    tight: House, limit: str, start: bytes, drop: bytes, status: int
) -> None:
    async with exceeding(tight, limit), tight.connect() as client:
        await client.send(start, *[drop] * 10)
        response = await client.response()
        assert response is not None
        assert (response.status, response.code) == (status, "request_too_large")


@session
async def test_chunk_extensions_between_content_do_not_add_up(tight: House) -> None:
    async with tight.connect() as client:
        await client.send(request_bytes("POST", "/large/x", b"Transfer-Encoding: chunked"))
        for _ in range(12):
            await client.send(b"1;" + b"e" * 500, b"\r\na\r\n")
        await client.send(b"0\r\n\r\n")
        response = await client.response()
        assert response is not None
        assert response.status == 200


@session
async def test_a_body_does_not_count_as_a_part_of_the_head(tight: House) -> None:
    async with tight.connect() as client:
        for _ in range(3):
            await client.send(request_bytes("POST", "/public/x", body=b"a" * 9 * KIB))
            response = await client.response()
            assert response is not None
            assert response.status == 200


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


# Bodies --------------------------------------------------------------------------------------------


@session
async def test_a_slow_body_is_refused_and_the_upstreams_connection_closed(tight: House) -> None:
    async with exceeding(tight, "body_min_rate"), tight.connect() as client:
        await client.send(request_bytes("POST", "/public/x", b"Content-Length: 1000") + b"abc")
        await refused(client, 408, "request_timeout")
    assert tight.events("library") == []
    (wire,) = tight.upstream.wires

    async def ended() -> bool:
        return wire.ended

    await poll(ended)


@session
async def test_a_body_at_the_rate_passes(tight: House) -> None:
    async with tight.connect() as client:
        await client.send(request_bytes("POST", "/public/x", b"Content-Length: 2400"))
        for _ in range(12):
            await client.send(b"a" * 200)
            await asyncio.sleep(0.05)
        response = await client.response()
        assert response is not None
        assert response.status == 200


@session
async def test_a_body_is_not_slow_because_its_upstream_is(tight: House) -> None:
    async def read_late(exchange: Exchange) -> None:
        await asyncio.sleep(0.8)
        await exchange.read_body()
        await exchange.send(OK)

    tight.upstream.behave(read_late)
    response = await tight.request("/large/x", method="POST", body=bytes(32 * KIB * KIB))
    assert response.status == 200


@session
async def test_a_body_is_not_slow_while_it_waits_for_100(tight: House) -> None:
    async def invite_late(exchange: Exchange) -> None:
        await asyncio.sleep(0.7)
        await exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await exchange.wire.exactly(3) == b"abc"
        await exchange.send(OK)

    tight.upstream.behave(invite_late)
    async with tight.connect() as client:
        await client.send(request_bytes("POST", "/public/x", b"Content-Length: 3", b"Expect: 100-continue"))
        assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        await client.send(b"abc")
        response = await client.response()
        assert response is not None
        assert response.status == 200


@session
async def test_a_body_that_does_not_come_after_its_100_is_slow(tight: House) -> None:
    async def invite(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await exchange.wire.to_end()

    tight.upstream.behave(invite)
    async with exceeding(tight, "body_min_rate"), tight.connect() as client:
        await client.send(request_bytes("POST", "/public/x", b"Content-Length: 3", b"Expect: 100-continue"))
        assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        await refused(client, 408, "request_timeout")


def chunked(size: int) -> bytes:
    return b"%x\r\n%b\r\n" % (size, b"a" * size)


@session
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_body_at_the_limit_passes(tight: House, framing: str) -> None:
    body = b"a" * 10 * KIB
    if framing == "length":
        sent = request_bytes("POST", "/public/x", body=body)
    else:
        sent = (
            request_bytes("POST", "/public/x", b"Transfer-Encoding: chunked")
            + chunked(10 * KIB)
            + b"0\r\n\r\n"
        )
    assert (await tight.exchange(sent)).status == 200


@session
async def test_a_body_with_a_length_beyond_the_limit_is_refused_unread(tight: House) -> None:
    async with exceeding(tight, "body_size"), tight.connect() as client:
        await client.send(
            request_bytes("POST", "/public/x", b"Content-Length: 10241", b"Expect: 100-continue")
        )
        response = await client.response()
        assert response is not None
        assert (response.status, response.code) == (413, "body_too_large")
        assert response.interim == ()
    assert tight.upstream.wires == []


@session
async def test_a_body_that_grows_too_large_is_broken_off(tight: House) -> None:
    async with exceeding(tight, "body_size"), tight.connect() as client:
        await client.send(request_bytes("POST", "/public/x", b"Transfer-Encoding: chunked"))
        await client.send(chunked(6 * KIB), chunked(6 * KIB))
        response = await client.response()
        assert response is not None
        assert (response.status, response.code) == (413, "body_too_large")
    (received,) = tight.upstream.requests
    assert not received.body.endswith(b"0\r\n\r\n")


@session
async def test_a_body_that_grows_too_large_breaks_a_response_that_has_begun(tight: House) -> None:
    async def answer_at_once(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n!!")
        await exchange.wire.to_end()

    tight.upstream.behave(answer_at_once)
    async with exceeding(tight, "body_size"), tight.connect() as client:
        await client.send(
            request_bytes("POST", "/public/x", b"Transfer-Encoding: chunked") + chunked(6 * KIB)
        )
        assert (await client.until(b"!!")).endswith(b"\r\n\r\n!!")
        await client.send(chunked(6 * KIB))
        assert await client.to_end() == b""
        assert client.broken


@session
async def test_a_route_has_its_own_limit(tight: House) -> None:
    response = await tight.request("/large/x", method="POST", body=b"a" * 11 * KIB)
    assert response.status == 200


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
