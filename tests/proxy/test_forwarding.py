"""The effect of the settings of upstreams and routes, seen from both sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.app import serve
from gateway.core.model import JSON
from gateway.settings import Settings
from tests.harness import House, configuration, open_house, unused_port
from tests.proxy.services import UnixUpstream, settled
from tests.sockets import OK, Exchange, RawUpstream, Received, request_bytes


class Neighbours(House):
    """A gateway with two upstreams: a TCP server and one on a Unix socket."""

    unix: UnixUpstream


@pytest_asyncio.fixture
async def house(tmp_path: Path, dsn: str, redis_url: str) -> AsyncIterator[Neighbours]:
    async with AsyncExitStack() as stack:
        tcp = await stack.enter_async_context(RawUpstream())
        unix = await stack.enter_async_context(UnixUpstream(tmp_path / "orders.sock"))
        settings = configuration(tmp_path, tcp.url, dsn, redis_url, "gateway-forwarding:")
        settings["server"] = {"listen": "127.0.0.1:0", "workers": 1, "trusted_proxies": ["127.0.0.0/8"]}
        upstreams: dict[str, JSON] = {
            "raw": {"urls": [tcp.url]},
            "their-host": {"urls": [tcp.url], "host": "upstream"},
            "own-host": {"urls": [unix.url], "host": "orders.internal:81"},
            "unix": {"urls": [unix.url], "host": "upstream"},
            "half": {"urls": [tcp.url, f"http://127.0.0.1:{unused_port()}"]},
            "small": {"urls": [tcp.url], "max_connections": 1, "max_pending": 1, "connect_timeout": "200ms"},
            "once": {"urls": [tcp.url], "retry_budget": 0},
            "quiet": {"urls": [tcp.url], "idle_timeout": "200ms"},
            "prompt": {"urls": [tcp.url], "response_timeout": "200ms"},
        }
        settings["upstreams"] = upstreams
        settings["routes"] = [
            *(_route(name, f"/{name}/**", name) for name in upstreams),
            _route("stripped", "/api/v1/**", "raw", strip_prefix="/api/v1"),
            _route("one", "/one/*/x", "raw", strip_prefix="/one"),
            _route("exact", "/exact", "raw", strip_prefix="/exact"),
        ]
        running = await stack.enter_async_context(serve(Settings.model_validate(settings)))
        house = Neighbours(running.url, running.admin_url, tcp, dsn, redis_url, "gateway-forwarding:")
        house.unix = unix
        yield house


def _route(name: str, path: str, upstream: str, **rest: JSON) -> JSON:
    return {"name": name, "match": {"path": path}, "upstream": upstream, "auth": "none", **rest}


# Host ----------------------------------------------------------------------------------------------


async def test_the_host_is_kept_or_replaced(house: Neighbours) -> None:
    seen: dict[str, list[bytes]] = {}
    for name in ("raw", "their-host", "own-host", "unix"):
        server = house.unix if name in {"own-host", "unix"} else house.upstream
        assert (await house.request(f"/{name}/x", b"HOST: Shop.example.com")).status == 200
        received: Received = server.requests[-1]
        seen[name] = received.values(b"host")
        assert received.values(b"x-forwarded-host") == [b"Shop.example.com"]
    assert seen == {
        "raw": [b"Shop.example.com"],
        "their-host": [b"127.0.0.1:%d" % house.upstream.port],
        "own-host": [b"orders.internal:81"],
        "unix": [b"localhost"],
    }


# Path ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "forwarded", "prefix"),
    [
        ("/api/v1/orders/1?a=%2Fb", b"/orders/1?a=%2Fb", [b"/api/v1"]),
        ("/api/v1/", b"/", [b"/api/v1"]),
        ("/api/v1", b"/", [b"/api/v1"]),
        ("/api/v1?a", b"/?a", [b"/api/v1"]),
        ("/%61pi/v1/x", b"/x", [b"/api/v1"]),
        ("/api/v1/api/v1/x", b"/api/v1/x", [b"/api/v1"]),
        ("/one/two/x", b"/two/x", [b"/one"]),
        ("/exact", b"/", [b"/exact"]),
        ("/raw/x", b"/raw/x", []),
    ],
)
async def test_a_prefix_is_removed_and_reported_to_the_upstream(
    house: Neighbours, target: str, forwarded: bytes, prefix: list[bytes]
) -> None:
    received = await house.forwarded(target)
    assert received.target == forwarded
    assert received.values(b"x-forwarded-prefix") == prefix


@pytest.mark.parametrize(
    "target", ["/api/v1//evil.example", "/api/v1/../x", "/api/v1%2f..%2fx", "/api/v1/./x"]
)
async def test_ambiguous_paths_after_a_prefix_are_refused(house: Neighbours, target: str) -> None:
    response = await house.request(target)
    assert (response.status, response.code) == (400, "request_malformed")
    assert house.upstream.requests == []


async def test_a_path_that_only_resembles_a_prefix_is_unchanged(house: Neighbours) -> None:
    assert (await house.request("/api/v10/x")).status == 404


async def test_a_prefix_is_appended_to_that_of_a_trusted_proxy(house: Neighbours) -> None:
    received = await house.forwarded("/api/v1/x", b"X-Forwarded-Prefix: /shop/")
    assert received.values(b"x-forwarded-prefix") == [b"/shop/api/v1"]


async def test_a_client_cannot_forge_a_prefix(tmp_path: Path, dsn: str, redis_url: str) -> None:
    async with open_house(tmp_path, dsn, redis_url, seeded=False) as plain:
        received = await plain.forwarded(
            "/public/x", b"X-Forwarded-Prefix: /evil", b"X_Forwarded_Prefix: /evil"
        )
        assert b"evil" not in received.head


# Retries -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_endpoint_that_refuses_connections_fails_no_request(house: Neighbours, method: str) -> None:
    house.upstream.answer(OK, close=True)
    for number in range(10):
        response = await house.request(
            f"/half/{number}", method=method, body=b"abc" if method == "POST" else None
        )
        assert response.status == 200
    assert len(house.upstream.requests) == 10
    assert all(received.body == b"abc" for received in house.upstream.requests if method == "POST")
    retries = await house.metric("gateway_upstream_retries_total", upstream="half", reason="connect_failed")
    assert 1 <= retries <= 10


def closing_as_it_is_used(house: House) -> None:
    async def answer(exchange: Exchange) -> None:
        if exchange.wire.raw.count(b"HTTP/1.1\r\n") > 1:
            exchange.wire.reset()
        else:
            await exchange.send(OK)

    house.upstream.behave(answer)


@pytest.mark.parametrize(("path", "status"), [("raw", 200), ("once", 502)])
async def test_a_kept_connection_that_closes_is_retried_within_the_budget(
    house: Neighbours, path: str, status: int
) -> None:
    closing_as_it_is_used(house)
    assert (await house.request(f"/{path}/first")).status == 200
    assert (await house.request(f"/{path}/second")).status == status
    labels = {"upstream": path, "reason": "connection_closed"}
    assert await house.metric("gateway_upstream_retries_total", **labels) == (status == 200)
    # This ejects no endpoint.
    assert await house.metric("gateway_upstream_endpoints", upstream=path, state="ejected") == 0


# Limits --------------------------------------------------------------------------------------------


async def test_requests_beyond_the_limits_are_refused(house: Neighbours) -> None:
    released = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        await released.wait()
        await exchange.send(OK)

    house.upstream.behave(answer)
    first = asyncio.create_task(house.request("/small/1"))
    await settled(lambda: house.upstream.requests)
    second = asyncio.create_task(house.request("/small/2"))
    async with asyncio.timeout(5):
        labels = {"upstream": "small", "state": "pending"}
        while await house.metric("gateway_upstream_connections", **labels) != 1:  # noqa: ASYNC110 -- no event
            await asyncio.sleep(0.005)
    refused = await house.request("/small/3")
    assert (refused.status, refused.code) == (503, "overloaded")
    assert refused.field(b"retry-after")
    waited = await second
    assert (waited.status, waited.code) == (503, "overloaded")
    released.set()
    assert (await first).status == 200
    assert (await house.request("/small/4")).status == 200
    assert len(house.upstream.requests) == 2


@pytest.mark.parametrize(
    ("upstream", "expects", "status", "code"),
    [("quiet", False, 408, "request_timeout"), ("prompt", True, 504, "upstream_timeout")],
)
async def test_the_status_names_the_silent_side(
    house: Neighbours, upstream: str, status: int, code: str, *, expects: bool
) -> None:
    """A client that waits for a 100 is not slow: the upstream must send the 100."""

    async def listen(exchange: Exchange) -> None:
        await exchange.wire.to_end()

    house.upstream.behave(listen)
    fields = [b"Content-Length: 9", *([b"Expect: 100-continue"] if expects else [])]
    request = request_bytes("POST", f"/{upstream}/x", *fields)
    response = await house.exchange(request + (b"" if expects else b"abc"))
    assert (response.status, response.code) == (status, code)


async def test_after_a_100_the_upstream_waits_for_the_client(house: Neighbours) -> None:
    async def invite(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await exchange.wire.exactly(3) == b"abc"
        await exchange.send(OK)

    house.upstream.behave(invite)
    async with house.connect() as client:
        await client.send(request_bytes("POST", "/prompt/x", b"Content-Length: 3", b"Expect: 100-continue"))
        assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        await asyncio.sleep(0.4)
        await client.send(b"abc")
        response = await client.response()
        assert response is not None
        assert response.status == 200


async def test_a_silent_stream_is_broken_off(house: Neighbours) -> None:
    house.upstream.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    response = await house.request("/quiet/x")
    assert (response.status, response.complete) == (200, False)
    assert await house.metric("gateway_broken_responses_total", upstream="quiet") == 1


async def test_unread_answers_are_bounded(house: Neighbours) -> None:
    """A client that pipelines requests and reads no answer gets only what fits in the buffers."""
    size, number = 8 * 1024, 3000
    house.upstream.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
    host, _, port = house.url.removeprefix("http://").rpartition(":")
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        client.setblocking(False)
        await loop.sock_connect(client, (host, int(port)))
        sending = asyncio.create_task(loop.sock_sendall(client, request_bytes("GET", "/raw/x") * number))
        served = -1
        while served != len(house.upstream.requests) or served < 1:
            served = len(house.upstream.requests)
            await asyncio.sleep(0.2)
        assert served < number
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
