"""Bodies and heads between a client and an upstream."""

import asyncio
import hashlib
import resource
from collections.abc import Callable

import pytest

from tests.harness import House
from tests.sockets import OK, Exchange, dechunked, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="session")

MEGABYTES = 10
BLOCK = bytes(range(256)) * 256
TOTAL = MEGABYTES * 16 * len(BLOCK)
DIGEST = hashlib.sha256(BLOCK * (MEGABYTES * 16)).digest()


async def poll(condition: Callable[[], object], what: str) -> None:
    """Wait until the condition is true."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.002)
    pytest.fail(what)


# Requests ------------------------------------------------------------------------------------------


async def test_a_request_head_is_forwarded(house: House) -> None:
    fields = (
        b"X-b: 2",
        b"x-A: 1",
        b"X-b: 3",
        b"ACCEPT: */*",
        b"X-Empty:",
        b"X-Latin: \xe9",
        b"Cookie: a=b; c=d",
    )
    received = await house.forwarded("/public/x?b=2&a=1&b=3", *fields)
    assert received.line == b"GET /public/x?b=2&a=1&b=3 HTTP/1.1"
    sent = [tuple(field.split(b":", 1)) for field in fields]
    ours = len(sent) + 1
    assert received.fields[1:ours] == [(name, value.strip()) for name, value in sent]


@pytest.mark.parametrize(
    "method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "M-SEARCH"]
)
async def test_any_method_is_forwarded(house: House, method: str) -> None:
    received = await house.forwarded("/public/x", method=method)
    assert received.line == f"{method} /public/x HTTP/1.1".encode()


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_a_large_request_body_streams(house: House, *, chunked: bool) -> None:
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % TOTAL
    async with house.connect() as client:
        await client.send(request_bytes("POST", "/public/x", framing))
        for _ in range(MEGABYTES * 16):
            await client.send(b"%x\r\n%b\r\n" % (len(BLOCK), BLOCK) if chunked else BLOCK)
        await client.send(b"0\r\n\r\n" if chunked else b"")
        response = await client.response()
    assert response is not None
    assert response.status == 200
    (received,) = house.upstream.requests
    body = dechunked(received.body) if chunked else received.body
    assert hashlib.sha256(body).digest() == DIGEST
    assert received.values(b"content-length") == ([] if chunked else [b"%d" % TOTAL])
    assert received.values(b"transfer-encoding") == ([b"chunked"] if chunked else [])


async def test_the_first_part_of_a_body_is_not_held_back(house: House) -> None:
    async def answer(exchange: Exchange) -> None:
        assert await exchange.wire.exactly(3) == b"abc"
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc")
        await exchange.send(await exchange.wire.exactly(3))

    house.upstream.behave(answer)
    async with house.connect() as client:
        await client.send(request_bytes("POST", "/public/x", b"Content-Length: 6") + b"abc")
        await client.until(b"\r\n\r\n")
        assert await client.exactly(3) == b"abc"
        await client.send(b"def")
        assert await client.exactly(3) == b"def"


async def test_an_upstream_that_does_not_read_stops_the_client(house: House) -> None:
    """Back-pressure: the gateway reads no more from a client than its upstream takes."""
    released = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        await released.wait()
        await exchange.read_body()
        await exchange.send(OK)

    house.upstream.behave(answer)
    total = 64 * 1024 * 1024
    sent = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with house.connect() as client:
        await client.send(request_bytes("POST", "/public/x", b"Content-Length: %d" % total))
        try:
            while sent < total:
                client.writer.write(BLOCK)
                sent += len(BLOCK)
                async with asyncio.timeout(0.5):
                    await client.writer.drain()
        except TimeoutError:
            pass
        assert sent < total / 2, "all of it was taken while the upstream read nothing"
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        assert grown < total / 2
        # The client continues when the upstream does.
        released.set()
        await poll(lambda: client.writer.transport.get_write_buffer_size() == 0, "the rest was never taken")


async def test_a_client_that_does_not_read_stops_the_upstream(house: House) -> None:
    total = 64 * 1024 * 1024
    sent = 0

    async def answer(exchange: Exchange) -> None:
        nonlocal sent
        exchange.wire.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        while sent < total:
            exchange.wire.writer.write(BLOCK)
            sent += len(BLOCK)
            await exchange.wire.writer.drain()

    house.upstream.behave(answer)
    async with house.connect() as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport of sockets reads
        await client.send(request_bytes("GET", "/public/x"))
        last = -1
        while sent != last or sent == 0:
            last = sent
            await asyncio.sleep(0.1)
        assert sent < total / 2, "all of it was taken while the client read nothing"
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above
        response = await client.response()
        assert response is not None
        assert len(response.body) == total


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_a_large_response_body_streams(house: House, *, chunked: bool) -> None:
    async def answer(exchange: Exchange) -> None:
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % TOTAL
        await exchange.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n")
        for _ in range(MEGABYTES * 16):
            await exchange.send(b"%x\r\n%b\r\n" % (len(BLOCK), BLOCK) if chunked else BLOCK)
        await exchange.send(b"0\r\n\r\n" if chunked else b"")

    house.upstream.behave(answer)
    async with house.connect() as client:
        for _ in range(2):  # and the connections are used again
            await client.send(request_bytes("GET", "/public/x"))
            response = await client.response()
            assert response is not None
            assert response.complete
            assert hashlib.sha256(response.content).digest() == DIGEST
    assert len(house.upstream.wires) == 1


# Responses -----------------------------------------------------------------------------------------


async def test_a_response_head_is_passed_on(house: House) -> None:
    house.upstream.answer(
        b"HTTP/1.1 299 Odd But Fine\r\nX-b: 2\r\nx-A: 1\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
        b"X-Latin: \xe9\r\n"
        b"Connection: X-Hop, close\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\n"
        b"X-Request-Id: theirs\r\nContent-Length: 2\r\n\r\nok"
    )
    response = await house.request("/public/x")
    assert response.head.startswith(b"HTTP/1.1 299 Odd But Fine\r\n")
    names = [name for name, _ in response.fields]
    assert names == [
        b"X-b",
        b"x-A",
        b"Set-Cookie",
        b"Set-Cookie",
        b"X-Latin",
        b"Content-Length",
        b"X-Request-Id",
    ]
    assert response.field(b"x-latin") == b"\xe9"
    assert response.field(b"x-request-id") != b"theirs"
    assert response.body == b"ok"


async def test_chunks_and_trailers_are_passed_on_without_extensions(house: House) -> None:
    body = b"3\r\nabc\r\n1;ext=1\r\nd\r\n0\r\nX-Checksum: 1\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Checksum\r\n\r\n"
    house.upstream.answer(head + body)
    async with house.connect() as client:
        for _ in range(2):
            await client.send(request_bytes("GET", "/public/x"))
            response = await client.response()
            assert response is not None
            assert response.body == body.replace(b";ext=1", b"")
            assert response.values(b"transfer-encoding") == [b"chunked"]
            assert response.values(b"trailer") == [b"X-Checksum"]
            assert response.field(b"content-length") is None


async def test_trailer_is_dropped_where_no_trailers_can_follow(house: House) -> None:
    house.upstream.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTrailer: X-T\r\n\r\nok")
    response = await house.request("/public/x")
    assert response.values(b"trailer") == []


async def test_each_chunk_is_passed_on_at_once(house: House) -> None:
    """Server-sent events: the gateway does not wait for the end, which may never come."""
    went = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await went.wait()
        await exchange.send(b"0\r\n\r\n")

    house.upstream.behave(answer)
    async with house.connect() as client:
        await client.send(request_bytes("GET", "/public/x"))
        await client.until(b"\r\n\r\n")
        assert await client.exactly(8) == b"3\r\nabc\r\n"
        went.set()
        assert await client.exactly(5) == b"0\r\n\r\n"


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_head_has_no_body(house: House, version: bytes) -> None:
    for framing in (b"Content-Length: 9", b"Transfer-Encoding: chunked", b"X-None: 1"):
        house.upstream.answer(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n")
        async with house.connect() as client:
            for _ in range(2):
                await client.send(
                    b"HEAD /public/x HTTP/"
                    + version
                    + b"\r\nHost: gateway.test\r\nConnection: keep-alive\r\n\r\n"
                )
                head = await client.response(to_head=True)
                assert head is not None
                assert head.status == 200
            assert client.raw.endswith(b"\r\n\r\n")
    assert len(house.upstream.requests) == 6


@pytest.mark.parametrize("pieces", [1, 3])
async def test_an_http_1_0_client_gets_no_chunks(house: House, pieces: int) -> None:
    house.upstream.answer(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n",
        *[b"3\r\nabc\r\n"] * pieces,
        b"0\r\nX-T: 1\r\n\r\n",
    )
    async with house.connect() as client:
        await client.send(b"GET /public/x HTTP/1.0\r\nHost: gateway.test\r\nConnection: keep-alive\r\n\r\n")
        response = await client.response()
        assert response is not None
        assert response.body == b"abc" * pieces
        assert response.complete
        assert response.values(b"transfer-encoding") == response.values(b"trailer") == []
        assert response.field(b"connection") == b"close"


async def test_an_http_1_0_client_notices_a_body_that_broke_off(house: House) -> None:
    """Without chunks and length, only a reset shows it."""
    house.upstream.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", close=True)
    async with house.connect() as client:
        await client.send(b"GET /public/x HTTP/1.0\r\nHost: gateway.test\r\n\r\n")
        response = await client.response()
        assert response is None or not response.complete
        assert client.broken


async def test_an_http_1_0_client_may_keep_its_connection(house: House) -> None:
    async with house.connect() as client:
        for _ in range(2):
            await client.send(
                b"GET /public/x HTTP/1.0\r\nHost: gateway.test\r\nConnection: keep-alive\r\n\r\n"
            )
            response = await client.response()
            assert response is not None
            assert response.field(b"connection") == b"keep-alive"
        await client.send(b"GET /public/x HTTP/1.0\r\nHost: gateway.test\r\n\r\n")
        last = await client.response()
        assert last is not None
        assert await client.closed()


async def test_connection_close_of_a_client_is_obeyed_and_not_forwarded(house: House) -> None:
    async with house.connect() as client:
        await client.send(request_bytes("GET", "/public/x", b"Connection: close"))
        response = await client.response()
        assert response is not None
        assert response.field(b"connection") == b"close"
        assert await client.closed()
    await house.request("/public/y")
    assert len(house.upstream.wires) == 1


async def test_an_early_answer_arrives_while_the_body_is_still_coming(house: House) -> None:
    refusal = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig"

    async def answer(exchange: Exchange) -> None:
        await exchange.wire.exactly(1)
        await exchange.send(refusal)

    house.upstream.behave(answer)
    async with house.connect() as client:
        await client.send(request_bytes("POST", "/public/x", b"Content-Length: 100000000") + BLOCK)
        response = await client.response()
        assert response is not None
        assert (response.status, response.body) == (413, b"big")
        # The rest of the body may still come, so no request can follow.
        assert response.field(b"connection") == b"close"
    (wire,) = house.upstream.wires
    await wire.until_ended()
