"""Malformed requests on the admin port get a 400 as a problem, without noise in the log."""

import asyncio
import json
import socket
import struct

import pytest

from tests.harness import House
from tests.sockets import Response

session = pytest.mark.asyncio(loop_scope="session")

MALFORMED = {
    "garbage": b"\x00\x01\x02 garbage\r\n\r\n",
    "a TLS hello": bytes.fromhex("16030100c8010000c40303") + b"\x00" * 190,
    "another version": b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a long line": b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a long field": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
    "a space before the colon": b"GET /healthz HTTP/1.1\r\nHost : x\r\n\r\n",
    "two lengths": b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "no length": b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
    "a second request": b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nnonsense nonsense\r\n\r\n",
}


async def answers(house: House, sent: bytes) -> list[Response]:
    """Send bytes; return everything that is answered until the connection ends."""
    found = []
    async with house.connect(admin=True) as client:
        await client.send(sent)
        while (response := await client.response()) is not None:
            found.append(response)
    return found


@session
@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED)
async def test_it_is_refused_in_our_form_and_without_noise(house: House, sent: bytes) -> None:
    # Others have used the same gateway, and may have stopped its stores.
    logged = len(house.log.getvalue())
    response = (await answers(house, sent))[-1]
    assert response.status == 400
    assert response.field(b"content-type") == b"application/problem+json"
    problem = json.loads(response.content)
    assert (problem["status"], problem["code"]) == (400, "request_malformed")
    assert problem["request_id"].encode() == response.field(b"x-request-id")
    said = house.log.getvalue()[logged:]
    assert [line for line in said.splitlines() if '"level":"info"' not in line] == []
    assert "Traceback" not in said


LEAVES = {
    "in the head": b"GET /healthz HTTP/1.1\r\nHo",
    "in the body": b"POST /v1/explain HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
    "in a chunk": b"POST /v1/explain HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    "in a bad chunk": b"POST /v1/explain HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
}


@session
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("sent", LEAVES.values(), ids=LEAVES)
async def test_a_client_that_leaves_in_the_middle_makes_no_noise(
    house: House, sent: bytes, *, reset: bool
) -> None:
    logged = len(house.log.getvalue())
    async with house.connect(admin=True) as client:
        await client.send(sent)
        await asyncio.sleep(0.05)  # so that it is read before the end comes
        if reset:
            raw = client.writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert (await house.admin("/healthz")).status == 200
    said = house.log.getvalue()[logged:]
    assert [line for line in said.splitlines() if '"level":"info"' not in line] == []
