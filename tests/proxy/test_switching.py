"""Requests to switch protocols: refused ones, their tokens, and the data before and after them."""

import asyncio

import pytest

from tests.harness import House, token
from tests.proxy.tunnels import SWITCHED, echo, handshake, nothing, session, switching, tunnel, tunnels_are
from tests.sockets import Exchange, Response, request_bytes

# Requests that do not become a tunnel --------------------------------------------------------------


@session
@pytest.mark.parametrize(
    "refusal",
    [
        b"HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 13\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno",
    ],
)
async def test_the_connection_is_usable_after_an_upstream_refuses_to_switch(
    house: House, refusal: bytes
) -> None:
    house.upstream.answer(refusal)
    async with house.connect() as client:
        # The following data is then the next request, as with any other proxy.
        await client.send(handshake("/public/ws") + request_bytes("GET", "/public/next"))
        for _ in range(2):
            response = await client.response()
            assert response is not None
            assert response.status == int(refusal.split(b" ")[1])
            assert response.body == b"no"
            assert response.values(b"upgrade") == []
    assert [request.target for request in house.upstream.requests] == [b"/public/ws", b"/public/next"]


@session
async def test_a_refused_handshake_gets_a_problem(house: House) -> None:
    async with house.connect() as client:
        await client.send(handshake("/private/ws"))
        response = await client.response()
        assert response is not None
        assert (response.status, response.code) == (401, "credentials_missing")
        # The protocol was not switched, so the connection is used again.
        await client.send(request_bytes("GET", "/public/x"))
        response = await client.response()
        assert response is not None
        assert response.status == 200
    assert [request.target for request in house.upstream.requests] == [b"/public/x"]


