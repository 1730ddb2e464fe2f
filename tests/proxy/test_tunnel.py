"""WebSockets and other tunnels, between real clients, real servers and raw sockets."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websockets
from websockets.exceptions import InvalidStatus

from gateway.app import serve
from gateway.proxy.tunnel import EndedBy, Tunnel
from gateway.proxy.websocket import close_frame
from gateway.settings import Settings
from tests.harness import House, configuration, open_house, token
from tests.sockets import Exchange, RawClient, RawUpstream, Response, request_bytes
from tests.test_app import self_signed

SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
ASK = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13")
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
MEGABYTE = 1024 * 1024

session = pytest.mark.asyncio(loop_scope="session")


def handshake(target: str, *fields: bytes, bearer: bytes | None = None) -> bytes:
    return request_bytes("GET", target, *ASK, KEY, *fields, token=bearer)


def switching(
    then: Callable[[Exchange], Awaitable[None]], *fields: bytes, behind: bytes = b""
) -> Callable[[Exchange], Awaitable[None]]:
    """Answer 101 with data directly after it, and continue in the other protocol."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(SWITCHED + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + behind)
        await then(exchange)

    return script


async def nothing(exchange: Exchange) -> None:
    await exchange.wire.to_end()


async def echo(exchange: Exchange) -> None:
    while await exchange.wire.more():
        await exchange.send(await exchange.wire.exactly(len(exchange.wire._buffer)))
    await exchange.wire.close()


@asynccontextmanager
async def tunnel(house: House, target: str = "/public/ws", *fields: bytes) -> AsyncIterator[RawClient]:
    async with house.connect() as client:
        await client.send(handshake(target, *fields))
        response = await client.response()
        assert response is not None
        assert response.status == 101, response.body
        yield client


