"""CORS on the wire: preflights, denials and responses, between raw sockets."""

import pytest

from gateway.core.model import Header
from tests.harness import PAGE_ORIGIN, House, token
from tests.sockets import Response, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="session")

ORIGIN = b"Origin: " + PAGE_ORIGIN.encode()
EVIL = b"Origin: https://evil.example.com"


def asked(method: str = "GET", headers: str = "authorization") -> tuple[bytes, bytes]:
    return (
        f"Access-Control-Request-Method: {method}".encode(),
        f"Access-Control-Request-Headers: {headers}".encode(),
    )


def cors(response: Response) -> dict[bytes, bytes]:
    """Return the fields about origins."""
    return {
        name.lower(): value
        for name, value in response.fields
        if name.lower().startswith(b"access-control-") or name.lower() == b"vary"
    }


async def test_a_preflight_is_answered_here_without_a_token(house: House) -> None:
    async with house.connect() as client:
        for _ in range(3):
            await client.send(request_bytes("OPTIONS", "/shared/x", ORIGIN, *asked("PUT")))
            response = await client.response(to_head=True)
            assert response is not None
            assert (response.status, response.body) == (204, b"")
            assert cors(response) == {
                b"access-control-allow-origin": PAGE_ORIGIN.encode(),
                b"access-control-allow-credentials": b"true",
                b"access-control-allow-methods": b"PUT",
                b"access-control-allow-headers": b"Authorization, Content-Type",
                b"access-control-max-age": b"600",
                b"vary": b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
            }
            assert len(response.values(b"x-request-id")) == 1
            assert response.values(b"content-length") == []
    assert house.upstream.requests == []
    assert await house.metric("gateway_requests_total", route="shared", method="OPTIONS", status="204") >= 3


async def test_a_preflight_of_another_origin_is_denied(house: House) -> None:
    response = await house.request("/shared/x", EVIL, *asked(), method="OPTIONS")
    assert (response.status, response.code) == (403, "origin_not_allowed")
    assert cors(response) == {b"vary": b"Origin"}
    assert house.upstream.requests == []
    (event,) = house.events("denied")
    assert (event["reason"], event["route"]) == ("origin_not_allowed", "shared")


async def test_all_other_options_go_their_usual_way(house: House) -> None:
    assert (await house.request("/shared/x", ORIGIN, method="OPTIONS")).code == "credentials_missing"
    assert (await house.request("/private/x", ORIGIN, *asked(), method="OPTIONS")).status == 401
    assert (await house.request("/nowhere", ORIGIN, *asked(), method="OPTIONS")).code == "route_not_found"
    assert (await house.request("/public/x", ORIGIN, *asked(), method="OPTIONS")).status == 200
    (received,) = house.upstream.requests
    assert received.head.startswith(b"OPTIONS /public/x ")
    assert received.values(b"access-control-request-method") == [b"GET"]


async def test_a_preflight_on_a_connection_that_ends(house: House) -> None:
    response = await house.request("/open/x", EVIL, *asked(), b"Connection: close", method="OPTIONS")
    assert response.status == 204
    assert response.values(b"connection") == [b"close"]
    assert cors(response)[b"access-control-allow-origin"] == b"*"
    old = request_bytes("OPTIONS", "/open/x", EVIL, *asked()).replace(b"HTTP/1.1", b"HTTP/1.0")
    assert (await house.exchange(old)).status == 204


async def test_a_preflight_with_a_body(house: House) -> None:
    response = await house.request("/open/x", EVIL, *asked(), method="OPTIONS", body=b"x" * 100)
    assert response.status == 204
    assert house.upstream.requests == []


@pytest.mark.parametrize(
    ("path", "bearer", "status"),
    [
        ("/shared/x", b"", 401),
        ("/shared/x", b"opaque", 401),
        ("/shared-admin/x", None, 403),
        ("/shared-gone/x", b"", 502),
    ],
)
async def test_denials_can_be_read_by_listed_origins(
    house: House, path: str, bearer: bytes | None, status: int
) -> None:
    sent = token() if bearer is None else bearer or None
    for method in ("GET", "HEAD"):
        response = await house.request(path, ORIGIN, token=sent, method=method)
        assert response.status == status
        told = cors(response)
        assert told[b"access-control-allow-origin"] == PAGE_ORIGIN.encode()
        assert told[b"vary"] == b"Origin"
        assert b"Retry-After, WWW-Authenticate, X-Request-Id" in told[b"access-control-expose-headers"]
    for other in ((EVIL,), (), (ORIGIN, EVIL), (b"Origin: null.example",)):
        assert cors(await house.request(path, *other, token=sent)) == {b"vary": b"Origin"}


async def test_a_rendered_denial_names_no_other_origin(house: House) -> None:
    first = await house.request("/shared/x", ORIGIN)
    second = await house.request("/shared/x", b"Origin: null")
    third = await house.request("/private/x", ORIGIN)
    assert cors(first)[b"access-control-allow-origin"] == PAGE_ORIGIN.encode()
    assert cors(second)[b"access-control-allow-origin"] == b"null"
    assert cors(third) == {}


async def test_the_upstreams_own_fields_are_replaced(house: House) -> None:
    house.upstream.answer(
        b"HTTP/1.1 200 OK\r\nVary: Accept\r\nAccess-Control-Allow-Origin: *\r\n"
        b"Access-Control-Allow-Credentials: true\r\nX-Total: 7\r\nContent-Length: 2\r\n\r\nok"
    )
    bearer = token()
    # The same request several times: the second and third one come from memory, as do their responses.
    for _ in range(3):
        for field, origin in ((ORIGIN, PAGE_ORIGIN.encode()), (EVIL, None), (b"Origin: null", b"null")):
            response = await house.request("/shared/x", field, token=bearer)
            assert response.content == b"ok"
            assert response.values(b"x-total") == [b"7"]
            told = cors(response)
            assert told.pop(b"vary") == b"Accept, Origin"
            assert told.get(b"access-control-allow-origin") == origin
            assert len(told) == (3 if origin else 0)


async def test_routes_without_cors_leave_it_to_the_upstream(house: House) -> None:
    own: list[Header] = [(b"Access-Control-Allow-Origin", b"*"), (b"Vary", b"Accept")]
    house.upstream.answer(
        b"HTTP/1.1 200 OK\r\n"
        + b"".join(b"%b: %b\r\n" % field for field in own)
        + b"Content-Length: 2\r\n\r\nok"
    )
    response = await house.request("/public/x", ORIGIN)
    assert cors(response) == {name.lower(): value for name, value in own}


async def test_a_chunked_response_stays_whole(house: House) -> None:
    house.upstream.answer(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nAccess-Control-Allow-Origin: x\r\n\r\n"
        b"2\r\nok\r\n0\r\n\r\n"
    )
    response = await house.request("/shared/x", ORIGIN, token=token())
    assert response.content == b"ok"
    assert cors(response)[b"access-control-allow-origin"] == PAGE_ORIGIN.encode()
