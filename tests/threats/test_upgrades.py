"""Threats: upgrades: ways around the checks by another protocol, or by a token in another place."""

import pytest

from tests.harness import House, token
from tests.sockets import request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="session")

SMUGGLED = b"GET /private/smuggled HTTP/1.1\r\nHost: gateway.test\r\nX-User-Id: root\r\n\r\n"
ASK = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 13\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["426", "200-that-looks-like-a-101", "1xx-that-is-none"],
)
async def test_websocket_smuggling(house: House, answer: bytes) -> None:
    """A handshake that fails at the upstream, and a proxy that takes it for a tunnel all the same."""
    house.upstream.answer(answer)
    async with house.connect() as client:
        await client.send(request_bytes("GET", "/public/ws", *ASK, b"Sec-WebSocket-Version: 777"))
        first = await client.response()
        assert first is not None
        assert first.status in {200, 400, 426}
        await client.send(SMUGGLED)
        second = await client.response()
        assert second is not None
        assert (second.status, second.code) == (401, "credentials_missing")
    assert b"smuggled" not in b"".join(bytes(wire.raw) for wire in house.upstream.wires)


@pytest.mark.parametrize("protocol", [b"h2c", b"H2C", b"h2c/1", b"h2c, websocket", b"HTTP/2.0", b"TLS/1.2"])
@pytest.mark.parametrize("path", ["/public/x", "/any-protocol/x"])
async def test_h2c_smuggling(house: House, path: str, protocol: bytes) -> None:
    """A tunnel of HTTP/2 would carry further requests that were not admitted."""
    house.upstream.answer(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + protocol + b"\r\n\r\n"
    )
    response = await house.request(
        path,
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: " + protocol,
        b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
    )
    assert response.status == 502
    (received,) = house.upstream.requests
    for name in (b"connection", b"upgrade", b"http2-settings"):
        assert received.values(name) == []


@pytest.mark.parametrize(
    "origin",
    [
        b"https://evil.example.com",
        b"https://app.example.com.evil.example.com",
        b"https://gateway.test.evil.example.com",
        b"null",
        b"",
    ],
)
async def test_cross_site_websocket_hijacking(house: House, origin: bytes) -> None:
    """A browser sends the cookie for whichever page asks."""
    house.upstream.answer(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    cookie = b"Cookie: session=" + token()
    refused = await house.request("/browser/ws", *ASK, cookie, b"Origin: " + origin)
    assert (refused.status, refused.code) == (403, "origin_not_allowed")
    assert house.upstream.wires == []
    for own in (b"https://app.example.com", b"http://gateway.test"):
        assert (await house.request("/browser/ws", *ASK, cookie, b"Origin: " + own)).status == 101


async def test_cross_site_request_forgery(house: House) -> None:
    """The same with a form, which can post wherever it likes."""
    cookie = b"Cookie: session=" + token()
    for origin in ([], [b"Origin: https://evil.example.com"]):
        refused = await house.request("/browser/x", cookie, *origin, method="POST", body=b"a=1")
        assert (refused.status, refused.code) == (403, "origin_not_allowed")
    assert house.upstream.wires == []
    allowed = await house.request(
        "/browser/x", cookie, b"Origin: https://app.example.com", method="POST", body=b"a=1"
    )
    assert allowed.status == 200


@pytest.mark.parametrize(
    ("target", "fields"),
    [
        ("/browser/x?access_token={}&access%5ftoken=b", []),
        ("/browser/x?access_token={}", [b"Cookie: session=b"]),
        ("/browser/x", [b"Cookie: session={}", b"Cookie: session=b"]),
        ("/browser/x?access_token={}", [b"Authorization: Bearer b"]),
        ("/browser/x", [b"Sec-WebSocket-Protocol: bearer.{}", b"Sec-WebSocket-Protocol: bearer, b"]),
    ],
)
async def test_two_tokens_cannot_be_read_two_ways(house: House, target: str, fields: list[bytes]) -> None:
    """One for the gateway to check, another for the upstream to believe."""
    raw = token()
    response = await house.request(
        target.replace("{}", raw.decode()), *(field.replace(b"{}", raw) for field in fields)
    )
    assert (response.status, response.code) == (400, "credentials_multiple")
    assert house.upstream.wires == []


@pytest.mark.parametrize("subject", ["member", "ghost"])
async def test_a_token_in_the_url_is_not_logged(house: House, subject: str) -> None:
    raw = token(subject)
    await house.request(f"/browser/x?access_token={raw.decode()}")
    await house.request("/private/x?access_token=" + raw.decode())
    log = house.log.getvalue()
    assert '"event":"request"' in log
    assert "access_token" not in log
    assert raw.decode() not in log