async def eventually(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    for _ in range(500):
        if await condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail(what)


async def tunnels_are(house: House, number: int) -> None:
    """Wait until exactly this number of tunnels, and no other connections, are left on both sides."""

    async def reached() -> bool:
        metrics = await house.metrics()
        upstream = (("upstream", "raw"),)
        return (
            metrics["gateway_tunnels", upstream] == number
            and metrics["gateway_client_connections", ()] == number
            and metrics["gateway_in_flight_requests", ()] == number
            and metrics["gateway_upstream_connections", (("state", "active"), *upstream)] == number
        )

    await eventually(reached, f"there are not {number} tunnels")


# Real clients and servers --------------------------------------------------------------------------


async def test_a_websocket_echoes_through_the_gateway(tmp_path: Path, dsn: str, redis_url: str) -> None:
    seen: list[ServerConnection] = []

    async def handle(socket: ServerConnection) -> None:
        seen.append(socket)
        async for message in socket:
            await socket.send(message)

    async with (
        serve_websockets(handle, "127.0.0.1", 0, subprotocols=None, max_size=None) as server,
        open_house(
            tmp_path,
            dsn,
            redis_url,
            upstreams={"raw": {"urls": [f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"]}},
        ) as house,
    ):
        url = house.url.replace("http", "ws", 1)
        bearer = {"Authorization": f"Bearer {token().decode()}"}
        async with connect(f"{url}/private/ws?a=1", additional_headers=bearer, max_size=None) as socket:
            await socket.send("text")
            assert await socket.recv() == "text"
            large = os.urandom(MEGABYTE)
            await socket.send([large[:1000], large[1000:]])
            assert await socket.recv() == large
            assert await (await socket.ping()) >= 0
            await tunnels_are(house, 1)
        (behind,) = seen
        await behind.wait_closed()
        assert socket.close_code == behind.close_code == 1000
        assert behind.request is not None
        assert behind.request.path == "/private/ws?a=1"
        assert behind.request.headers.get_all("X-Auth-Subject") == ["member"]
        assert "Authorization" not in behind.request.headers
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"{url}/private/ws")
        assert refused.value.response.status_code == 401
        assert refused.value.response.headers["Content-Type"] == "application/problem+json"
        await tunnels_are(house, 0)
        assert await house.metric("gateway_requests_total", route="private", method="GET", status="101") == 1


# Bytes ---------------------------------------------------------------------------------------------


@session
async def test_the_handshake_is_forwarded_with_our_headers(house: House) -> None:
    house.upstream.behave(switching(nothing, b"Sec-WebSocket-Accept: x", b"Keep-Alive: timeout=5"))
    async with house.connect() as client:
        fields = (b"X-User-Id: forged", b"Sec-WebSocket-Protocol: chat, v2")
        await client.send(handshake("/private/ws", *fields, bearer=token()))
        response = await client.response()
        assert response is not None
        assert response.status == 101
        assert response.field(b"connection") == b"Upgrade"
        assert response.field(b"upgrade") == b"websocket"
        assert response.field(b"sec-websocket-accept") == b"x"
        assert response.values(b"keep-alive") == []
        assert response.field(b"x-request-id")
    (received,) = house.upstream.requests
    assert received.values(b"connection") == [b"Upgrade"]
    assert received.values(b"upgrade") == [b"websocket"]
    assert received.values(b"sec-websocket-key") == [KEY.partition(b": ")[2]]
    assert received.values(b"sec-websocket-protocol") == [b"chat, v2"]
    assert received.values(b"authorization") == []
    assert received.values(b"x-auth-subject") == [b"member"]
    assert received.values(b"x-forwarded-for") == [b"127.0.0.1"]
    assert b"forged" not in received.head


@session
async def test_a_tunnel_changes_no_byte(house: House) -> None:
    there, back = os.urandom(MEGABYTE), os.urandom(MEGABYTE)
    arrived: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def both_ways(exchange: Exchange) -> None:
        sending = asyncio.create_task(exchange.send(back))
        arrived.set_result(await exchange.wire.exactly(len(there)))
        await sending

    house.upstream.behave(switching(both_ways))
    async with tunnel(house) as client:
        _, received = await asyncio.gather(client.send(there), client.exactly(len(back)))
        assert received == back
        assert await arrived == there


@session
@pytest.mark.parametrize("size", [10, 5_000, 60_000])
async def test_bytes_directly_after_the_heads_are_not_lost(house: House, size: int) -> None:
    """After the client's head, before the 101, and directly after the 101."""
    early, behind = os.urandom(size), os.urandom(size)
    house.upstream.behave(switching(echo, behind=behind))
    async with house.connect() as client:
        await client.send(handshake("/public/ws") + early[:7], early[7:])
        response = await client.response()
        assert response is not None
        assert response.status == 101
        assert await client.exactly(2 * size) == behind + early
        await client.send(b"later")
        assert await client.exactly(5) == b"later"


@session
async def test_early_data_beyond_the_bound_is_refused(house: House) -> None:
    """More than a head may have, sent before the 101."""
    asked = asyncio.Event()

    async def hesitating(exchange: Exchange) -> None:
        asked.set()
        await exchange.wire.to_end()

    house.upstream.behave(hesitating)
    async with house.connect() as client:
        await client.send(handshake("/slow/ws"))
        await asked.wait()
        client.writer.write(bytes(10 * MEGABYTE))
        await asyncio.sleep(0.1)
        assert client.writer.transport.get_write_buffer_size() > MEGABYTE
        assert len(house.upstream.wires[0].raw) < 1000
        response = await client.response()
        assert response is None or response.status == 504


@session
async def test_a_side_that_does_not_read_stops_the_other(house: House) -> None:
    house.upstream.behave(switching(nothing))
    async with tunnel(house) as client:
        (wire,) = house.upstream.wires
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream's transport reads too
        wire.writer.write(bytes(32 * MEGABYTE))
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.writer.write(bytes(32 * MEGABYTE))
        before = (-1, -1)
        while (
            now := (
                client.writer.transport.get_write_buffer_size(),
                wire.writer.transport.get_write_buffer_size(),
            )
        ) != before:
            before = now
            await asyncio.sleep(0.1)
        # The rest is in the kernel's buffers, and a little in the gateway's.
        assert min(now) > 16 * MEGABYTE
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len(await client.exactly(32 * MEGABYTE)) == 32 * MEGABYTE
        client.writer.transport.abort()
        wire.writer.transport.abort()


# Ends ----------------------------------------------------------------------------------------------


@session
async def test_half_close_is_passed_on_in_both_directions(house: House) -> None:
    async def answer_at_the_end(exchange: Exchange) -> None:
        question = await exchange.wire.to_end()
        await exchange.send(b"all of " + question)
        exchange.wire.writer.write_eof()

    house.upstream.behave(switching(answer_at_the_end))
    async with tunnel(house) as client:
        await client.send(b"question")
        client.writer.write_eof()
        assert await client.to_end() == b"all of question"
        assert not client.broken
    await tunnels_are(house, 0)
    assert await house.metric("gateway_tunnels_ended_total", upstream="raw", by="client") >= 1


@session
@pytest.mark.parametrize("way", ["close", "reset"])
async def test_a_client_that_leaves_ends_the_upstreams_side(house: House, way: str) -> None:
    ended = asyncio.Event()

    async def until_the_end(exchange: Exchange) -> None:
        await exchange.wire.to_end()
        ended.set()

    house.upstream.behave(switching(until_the_end))
    async with tunnel(house) as client:
        if way == "reset":
            client.reset()
        else:
            client.writer.close()
        await asyncio.wait_for(ended.wait(), 1)
    await house.upstream.settle()
    await tunnels_are(house, 0)


@session
@pytest.mark.parametrize("way", ["close", "reset"])
async def test_an_upstream_that_leaves_ends_the_clients_side(house: House, way: str) -> None:
    async def leave(exchange: Exchange) -> None:
        await exchange.wire.until(b"go")
        if way == "reset":
            exchange.wire.reset()
        else:
            exchange.wire.writer.close()

    house.upstream.behave(switching(leave, behind=b"hello"))
    async with tunnel(house) as client:
        await client.send(b"go")
        assert await asyncio.wait_for(client.to_end(), 1) == b"hello"
    await tunnels_are(house, 0)
    assert await house.metric("gateway_tunnels_ended_total", upstream="raw", by="upstream") >= 1


@session
async def test_data_of_an_upstream_that_closes_directly_after_its_101_arrives(house: House) -> None:
    async def close(exchange: Exchange) -> None:
        exchange.wire.writer.close()

    house.upstream.behave(switching(close, behind=b"bye"))
    async with tunnel(house) as client:
        assert await client.to_end() == b"bye"
    await tunnels_are(house, 0)


@session
async def test_a_silent_tunnel_ends(house: House) -> None:
    house.upstream.behave(switching(nothing))
    async with tunnel(house, "/brief/ws") as client:
        for _ in range(5):
            # Longer than the timeout in total, but each silence is shorter.
            await client.send(b"x")
            await asyncio.sleep(0.1)
        assert not client.writer.transport.is_closing()
        assert await asyncio.wait_for(client.to_end(), 1) == b""
    await tunnels_are(house, 0)
    assert await house.metric("gateway_tunnels_ended_total", upstream="raw", by="idle") == 1


async def test_stopping_ends_tunnels_after_the_drain_timeout(
    tmp_path: Path, dsn: str, redis_url: str
) -> None:
    loop = asyncio.get_running_loop()
    async with RawUpstream() as upstream:
        upstream.behave(switching(echo))
        settings = Settings.model_validate(configuration(tmp_path, upstream.url, dsn, redis_url, "gateway:"))
        async with serve(settings) as running:
            reader, writer = await asyncio.open_connection(*running.url.removeprefix("http://").split(":"))
            client = RawClient(reader, writer)
            await client.send(handshake("/public/ws"))
            assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            started = loop.time()
            draining = asyncio.create_task(running.drain(0.5, last=True))
            await asyncio.sleep(0.1)
            await client.send(b"still here")
            assert await client.exactly(10) == b"still here"
            await draining
            assert 0.5 <= loop.time() - started < 3
            assert await client.to_end() == b""
            await client.close()


# What is no tunnel ---------------------------------------------------------------------------------


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


# Tokens from elsewhere -----------------------------------------------------------------------------


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


# The tunnel alone, on both event loops -------------------------------------------------------------

EVERY_LOOP = pytest.mark.parametrize(
    "loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


class _Keeper(asyncio.Protocol):
    """The protocol of a transport before the tunnel."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.made = asyncio.Event()
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # of a stream
        self.made.set()

    def connection_lost(self, _: Exception | None) -> None:
        self.lost.set()


async def _pair(
    folder: Path | None = None,
) -> tuple[_Keeper, asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect two ends: the tunnel's and the test's. With a folder, over TLS."""
    keeper = _Keeper()
    loop = asyncio.get_running_loop()
    ours = theirs = None
    if folder is not None:
        files = self_signed(folder)
        ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        ours.load_cert_chain(files["certificate"], files["key"])
        theirs = ssl.create_default_context(cafile=files["certificate"])
    server = await loop.create_server(lambda: keeper, "127.0.0.1", 0, ssl=ours)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=theirs)
    await keeper.made.wait()
    server.close()
    return keeper, reader, writer


@EVERY_LOOP
@pytest.mark.parametrize("end", ["client", "upstream"])
def test_the_tunnel_over_tls(loop: Callable[[], asyncio.AbstractEventLoop], end: str, tmp_path: Path) -> None:
    """TLS has no half-close: the end of one side is the end of both, once all data is sent."""

    async def run() -> None:
        client, client_reader, client_writer = await _pair(tmp_path)
        upstream, upstream_reader, upstream_writer = await _pair()
        assert client.transport is not None
        assert upstream.transport is not None
        tunnel = Tunnel(client.transport, upstream.transport, idle_timeout=10)
        running = asyncio.create_task(tunnel.run(b"begun", b""))
        assert await client_reader.readexactly(5) == b"begun"
        there, back = os.urandom(MEGABYTE), os.urandom(MEGABYTE)
        client_writer.write(there)
        upstream_writer.write(back)
        if end == "client":
            assert await client_reader.readexactly(MEGABYTE) == back
            client_writer.close()
            assert await upstream_reader.read() == there
            upstream_writer.close()
        else:
            assert await upstream_reader.readexactly(MEGABYTE) == there
            upstream_writer.close()
            assert await client_reader.read() == back
            client_writer.close()
        assert await running == end
        await asyncio.gather(client.lost.wait(), upstream.lost.wait())

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(run(), 10))


@EVERY_LOOP
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("busy", [False, True])
def test_a_dismissal_on_every_event_loop(
    loop: Callable[[], asyncio.AbstractEventLoop], tls: bool, busy: bool, tmp_path: Path
) -> None:
    async def run() -> None:
        client, client_reader, client_writer = await _pair(tmp_path if tls else None)
        upstream, upstream_reader, upstream_writer = await _pair()
        assert client.transport is not None
        assert upstream.transport is not None
        tunnel = Tunnel(client.transport, upstream.transport, idle_timeout=10)
        tunnel.follow_frames()
        running = asyncio.create_task(tunnel.run(b"\x81\x01a", b"", head=b"head"))
        assert await client_reader.readexactly(7) == b"head\x81\x01a"
        if busy:
            # Frames without end that no client reads.
            client_writer.write((b"\x82\xfdmask" + bytes(125)) * (MEGABYTE // 20))
            await asyncio.sleep(0.1)
        assert tunnel.dismiss("token_expired")
        upstream_writer.write(b"\x81\x04late")
        client_writer.write(close_frame("token_expired", b"mask"))
        assert await client_reader.read() == close_frame("token_expired")
        if not busy:
            told = await upstream_reader.readexactly(21)
            assert told == close_frame("token_expired", told[2:6])
        client_writer.transport.abort()
        upstream_writer.transport.abort()
        assert await asyncio.wait_for(running, 5) is EndedBy.REVOCATION
        await asyncio.gather(client.lost.wait(), upstream.lost.wait())

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(run(), 10))


@EVERY_LOOP
def test_data_that_a_client_sends_over_tls_before_the_close_frame_arrives_is_read(
    loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path
) -> None:
    """Otherwise, closing would reset the connection, and the close frame would be lost."""

    async def run() -> None:
        client, client_reader, client_writer = await _pair(tmp_path)
        upstream, _, upstream_writer = await _pair()
        assert client.transport is not None
        assert upstream.transport is not None
        tunnel = Tunnel(client.transport, upstream.transport, idle_timeout=10)
        tunnel.follow_frames()
        running = asyncio.create_task(tunnel.run(b"", b"", head=b"head"))
        assert await client_reader.readexactly(4) == b"head"
        assert tunnel.dismiss("token_expired")
        for _ in range(20):
            client_writer.write(b"\x82\x80mask" * 1000)
            await client_writer.drain()
            await asyncio.sleep(0.005)
        goodbye = close_frame("token_expired")
        assert await client_reader.readexactly(len(goodbye)) == goodbye
        client_writer.write(close_frame("token_expired", b"mask"))
        assert await client_reader.read() == b""
        upstream_writer.transport.abort()
        assert await running is EndedBy.REVOCATION
        await asyncio.gather(client.lost.wait(), upstream.lost.wait())

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(run(), 20))


@EVERY_LOOP
@pytest.mark.parametrize("end", ["half-close", "abort", "cancel"])
def test_the_tunnel_on_every_event_loop(loop: Callable[[], asyncio.AbstractEventLoop], end: str) -> None:
    async def run() -> None:
        client, client_reader, client_writer = await _pair()
        upstream, upstream_reader, upstream_writer = await _pair()
        assert client.transport is not None
        assert upstream.transport is not None
        tunnel = Tunnel(client.transport, upstream.transport, idle_timeout=10)
        running = asyncio.create_task(tunnel.run(b"to client", b"to upstream"))
        assert await client_reader.readexactly(9) == b"to client"
        assert await upstream_reader.readexactly(11) == b"to upstream"
        there, back = os.urandom(MEGABYTE), os.urandom(MEGABYTE)
        client_writer.write(there)
        upstream_writer.write(back)
        assert await upstream_reader.readexactly(MEGABYTE) == there
        assert await client_reader.readexactly(MEGABYTE) == back
        if end == "half-close":
            client_writer.write_eof()
            assert await upstream_reader.read() == b""
            upstream_writer.write(b"rest")
            upstream_writer.write_eof()
            assert await client_reader.read() == b"rest"
            assert await running is EndedBy.CLIENT
        elif end == "abort":
            upstream_writer.transport.abort()
            assert await client_reader.read() == b""
            client_writer.close()
            assert await running is EndedBy.UPSTREAM
        else:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            assert running.cancelled()
        await asyncio.gather(client.lost.wait(), upstream.lost.wait())
        client_writer.close()
        upstream_writer.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(run(), 10))
