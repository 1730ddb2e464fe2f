"""Connections between a client, the gateway and an upstream, and their timeouts."""

import asyncio
from pathlib import Path

import pytest

from gateway.core.model import JSON
from tests.harness import House, open_house, token
from tests.proxy.test_relay import poll
from tests.sockets import OK, Exchange, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="session")


# Connections ---------------------------------------------------------------------------------------


async def test_a_connection_serves_many_requests(house: House) -> None:
    for number in range(5):
        response = await house.request("/private/x", token=token(), method="POST", body=b"%d" % number)
        assert response.status == 200
    assert len(house.upstream.wires) == 1
    assert await house.metric("gateway_upstream_connections", upstream="raw", state="idle") == 1
    assert await house.metric("gateway_upstream_connections", upstream="raw", state="active") == 0


async def test_concurrent_requests_do_not_share_a_connection(house: House) -> None:
    async def answer(exchange: Exchange) -> None:
        await asyncio.sleep(0.02)
        target = exchange.request.target
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(target), target))

    house.upstream.behave(answer)
    targets = [f"/public/{number}" for number in range(50)]
    responses = await asyncio.gather(*(house.request(target) for target in targets))
    assert [response.body.decode() for response in responses] == targets
    assert len(house.upstream.wires) == 50


async def test_connection_close_of_an_upstream_is_obeyed_and_not_passed_on(house: House) -> None:
    house.upstream.answer(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
    async with house.connect() as client:
        for _ in range(2):
            await client.send(request_bytes("GET", "/public/x"))
            response = await client.response()
            assert response is not None
            assert response.field(b"connection") is None
    assert len(house.upstream.wires) == 2


@pytest.mark.parametrize("when", ["before the answer", "in the body"])
async def test_a_client_that_leaves_ends_the_upstreams_exchange(house: House, when: str) -> None:
    begun, over = asyncio.Event(), asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        if when == "in the body":
            await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        begun.set()
        await exchange.wire.to_end()
        over.set()

    house.upstream.behave(answer)
    labels = {"route": "public", "method": "GET", "status": "499"}
    before = await house.metric("gateway_requests_total", **labels)
    async with house.connect() as client:
        await client.send(request_bytes("GET", "/public/x"))
        await begun.wait()
        if when == "in the body":
            await client.until(b"abc\r\n")
    async with asyncio.timeout(5):
        await over.wait()
    assert await house.metric("gateway_requests_total", **labels) == before + 1
    assert await house.metric("gateway_in_flight_requests") == 0
    assert await house.metric("gateway_upstream_connections", upstream="raw", state="active") == 0


async def test_a_client_that_leaves_in_its_body_leaves_no_complete_request(house: House) -> None:
    async with house.connect() as client:
        await client.send(request_bytes("POST", "/public/x", b"Transfer-Encoding: chunked") + b"3\r\nabc\r\n")
        await poll(lambda: house.upstream.wires and b"abc" in house.upstream.wires[0].raw, "nothing arrived")
    (wire,) = house.upstream.wires
    await wire.until_ended()
    assert not wire.raw.endswith(b"0\r\n\r\n")


def closing_as_it_is_used(house: House) -> None:
    """Answer the first request of a connection; break the connection when the second arrives."""

    async def answer(exchange: Exchange) -> None:
        await exchange.read_body()
        if exchange.wire.raw.count(b"HTTP/1.1\r\n") > 1:
            exchange.wire.reset()
        else:
            await exchange.send(OK)

    house.upstream.behave(answer)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE"])
async def test_a_kept_connection_that_breaks_is_retried_once(house: House, method: str) -> None:
    closing_as_it_is_used(house)
    assert (await house.request("/public/first")).status == 200
    assert (await house.request("/public/second", method=method)).status == 200
    assert [received.target for received in house.upstream.requests] == [
        b"/public/first", b"/public/second", b"/public/second"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "body"), [("POST", None), ("PATCH", None), ("POST", b"abc"), ("PUT", b"abc")]
)
async def test_a_request_that_is_not_safe_to_repeat_is_not_retried(
    house: House, method: str, body: bytes | None
) -> None:
    closing_as_it_is_used(house)
    assert (await house.request("/public/first")).status == 200
    response = await house.request("/public/second", method=method, body=body)
    assert (response.status, response.code) == (502, "upstream_protocol_error")
    assert len(house.upstream.requests) == 2


