"""What the access log says of a request that went through."""

import uuid

import pytest

from tests.harness import House, token
from tests.proxy.tunnels import echo, switching, tunnel, tunnels_are

pytestmark = pytest.mark.asyncio(loop_scope="session")

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"traceparent: 00-{TRACE}-00f067aa0ba902b7-01".encode()


async def test_a_line_has_user_upstream_bytes_and_trace(house: House) -> None:
    house.upstream.answer(b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\nhe", b"llo")
    response = await house.request(
        "/private/x?secret=1", TRACEPARENT, method="POST", token=token(), body=b"12345678"
    )
    assert response.status == 201
    (line,) = house.events("request")
    (user,) = await house.sql("SELECT user_id::text FROM identities WHERE subject = 'member'")
    assert line["user"] not in (None, user[0])
    assert {name: line[name] for name in ("path", "route", "status", "upstream", "trace_id")} == {
        "path": "/private/x",
        "route": "private",
        "status": 201,
        "upstream": "raw",
        "trace_id": TRACE,
    }
    assert (line["bytes_received"], line["bytes_sent"]) == (8, 5)


async def test_a_tunnel_has_the_bytes_that_passed_in_it(house: House) -> None:
    house.upstream.behave(switching(echo, behind=b"behind"))
    async with tunnel(house) as client:
        assert await client.exactly(6) == b"behind"
        await client.send(b"12345678")
        assert await client.exactly(8) == b"12345678"
        client.writer.write_eof()
        await client.to_end()
    await tunnels_are(house, 0)
    (line,) = house.events("request")
    assert (line["status"], line["bytes_received"], line["bytes_sent"]) == (101, 8, 14)


async def test_a_denial_has_the_bytes_of_its_own_body(house: House) -> None:
    response = await house.request("/private/x")
    (line,) = house.events("request")
    assert (line["status"], line["bytes_sent"]) == (401, len(response.content))
    assert "upstream" not in line
    assert "trace_id" not in line
    (denied,) = house.events("denied")
    assert denied["request_id"] == line["request_id"]


async def test_data_that_is_no_request_has_a_line_too(house: House) -> None:
    response = await house.exchange(b"GET /private/x HTTP/1.1\r\nHost: a\r\nX-Bad: a\x01b\r\n\r\n")
    (line,) = house.events("request")
    assert (line["method"], line["path"], line["route"]) == ("UNKNOWN", "", "unmatched")
    assert (line["status"], line["bytes_sent"]) == (400, len(response.content))
    (denied,) = house.events("denied")
    assert denied["request_id"] == line["request_id"]


@pytest.mark.parametrize("traceparent", [TRACEPARENT, b"traceparent: 00-nonsense"])
async def test_the_header_reaches_the_upstream_unchanged(house: House, traceparent: bytes) -> None:
    state = b"tracestate: vendor=%s" % uuid.uuid4().hex.encode()
    received = await house.forwarded("/public/x", traceparent, state)
    name, _, value = traceparent.partition(b": ")
    assert received.values(name) == [value]
    assert received.values(b"tracestate") == [state.partition(b": ")[2]]
