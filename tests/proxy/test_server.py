"""The server of the data plane: the begin and end of connections, and data that is not a request."""

import asyncio
import os
import subprocess
import sys

import pytest

from tests.harness import House, token
from tests.sockets import Exchange, request_bytes

session = pytest.mark.asyncio(loop_scope="session")


def test_the_gateway_requires_the_c_parser() -> None:
    """aiohttp's own parser accepts smuggled requests (CVE-2025-53643)."""
    program = "from gateway.admin.health import require_c_parser; require_c_parser()"
    for extensions, code in (({"AIOHTTP_NO_EXTENSIONS": "1"}, 1), ({}, 0)):
        done = subprocess.run(  # noqa: S603 -- this Python, our own program
            [sys.executable, "-c", program],
            env={**os.environ, **extensions},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert ("ParserMissing: aiohttp's C parser is missing" in done.stderr) is bool(code)


@session
async def test_data_that_is_not_a_request_is_counted_and_logged(house: House) -> None:
    labels = {"route": "unmatched", "issuer": "none", "reason": "request_malformed"}
    before = await house.metric("gateway_denials_total", **labels)
    response = await house.exchange(b"\x16\x03\x01\x02\x00\r\n\r\n")
    assert response.status == 400
    assert await house.metric("gateway_denials_total", **labels) == before + 1
    (line,) = house.events("denied")
    assert line["request_id"] == response.problem["request_id"]


@session
async def test_a_denial_leaves_the_connection_open(house: House) -> None:
    async with house.connect() as client:
        for raw, status in ((None, 401), (token("ghost"), 401), (token(), 200), (b"x", 401), (token(), 200)):
            await client.send(request_bytes("GET", "/private/x", token=raw))
            response = await client.response()
            assert response is not None
            assert response.status == status
            assert response.field(b"connection") is None


@session
async def test_the_body_of_a_denied_request_is_not_read_as_the_next_request(house: House) -> None:
    async with house.connect() as client:
        await client.send(
            request_bytes("POST", "/private/x", body=b"GET /public/x HTTP/1.1\r\nHost: a\r\n\r\n")
        )
        first = await client.response()
        assert first is not None
        assert first.status == 401
        await client.send(request_bytes("GET", "/public/y"))
        second = await client.response()
        assert second is None or second.status == 200
    assert all(received.target == b"/public/y" for received in house.upstream.requests)


@session
async def test_a_connection_without_a_request_is_not_in_flight(house: House) -> None:
    async with house.connect(), house.connect():
        assert await house.metric("gateway_in_flight_requests") == 0


@session
async def test_a_client_that_half_closes_is_treated_as_gone(house: House) -> None:
    over = asyncio.Event()

    async def answer(_: Exchange) -> None:
        await over.wait()

    house.upstream.behave(answer)
    async with house.connect() as client:
        await client.send(request_bytes("GET", "/public/x"))
        client.writer.write_eof()
        assert await client.response() is None
    over.set()


@session
async def test_every_response_has_an_id_of_its_own(house: House) -> None:
    ids = set()
    for target in ("/public/x", "/private/x", "/nowhere", "/public/../x"):
        response = await house.request(target, b"X-Request-Id: chosen")
        ids.add(response.field(b"x-request-id"))
    assert len(ids) == 4
    assert not ids & {None, b"chosen"}
