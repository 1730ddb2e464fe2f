"""Threats: message framing: the boundary between two requests must be unambiguous."""

import asyncio

import pytest

from tests.harness import House, token
from tests.sockets import Exchange, dechunked, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="session")

SMUGGLED = b"GET /private/smuggled HTTP/1.1\r\nHost: gateway.test\r\n\r\n"


def post(*fields: bytes, rest: bytes = b"", version: bytes = b"1.1") -> bytes:
    head = [b"POST /public/x HTTP/" + version, b"Host: gateway.test", *fields]
    return b"\r\n".join([*head, b"", b""]) + rest


CHUNKS = b"3\r\nabc\r\n0\r\n\r\n"

HEADS = {
    "length-and-chunked": post(b"Content-Length: 3", b"Transfer-Encoding: chunked", rest=CHUNKS),
    "chunked-and-length": post(b"Transfer-Encoding: chunked", b"Content-Length: 3", rest=CHUNKS),
    "chunked-and-length-0": post(b"Transfer-Encoding: chunked", b"Content-Length: 0", rest=CHUNKS),
    "two-lengths": post(b"Content-Length: 3", b"Content-Length: 4", rest=b"abcd"),
    "two-lengths-alike": post(b"Content-Length: 3", b"Content-Length: 3", rest=b"abc"),
    "lengths-in-a-list": post(b"Content-Length: 3, 4", rest=b"abcd"),
    "lengths-alike-in-a-list": post(b"Content-Length: 3, 3", rest=b"abc"),
    "length-with-plus": post(b"Content-Length: +3", rest=b"abc"),
    "length-negative": post(b"Content-Length: -3", rest=b"abc"),
    "length-hexadecimal": post(b"Content-Length: 0x3", rest=b"abc"),
    "length-with-underscore": post(b"Content-Length: 0_3", rest=b"abc"),
    "length-empty": post(b"Content-Length: ", rest=b"abc"),
    "length-of-21-digits": post(b"Content-Length: 100000000000000000003", rest=b"abc"),
    "length-with-space-inside": post(b"Content-Length: 3 3", rest=b"abc"),
    "chunked-misspelt": post(b"Transfer-Encoding: xchunked", rest=CHUNKS),
    "chunked-quoted": post(b'Transfer-Encoding: "chunked"', rest=CHUNKS),
    "chunked-with-vertical-tab": post(b"Transfer-Encoding: \x0bchunked", rest=CHUNKS),
    "chunked-twice-in-a-list": post(b"Transfer-Encoding: chunked, chunked", rest=CHUNKS),
    "chunked-twice-in-fields": post(
        b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", rest=CHUNKS
    ),
    "chunked-not-last": post(b"Transfer-Encoding: chunked, identity", rest=CHUNKS),
    "coding-in-two-fields": post(b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked", rest=CHUNKS),
    "identity": post(b"Transfer-Encoding: identity", rest=CHUNKS),
    "transfer-encoding-empty": post(b"Transfer-Encoding:", rest=CHUNKS),
    "chunked-in-http-1.0": post(b"Transfer-Encoding: chunked", rest=CHUNKS, version=b"1.0"),
    "space-before-the-colon": post(b"Content-Length : 3", rest=b"abc"),
    "tab-before-the-colon": post(b"Transfer-Encoding\t: chunked", rest=CHUNKS),
    "space-before-the-name": post(b" Transfer-Encoding: chunked", rest=CHUNKS),
    "obs-fold": post(b"X-Folded: a\r\n b"),
    "obs-fold-in-transfer-encoding": post(b"Transfer-Encoding:\r\n chunked", rest=CHUNKS),
    "bare-lf-line-ends": b"POST /public/x HTTP/1.1\nHost: gateway.test\nContent-Length: 3\n\nabc",
    "bare-lf-in-a-field": post(b"X-Field: a\nTransfer-Encoding: chunked", rest=CHUNKS),
    "bare-lf-at-the-head's-end": b"GET /public/x HTTP/1.1\r\nHost: gateway.test\n\n",
    "bare-cr-in-a-field": post(b"X-Field: a\rTransfer-Encoding: chunked", rest=CHUNKS),
    "bare-cr-line-ends": b"POST /public/x HTTP/1.1\rHost: gateway.test\r\rabc",
    "nul-in-a-value": post(b"X-Field: a\0b"),
    "nul-in-a-name": post(b"X-Fi\0eld: a"),
    "name-empty": post(b": a"),
    "name-not-a-token": post(b"X(Field): a"),
    "field-without-colon": post(b"X-Field"),
    "control-in-a-value": post(b"X-Field: a\x01b"),
    "version-2": post(version=b"2.0"),
    "version-of-two-digits": post(version=b"1.10"),
    "version-0.9": b"GET /public/x\r\n\r\n",
    "space-after-the-version": b"GET /public/x HTTP/1.1 \r\nHost: gateway.test\r\n\r\n",
    "method-not-a-token": b"GE(T /public/x HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
    "tls-hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "http2-preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("attack", HEADS.values(), ids=HEADS)
async def test_a_head_that_can_be_read_two_ways_is_refused(house: House, attack: bytes) -> None:
    async with house.connect() as client:
        await client.send(attack + SMUGGLED)
        response = await client.response()
        assert response is not None
        assert (response.status, response.code) == (400, "request_malformed")
        assert response.field(b"connection") == b"close"
        assert await client.closed()
    assert house.upstream.wires == []


BODIES = {
    "size-beyond-64-bits": b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    "size-with-prefix": b"0x3\r\nabc\r\n0\r\n\r\n",
    "size-with-plus": b"+3\r\nabc\r\n0\r\n\r\n",
    "size-negative": b"-3\r\nabc\r\n0\r\n\r\n",
    "size-with-underscore": b"0_3\r\nabc\r\n0\r\n\r\n",
    "size-with-space-before": b" 3\r\nabc\r\n0\r\n\r\n",
    "size-missing": b"\r\nabc\r\n0\r\n\r\n",
    "size-too-small": b"2\r\nabc\r\n0\r\n\r\n",
    "size-too-large": b"4\r\nabc\r\n0\r\n\r\n",
    "bare-lf-after-size": b"3\nabc\r\n0\r\n\r\n",
    "bare-cr-after-size": b"3\rabc\r\n0\r\n\r\n",
    "bare-lf-after-data": b"3\r\nabc\n0\r\n\r\n",
    "bare-lf-in-extension": b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "bare-cr-in-extension": b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "bare-lf-at-the-end": b"3\r\nabc\r\n0\r\n\n",
    "nul-in-extension": b"3;a\0b\r\nabc\r\n0\r\n\r\n",
    "trailer-with-space-before-colon": b"3\r\nabc\r\n0\r\nX-Trailer : a\r\n\r\n",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_a_chunked_body_that_can_be_read_two_ways_never_becomes_whole(
    house: House, body: bytes
) -> None:
    async with house.connect() as client:
        await client.send(post(b"Transfer-Encoding: chunked", rest=body + SMUGGLED))
        response = await client.response()
        if response is not None:
            assert (response.status, response.code) == (400, "request_malformed")
            assert response.field(b"connection") == b"close"
        assert await client.closed()
    await house.upstream.settle()
    received = b"".join(bytes(wire.raw) for wire in house.upstream.wires)
    assert b"\r\n0\r\n\r\n" not in received
    assert received.count(b"HTTP/1.1") <= 1
    assert b"smuggled" not in received


async def test_a_coding_that_is_not_undone_is_refused(house: House) -> None:
    response = await house.exchange(post(b"Transfer-Encoding: gzip, chunked", rest=CHUNKS))
    assert (response.status, response.code) == (400, "request_malformed")
    assert house.upstream.wires == []


async def test_chunk_extensions_are_not_forwarded(house: House) -> None:
    response = await house.exchange(
        post(b"Transfer-Encoding: chunked", rest=b'3;a="b;c";d\r\nabc\r\n2;x=y\r\nde\r\n0;last\r\n\r\n')
    )
    assert response.status == 200
    (received,) = house.upstream.requests
    assert b";" not in received.body
    assert dechunked(received.body) == b"abcde"


async def test_trailers_are_not_forwarded(house: House) -> None:
    response = await house.exchange(
        post(
            b"Transfer-Encoding: chunked",
            b"Trailer: X-Checksum",
            b"TE: trailers",
            rest=b"3\r\nabc\r\n0\r\nX-Checksum: 1\r\nX-User-Id: forged\r\n\r\n",
        )
    )
    assert response.status == 200
    (received,) = house.upstream.requests
    assert received.body == b"3\r\nabc\r\n0\r\n\r\n"
    assert received.values(b"trailer") == received.values(b"te") == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
async def test_a_body_on_get_stays_a_body(house: House, method: str) -> None:
    response = await house.request("/public/x", method=method, body=SMUGGLED)
    assert response.status == 200
    (received,) = house.upstream.requests
    assert received.body == SMUGGLED
    assert received.values(b"content-length") == [b"%d" % len(SMUGGLED)]


async def test_a_chunked_body_on_get_stays_a_body(house: House) -> None:
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
    response = await house.exchange(
        request_bytes("GET", "/public/x", b"Transfer-Encoding: chunked") + chunked
    )
    assert response.status == 200
    (received,) = house.upstream.requests
    assert dechunked(received.body) == SMUGGLED
    assert received.values(b"transfer-encoding") == [b"chunked"]
    assert received.values(b"content-length") == []


async def test_bytes_after_the_body_are_no_part_of_it(house: House) -> None:
    async with house.connect() as client:
        await client.send(request_bytes("POST", "/public/x", body=b"abc"))
        first = await client.response()
        await client.send(b"excess\r\n\r\n")
        second = await client.response()
        assert first is not None
        assert first.status == 200
        assert second is not None
        assert second.status == 400
        assert await client.closed()
    (received,) = house.upstream.requests
    assert received.body == b"abc"


async def test_bytes_after_the_body_in_the_same_packet_are_no_part_of_it(house: House) -> None:
    async with house.connect() as client:
        await client.send(request_bytes("POST", "/public/x", body=b"abc") + b"excess\r\n\r\n")
        while (response := await client.response()) and response.status == 200:
            pass
        assert response is not None
        assert response.status == 400
        assert await client.closed()
    assert b"excess" not in b"".join(bytes(wire.raw) for wire in house.upstream.wires)


async def test_a_pipelined_request_needs_its_own_credentials(house: House) -> None:
    async with house.connect() as client:
        await client.send(
            request_bytes("GET", "/private/1", token=token())
            + request_bytes("GET", "/private/2")
            + request_bytes("GET", "/private/3", token=token("suspended"))
            + request_bytes("GET", "/private/4", token=token("admin"))
        )
        statuses = [response.status for response in [await client.response() for _ in range(4)] if response]
    assert statuses == [200, 401, 401, 200]
    assert [request.target for request in house.upstream.requests] == [b"/private/1", b"/private/4"]
    first, last = (request.values(b"x-auth-subject") for request in house.upstream.requests)
    assert (first, last) == ([b"member"], [b"admin"])


async def test_pipelined_responses_come_in_order(house: House) -> None:
    async def answer(exchange: Exchange) -> None:
        await asyncio.sleep(0.05 if exchange.request.target.endswith(b"/slow") else 0)
        target = exchange.request.target
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(target), target))

    house.upstream.behave(answer)
    targets = ["/public/slow", "/public/2", "/public/3"]
    async with house.connect() as client:
        await client.send(b"".join(request_bytes("GET", target) for target in targets))
        bodies = [
            response.body.decode() for response in [await client.response() for _ in targets] if response
        ]
    assert bodies == targets


async def test_a_pipeline_that_is_never_read_stays_bounded(house: House) -> None:
    """20 MB of requests whose first is not answered yet: the gateway stops reading."""
    released = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        await released.wait()
        await exchange.wire.close()

    house.upstream.behave(answer)
    one = request_bytes("GET", "/public/x", b"X-Padding: " + b"a" * 8000)
    sent = 0
    async with house.connect() as client:
        try:
            while sent < 20_000_000:
                client.writer.write(one)
                sent += len(one)
                async with asyncio.timeout(0.5):
                    await client.writer.drain()
        except TimeoutError:
            pass
        released.set()
    # Most of it waits in the buffers of the two sockets.
    assert sent < 15_000_000


async def test_expect_100_continue_is_answered_by_the_upstream(house: House) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await exchange.read_body()
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    house.upstream.behave(answer)
    async with house.connect() as client:
        await client.send(post(b"Content-Length: 3", b"Expect: 100-continue"))
        assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"abc")
        response = await client.response()
        assert response is not None
        assert response.status == 200
    # A pipelined request of the test before may have come late.
    (received,) = [each for each in house.upstream.requests if each.values(b"expect")]
    assert received.body == b"abc"
    assert received.values(b"expect") == [b"100-continue"]