@session
@pytest.mark.parametrize(
    "answer",
    [
        SWITCHED.replace(b"websocket", b"other") + b"\r\n",
        SWITCHED.replace(b"Connection: Upgrade", b"Connection: keep-alive") + b"\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ],
    ids=["to-another-protocol", "not-for-this-hop", "to-nothing"],
)
async def test_a_switch_to_another_protocol_than_the_requested_one_is_a_502(
    house: House, answer: bytes
) -> None:
    house.upstream.answer(answer)
    response = await house.exchange(handshake("/public/ws"))
    assert (response.status, response.code) == (502, "upstream_protocol_error")


async def plain(house: House, request: bytes) -> Response:
    """Send a request whose Upgrade must not be forwarded, so that a 101 does not answer it."""
    house.upstream.answer(SWITCHED + b"\r\n")
    refused = await house.exchange(request)
    assert refused.status == 502
    house.upstream.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    response = await house.exchange(request)
    for received in house.upstream.requests:
        assert received.values(b"upgrade") == received.values(b"http2-settings") == []
        assert received.values(b"connection") == []
    return response


@session
@pytest.mark.parametrize(
    "request_",
    [
        handshake("/untunnelled/ws"),
        handshake("/any-protocol/ws").replace(b"websocket", b"h2c"),
        handshake("/any-protocol/ws").replace(b"websocket", b"TLS/1.3"),
        handshake("/public/ws").replace(b"websocket", b"custom"),
        handshake("/public/ws").replace(b"Connection: Upgrade", b"Connection: close"),
        handshake("/public/ws").replace(b"GET", b"POST", 1),
        handshake("/public/ws", b"Content-Length: 1") + b"x",
        handshake("/public/ws").replace(b"HTTP/1.1", b"HTTP/1.0", 1),
    ],
    ids=["route", "h2c", "tls", "protocol", "connection", "method", "body", "version"],
)
async def test_a_request_that_may_not_switch_is_forwarded_without_upgrade(
    house: House, request_: bytes
) -> None:
    assert (await plain(house, request_)).status == 200


@session
async def test_a_content_length_of_zero_does_not_prevent_a_switch(house: House) -> None:
    """Some clients send a Content-Length with every request."""
    house.upstream.behave(switching(nothing))
    async with tunnel(house, "/public/ws", b"Content-Length: 0"):
        (received,) = house.upstream.requests
        assert received.values(b"upgrade") == [b"websocket"]
        assert received.values(b"connection") == [b"Upgrade"]
        assert received.values(b"content-length") == [b"0"]


@session
async def test_a_route_may_allow_any_protocol(house: House) -> None:
    async def switch(exchange: Exchange) -> None:
        await exchange.send(SWITCHED.replace(b"websocket", b"custom/1") + b"\r\nwelcome")
        await echo(exchange)

    house.upstream.behave(switch)
    async with house.connect() as client:
        fields = (b"Connection: upgrade", b"Upgrade: custom/1")
        await client.send(request_bytes("GET", "/any-protocol/x", *fields))
        response = await client.response()
        assert response is not None
        assert (response.status, response.field(b"upgrade")) == (101, b"custom/1")
        assert await client.exactly(7) == b"welcome"
        await client.send(b"GET / HTTP/1.1\r\n\r\n")
        assert await client.exactly(18) == b"GET / HTTP/1.1\r\n\r\n"


EARLY = pytest.mark.parametrize("early", [b"not HTTP", b"GET /public/y HTTP/1.1\r\nHost: a\r\n\r\n"])


@session
@EARLY
async def test_data_before_the_101_belongs_to_the_tunnel(house: House, early: bytes) -> None:
    asked = asyncio.Event()

    async def late(exchange: Exchange) -> None:
        asked.set()
        await asyncio.sleep(0.1)
        await exchange.send(SWITCHED.replace(b"websocket", b"custom") + b"\r\n")
        await echo(exchange)

    house.upstream.behave(late)
    async with house.connect() as client:
        await client.send(request_bytes("GET", "/any-protocol/x", b"Connection: upgrade", b"Upgrade: custom"))
        await asked.wait()
        await client.send(early)
        response = await client.response()
        assert response is not None
        assert response.status == 101
        assert await client.exactly(len(early)) == early
    assert len(house.upstream.requests) == 1
    await tunnels_are(house, 0)


@session
@pytest.mark.parametrize("together", [False, True])
async def test_data_after_a_refused_upgrade_is_http(house: House, *, together: bool) -> None:
    async with house.connect() as client:
        first = request_bytes("GET", "/public/x", b"Connection: upgrade", b"Upgrade: h2c")
        second = request_bytes("GET", "/private/y")
        await client.send(*([first + second] if together else [first, second]))
        statuses = [response.status for _ in range(2) if (response := await client.response()) is not None]
    assert statuses == [200, 401]
    assert [received.target for received in house.upstream.requests] == [b"/public/x"]


@session
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("together", [False, True])
async def test_the_body_of_a_request_for_another_protocol_is_forwarded(
    house: House, framing: str, *, together: bool
) -> None:
    """Some HTTP clients offer h2c with their first request, with or without a body."""
    smuggled = request_bytes("GET", "/public/smuggled")
    fields = [b"Connection: upgrade", b"Upgrade: h2c"]
    body = smuggled
    if framing == "chunked":
        fields.append(b"Transfer-Encoding: chunked")
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(smuggled), smuggled)
    else:
        fields.append(b"Content-Length: %d" % len(smuggled))
    head = request_bytes("POST", "/public/x", *fields)
    last = request_bytes("GET", "/public/last")
    async with house.connect() as client:
        await client.send(*([head + body + last] if together else [head, body, last]))
        statuses = [response.status for _ in range(2) if (response := await client.response()) is not None]
    assert statuses == [200, 200]
    assert [(r.target, r.body) for r in house.upstream.requests] == [
        (b"/public/x", body),
        (b"/public/last", b""),
    ]


# Tokens outside Authorization ----------------------------------------------------------------------


