"""The content of a request is never logged, even if the request is malformed."""

import pytest

from tests.harness import House, token

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize(
    "shape",
    [
        b"GET /public/a HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer %b\r\n\r\n",
        b"GET /public/a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\nX: y\r\n\r\n",
        b"GET /public/a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\x01\r\n\r\n",
        b"GET /public/a?access_token=%b HTTP/1.1\nHost: x\r\n\r\n",
        b"GET /public/a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b" + b"x" * 40_000 + b"\r\n\r\n",
        b"POST /public/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%b\r\n\r\n",
        b"%b / HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["space", "bare-lf", "control", "target", "too-large", "chunk", "method"],
)
async def test_a_malformed_request_is_not_quoted(house: House, shape: bytes) -> None:
    secret = token("member")
    async with house.connect() as client:
        await client.send(shape % secret)
        response = await client.response()
    assert response is not None
    assert 400 <= response.status < 500
    logged = house.log.getvalue()
    assert house.events("denied")
    for part in (secret[:40], secret[-40:]):
        assert part.decode() not in logged


async def test_connect_is_never_forwarded(house: House) -> None:
    async with house.connect() as client:
        await client.send(
            b"CONNECT /public/a HTTP/1.1\r\nHost: gateway.test\r\n\r\nGET /public/b HTTP/1.1\r\n\r\n"
        )
        response = await client.response()
        assert response is not None
        assert response.status == 405
        assert await client.response() is None
    assert not house.upstream.requests
