"""Heads and bodies that are too large or too slow: the answers on the wire."""

import asyncio

import pytest

from tests.harness import House
from tests.proxy.downstream.limited import KIB, exceeding, poll, refused, session
from tests.sockets import OK, Exchange, request_bytes

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
