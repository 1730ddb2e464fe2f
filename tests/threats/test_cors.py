"""Threats: CORS: pages of other sites that read answers, and requests that pass for preflights."""

import pytest

from tests.harness import PAGE_ORIGIN, House, token
from tests.sockets import request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="session")

ASKED = b"Access-Control-Request-Method: GET"


@pytest.mark.parametrize(
    "origin",
    [
        b"https://evil.example",
        b"https://app.example.com.evil.example",
        b"https://evilapp.example.com",
        b"https://sub.app.example.com",
        b"http://app.example.com",
        b"https://app.example.com:8443",
        b"https://app.example.com:443",
        b"https://app_example.com",
        b"https://app.example.com@evil.example",
        b"https://app.example.com%60.evil.example",
        b"https://app.example.com/",
        b"https://app.example.com.",
        b"HTTPS://APP.EXAMPLE.COM",
        b"https://app.example.com https://evil.example",
        b"https://app.example.com, https://evil.example",
        b"NULL",
        b"*",
    ],
)
async def test_origin_reflection(house: House, origin: bytes) -> None:
    """An origin that only looks like a listed one is told back, or is taken for it."""
    house.upstream.answer(
        b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: %b\r\nAccess-Control-Allow-Credentials: true\r\n"
        b"Content-Length: 2\r\n\r\nok" % origin
    )
    field = b"Origin: " + origin
    for response in (
        await house.request("/shared/x", field, token=token()),
        await house.request("/shared/x", field),
        await house.request("/shared/x", field, ASKED, method="OPTIONS"),
    ):
        assert b"access-control-" not in response.head.lower()
        assert response.field(b"vary") == b"Origin"


@pytest.mark.parametrize(
    "fields",
    [
        (b"Origin: " + PAGE_ORIGIN.encode(),),
        (ASKED,),
        (b"Origin: " + PAGE_ORIGIN.encode(), b"Access-Control-Request-Method: CONNECT"),
        (b"Origin: " + PAGE_ORIGIN.encode(), b"Access_Control_Request_Method: GET"),
        (b"Origin: " + PAGE_ORIGIN.encode(), ASKED, ASKED),
        (b"Origin: " + PAGE_ORIGIN.encode(), b"Origin: " + PAGE_ORIGIN.encode(), ASKED),
    ],
)
async def test_a_request_that_passes_for_a_preflight(house: House, fields: tuple[bytes, ...]) -> None:
    """OPTIONS without a token reaches the service, which may do something at it."""
    response = await house.request("/shared/x", *fields, method="OPTIONS")
    assert response.status == 401
    assert house.upstream.requests == []


async def test_a_preflight_that_carries_more(house: House) -> None:
    """A preflight is never forwarded: with a token, a body, an upgrade, or a request behind it."""
    preflight = (b"Origin: " + PAGE_ORIGIN.encode(), ASKED)
    upgrade = (b"Connection: Upgrade", b"Upgrade: websocket")
    for more in ({"token": token()}, {"body": b"GET /private/x HTTP/1.1\r\n\r\n"}):
        response = await house.request("/shared/x", *preflight, method="OPTIONS", **more)
        assert response.status == 204
    assert (await house.request("/shared/x", *preflight, *upgrade, method="OPTIONS")).status == 204
    async with house.connect() as client:
        both = request_bytes("OPTIONS", "/shared/x", *preflight) + request_bytes("GET", "/shared/x")
        await client.send(both)
        first, second = await client.response(), await client.response()
        assert first is not None
        assert second is not None
        assert (first.status, second.status) == (204, 401)
    assert house.upstream.requests == []


async def test_one_origins_answer_given_to_another(house: House) -> None:
    """What a cache or a memory keeps of one page's answer is given to the page of another site."""
    bearer, listed, other = token(), b"Origin: " + PAGE_ORIGIN.encode(), b"Origin: https://evil.example"
    async with house.connect() as client:
        for _ in range(4):
            for field, allowed in ((listed, [PAGE_ORIGIN.encode()]), (other, []), (b"X-None: 1", [])):
                for sent in (bearer, None):
                    await client.send(request_bytes("GET", "/shared/x", field, token=sent))
                    response = await client.response()
                    assert response is not None
                    assert response.values(b"access-control-allow-origin") == allowed
                    assert response.field(b"vary") == b"Origin"
