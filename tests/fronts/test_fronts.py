"""What clients and services see of a gateway that is asked by the real programs, with their examples."""

import uuid
from pathlib import Path

import pytest

from tests.fronts.programs import ENVOY_HTTP, started
from tests.fronts.scene import Scene, identity_of
from tests.harness import KEYLESS_ISSUER, token, unused_port
from tests.sockets import Exchange, request_bytes
from tests.tokens import ISSUER

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_request_passes_with_the_user(scene: Scene) -> None:
    response = await scene.request("/private/x?q=%2F&r=1", token=token())
    assert response.status == 200, response.body
    (received,) = scene.received
    assert received.line == b"GET /private/x?q=%2F&r=1 HTTP/1.1"
    assert received.values(b"host") == [b"gateway.test"]
    found = identity_of(received)
    assert uuid.UUID(found.pop(b"x-user-id")[0].decode()).version == 4
    assert found.pop(b"x-user-roles") == [b"reader,writer"]
    assert (found.pop(b"x-auth-issuer"), found.pop(b"x-auth-subject")) == ([ISSUER.encode()], [b"member"])
    assert set(map(tuple, found.values())) == {()}
    # The service does not need the token.
    assert received.values(b"authorization") == []
    assert len(received.values(b"x-request-id")) == 1


async def test_a_body_goes_to_the_service_and_not_to_the_gateway(scene: Scene) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.read_body()
        await exchange.send(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")

    scene.house.upstream.behave(script)
    body = b"x" * 100_000
    response = await scene.request("/private/x", method="POST", token=token(), body=body)
    assert response.status == 201
    (received,) = scene.received
    assert received.line.startswith(b"POST /private/x ")
    assert b"x" * 1000 in received.body


async def test_a_request_without_a_token_passes_where_it_may(scene: Scene) -> None:
    response = await scene.request("/open/x")
    assert response.status == 200
    (received,) = scene.received
    assert set(map(tuple, identity_of(received).values())) == {()}


async def test_a_request_without_a_token_gets_401_and_the_challenge(scene: Scene) -> None:
    response = await scene.request("/private/x")
    assert (response.status, response.code) == (401, "credentials_missing")
    assert response.values(b"www-authenticate") == [b'Bearer realm="gateway"']
    assert len(response.values(b"x-request-id")) == 1
    assert scene.received == []


async def test_a_page_of_another_origin_can_read_a_denial(scene: Scene) -> None:
    origin = b"Origin: https://app.example.com"
    response = await scene.request("/pages/x", origin)
    assert response.status == 401
    assert response.values(b"access-control-allow-origin") == [b"https://app.example.com"]
    assert response.values(b"access-control-allow-credentials") == [b"true"]
    # Its preflight is answered by the service.
    preflight = (
        origin,
        b"Access-Control-Request-Method: GET",
        b"Access-Control-Request-Headers: authorization",
    )
    assert (await scene.request("/pages/x", *preflight, method="OPTIONS")).status == 200
    evil = (b"Origin: https://evil.test", *preflight[1:])
    assert (await scene.request("/pages/x", *evil, method="OPTIONS")).status in {401, 403}
    assert len(scene.received) == 1


async def test_a_user_without_the_role_gets_403(scene: Scene) -> None:
    response = await scene.request("/admin/x", token=token())
    assert (response.status, response.code) == (403, "role_missing")
    assert (await scene.request("/admin/x", token=token("admin"))).status == 200
    assert len(scene.received) == 1


async def test_a_path_without_a_route_gets_404(scene: Scene) -> None:
    response = await scene.request("/nowhere", token=token())
    assert (response.status, response.code) == (404, "route_not_found")
    assert scene.received == []


async def test_an_outage_gets_503_and_a_time_to_try_again(scene: Scene) -> None:
    response = await scene.request("/private/x", token=token(iss=KEYLESS_ISSUER))
    assert (response.status, response.problem["status"]) == (503, 503)
    if scene.front is not ENVOY_HTTP:
        # Envoy writes an answer of its own.
        assert response.code == "keys_unavailable"
    assert response.values(b"retry-after") == [b"5"]
    assert scene.received == []


WEBSOCKET = (
    b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)  # fmt: skip


async def test_a_websocket_is_opened_for_a_user_alone(scene: Scene) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        )
        await exchange.send(await exchange.wire.exactly(4))

    scene.house.upstream.behave(script)
    assert (await scene.request("/private/x", *WEBSOCKET)).status == 401
    assert scene.received == []
    async with scene.connect() as client:
        await client.send(request_bytes("GET", "/private/x", *WEBSOCKET, token=token()))
        response = await client.response()
        assert response is not None
        assert response.status == 101
        await client.send(b"ping")
        assert await client.exactly(4) == b"ping"
    assert identity_of(scene.received[0])[b"x-auth-subject"] == [b"member"]


async def test_a_gateway_that_does_not_answer_lets_nothing_pass(scene: Scene, tmp_path: Path) -> None:
    service = scene.house.upstream
    async with started(scene.front, tmp_path, unused_port(), service.port) as port:
        alone = Scene(scene.front, port, scene.house)
        for target in ("/open/x", "/private/x"):
            response = await alone.request(target, b"X-User-Id: admin", token=token())
            assert response.status >= 500
    assert scene.received == []