async def test_expect_100_continue_gets_no_100_when_denied(house: House) -> None:
    async with house.connect() as client:
        await client.send(request_bytes("POST", "/private/x", b"Content-Length: 3", b"Expect: 100-continue"))
        response = await client.response()
        assert response is not None
        assert response.status == 401
        assert response.interim == ()
        # It is not known whether the client sends the body now, so the next bytes must not count as a
        # request.
        assert response.field(b"connection") == b"close"
        await client.send(SMUGGLED)
        assert await client.closed()
    assert house.upstream.wires == []


async def test_an_upgrade_does_not_open_a_tunnel_around_the_checks(house: House) -> None:
    """Bytes after an Upgrade that was not accepted are an ordinary request, or nothing."""
    fields = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13")
    async with house.connect() as client:
        await client.send(request_bytes("GET", "/untunnelled/x", *fields) + SMUGGLED)
        first = await client.response()
        assert first is not None
        second = await client.response()
        assert second is None or second.status in {400, 401}
    received = b"".join(bytes(wire.raw) for wire in house.upstream.wires)
    assert b"smuggled" not in received
    assert all(not request.values(b"upgrade") for request in house.upstream.requests)


async def test_connect_opens_no_tunnel(house: House) -> None:
    async with house.connect() as client:
        await client.send(b"CONNECT internal:22 HTTP/1.1\r\nHost: internal:22\r\n\r\n" + SMUGGLED)
        response = await client.response()
        assert response is not None
        assert (response.status, response.code) == (405, "method_not_allowed")
        assert response.field(b"allow") == b"DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
        rest = await client.response()
        assert rest is None or rest.status in {400, 401}
    assert house.upstream.wires == []