async def test_a_new_connection_that_breaks_is_not_retried(house: House) -> None:
    house.upstream.answer(rst=True)
    response = await house.request("/public/x")
    assert (response.status, response.code) == (502, "upstream_protocol_error")
    assert len(house.upstream.wires) == 1


async def test_a_request_with_a_partial_answer_is_not_retried(house: House) -> None:
    async def answer(exchange: Exchange) -> None:
        again = exchange.wire.raw.count(b"HTTP/1.1\r\n") > 1
        await exchange.send(b"HTTP/1.1 200 OK\r\nCont" if again else OK)
        if again:
            await exchange.wire.close()

    house.upstream.behave(answer)
    assert (await house.request("/public/first")).status == 200
    assert (await house.request("/public/second")).code == "upstream_protocol_error"
    assert len(house.upstream.requests) == 2


# Time ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "start", [b"", b"HTTP/1.1 2", b"HTTP/1.1 100 Continue\r\n\r\n"], ids=["nothing", "half-a-head", "interim"]
)
async def test_an_upstream_that_does_not_answer_is_a_504(house: House, start: bytes) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.send(start)
        await exchange.wire.to_end()

    house.upstream.behave(answer)
    response = await house.request("/slow/x")
    assert (response.status, response.code) == (504, "upstream_timeout")
    await house.upstream.wires[0].until_ended()
    # A late answer must not reach another client.
    house.upstream.answer(OK)
    assert (await house.request("/slow/y")).status == 200


async def test_the_response_timeout_begins_at_the_end_of_the_request(house: House) -> None:
    async with house.connect() as client:
        await client.send(request_bytes("POST", "/slow/x", b"Content-Length: 5"))
        for octet in b"abcde":
            await asyncio.sleep(0.1)
            await client.send(bytes([octet]))
        response = await client.response()
    assert response is not None
    assert response.status == 200


async def test_the_response_timeout_does_not_apply_to_the_body(house: House) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
        await asyncio.sleep(0.5)
        await exchange.send(b"k")

    house.upstream.behave(answer)
    response = await house.request("/slow/x")
    assert (response.body, response.complete) == (b"ok", True)


async def test_forward_authorization_forwards_the_token(tmp_path: Path, dsn: str, redis_url: str) -> None:
    raw = token()
    async with open_house(tmp_path, dsn, redis_url, headers={"forward_authorization": True}) as house:
        received = await house.forwarded("/private/x", token=raw)
        assert received.values(b"authorization") == [b"Bearer " + raw]


async def test_forward_authorization_forwards_each_callers_own_token_on_a_public_route(
    tmp_path: Path, dsn: str, redis_url: str
) -> None:
    ours, theirs = token("member"), token("admin")
    async with open_house(tmp_path, dsn, redis_url, headers={"forward_authorization": True}) as house:
        for raw in (ours, theirs):
            await house.forwarded("/private/x", token=raw)
        for raw in (ours, theirs, ours, theirs):
            received = await house.forwarded("/public/x", token=raw)
            assert received.values(b"authorization") == [b"Bearer " + raw]


async def test_a_route_decides_on_authorization_and_a_public_one_passes_any(
    tmp_path: Path, dsn: str, redis_url: str
) -> None:
    def route(name: str, auth: str, *, forwards: bool | None) -> JSON:
        match: JSON = {"path": f"/{name}/**"}
        return {
            "name": name,
            "match": match,
            "upstream": "raw",
            "auth": auth,
            "forward_authorization": forwards,
        }

    routes = [
        route("webhook", "none", forwards=True),
        route("silent", "none", forwards=False),
        route("usual", "none", forwards=None),
        route("own", "required", forwards=True),
    ]
    basic = b"Basic Z3Vlc3Q6c2VjcmV0"
    async with open_house(tmp_path, dsn, redis_url, routes=routes) as house:
        for name, expected in (("webhook", [basic]), ("silent", []), ("usual", [])):
            received = await house.forwarded(f"/{name}/x", b"Authorization: " + basic)
            assert received.values(b"authorization") == expected
        raw = token()
        received = await house.forwarded("/own/x", token=raw)
        assert received.values(b"authorization") == [b"Bearer " + raw]
    forwarding: dict[str, JSON] = {"forward_authorization": True}
    async with open_house(tmp_path, dsn, redis_url, seeded=False, routes=routes, headers=forwarding) as house:
        for name, expected in (("webhook", [basic]), ("silent", []), ("usual", [basic])):
            received = await house.forwarded(f"/{name}/x", b"Authorization: " + basic)
            assert received.values(b"authorization") == expected