@session
@pytest.mark.parametrize(
    ("target", "field", "forwarded", "rest"),
    [
        ("/browser/ws?a=%41&access_token={token}&b", b"X: y", b"/browser/ws?a=%41&b", []),
        ("/browser/ws?access_token={token}", b"X: y", b"/browser/ws", []),
        ("/browser/ws?a", b"Cookie: a=1; session={token}; b=2", b"/browser/ws?a", [b"a=1; b=2"]),
        ("/browser/ws", b"Sec-WebSocket-Protocol: chat, bearer.{token}", b"/browser/ws", [b"chat"]),
        ("/browser/ws", b"Sec-WebSocket-Protocol: chat, bearer, {token}", b"/browser/ws", [b"chat"]),
    ],
    ids=["query", "query-alone", "cookie", "subprotocol", "two-subprotocols"],
)
async def test_a_token_outside_authorization_opens_a_tunnel_and_is_not_forwarded(
    house: House, target: str, field: bytes, forwarded: bytes, rest: list[bytes]
) -> None:
    secret = token()
    house.upstream.behave(switching(echo))
    async with house.connect() as client:
        await client.send(
            handshake(
                target.replace("{token}", secret.decode()),
                field.replace(b"{token}", secret),
                b"Origin: https://app.example.com",
            )
        )
        response = await client.response()
        assert response is not None
        assert response.status == 101, response.body
    (received,) = house.upstream.requests
    assert received.target == forwarded
    assert secret not in received.head
    assert received.values(b"x-auth-subject") == [b"member"]
    assert received.values(b"cookie") + received.values(b"sec-websocket-protocol") == rest
    assert received.values(b"authorization") == []
    await tunnels_are(house, 0)
    assert secret.decode() not in house.log.getvalue()


@session
@pytest.mark.parametrize(
    ("chosen", "told"), [((), [b"bearer"]), ((b"Sec-WebSocket-Protocol: chat",), [b"chat"])]
)
async def test_a_browser_gets_a_subprotocol_that_it_offered(
    house: House, chosen: tuple[bytes, ...], told: list[bytes]
) -> None:
    house.upstream.behave(switching(nothing, *chosen))
    async with house.connect() as client:
        await client.send(handshake("/browser/ws", b"Sec-WebSocket-Protocol: chat, bearer, " + token()))
        response = await client.response()
        assert response is not None
        assert response.values(b"sec-websocket-protocol") == told


@session
@pytest.mark.parametrize("origin", [None, b"Origin: https://evil.example.com", b"Origin: null"])
async def test_another_site_cannot_open_a_tunnel_with_the_cookie(house: House, origin: bytes | None) -> None:
    fields = [b"Cookie: session=" + token(), *([] if origin is None else [origin])]
    response = await house.exchange(handshake("/browser/ws", *fields))
    assert (response.status, response.code) == (403, "origin_not_allowed")
    assert house.upstream.wires == []


@session
async def test_two_credentials_are_refused(house: House) -> None:
    response = await house.exchange(handshake("/browser/ws?access_token=" + token().decode(), bearer=token()))
    assert (response.status, response.code) == (400, "credentials_multiple")


# Events --------------------------------------------------------------------------------------------


@session
@pytest.mark.parametrize("length", [True, False], ids=["chunked", "until-close"])
async def test_each_event_arrives_before_the_next_is_sent(house: House, *, length: bool) -> None:
    secret = token()
    go = asyncio.Event()

    async def events(exchange: Exchange) -> None:
        framing = b"Transfer-Encoding: chunked\r\n" if length else b""
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + framing + b"\r\n")
        for number in range(3):
            go.clear()
            event = b"data: %d\n\n" % number
            await exchange.send(b"%x\r\n%b\r\n" % (len(event), event) if length else event)
            await go.wait()
        await exchange.wire.close()

    house.upstream.behave(events)
    async with house.connect() as client:
        # Like an EventSource, which cannot set Authorization either.
        await client.send(request_bytes("GET", "/browser/events?access_token=" + secret.decode()))
        await client.until(b"\r\n\r\n")
        for number in range(3):
            assert (await client.until(b"\n\n")).endswith(b"data: %d\n\n" % number)
            go.set()
    assert house.upstream.requests[-1].target == b"/browser/events"