async def test_a_head_in_single_bytes_is_one_request(house: House) -> None:
    request = request_bytes("POST", "/public/x", body=b"abc")
    async with house.connect() as client:
        for octet in request:
            client.writer.write(bytes([octet]))
            await client.writer.drain()
        response = await client.response()
    assert response is not None
    assert response.status == 200
    (received,) = house.upstream.requests
    assert received.body == b"abc"


@pytest.mark.parametrize(
    ("head", "refusal"),
    [
        (b"GET /public/" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", (414, "target_too_long")),
        (post(b"X-Large: " + b"a" * 40_000), (431, "request_too_large")),
        (post(b"X-" + b"a" * 40_000 + b": b"), (431, "request_too_large")),
    ],
    ids=["line", "value", "name"],
)
async def test_an_oversize_head_is_refused(house: House, head: bytes, refusal: tuple[int, str]) -> None:
    async with house.connect() as client:
        await client.send(head)
        response = await client.response()
        assert response is not None
        assert (response.status, response.code) == refusal
        assert await client.closed()
    assert house.upstream.wires == []


async def test_a_head_without_end_is_refused(house: House) -> None:
    """Many small fields: each is within the limit, all together are not."""
    async with house.connect() as client:
        try:
            client.writer.write(b"GET /public/x HTTP/1.1\r\nHost: gateway.test\r\n")
            for number in range(100_000):
                client.writer.write(b"X-%d: %b\r\n" % (number, b"a" * 90))
                if number % 100 == 0:
                    await client.writer.drain()
        except ConnectionError:
            pass
        else:
            response = await client.response()
            assert response is not None
            assert response.status == 431
    assert house.upstream.wires == []
