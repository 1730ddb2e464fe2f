import asyncio
import hashlib
import io
from collections.abc import AsyncIterator

import orjson
import pytest
from aiohttp import ClientSession

from gateway.core.model import JSON
from gateway.demo import upstream
from gateway.demo.listening import bind, listening


@pytest.fixture
async def url() -> AsyncIterator[str]:
    listener, url = bind("127.0.0.1", 0)
    async with listening(upstream.application(), listener):
        yield url


@pytest.fixture
async def client(url: str) -> AsyncIterator[ClientSession]:
    async with ClientSession(url) as session:
        yield session


async def _exchange(url: str, request: bytes) -> dict[str, JSON]:
    """Send bytes as they are; the document in the response."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    document: dict[str, JSON] = orjson.loads(body)
    return document


async def test_a_request_is_echoed_as_it_was_on_the_wire(url: str) -> None:
    received = await _exchange(
        url,
        b"REPORT /a%2Fb/%7E//c;d?x=%20&y?=1 HTTP/1.1\r\n"
        b"Host: example.com\r\n"
        b"x-UPPER: 1\r\nX_User_Id: me\r\nTwice: a\r\nTwice: b\r\nName: M\xc3\xa9\r\nRaw: \xff\r\n"
        b"Connection: close\r\n\r\n",
    )
    assert received == {
        "method": "REPORT",
        "path": "/a%2Fb/%7E//c;d",
        "query": "x=%20&y?=1",
        "headers": {
            "Host": "example.com",
            "x-UPPER": "1",
            "X_User_Id": "me",
            "Twice": "a, b",
            "Name": "Mé",
            "Raw": "\\xff",
            "Connection": "close",
        },
        "body_bytes": 0,
        "body_sha256": hashlib.sha256(b"").hexdigest(),
    }


async def test_body_is_measured_as_it_was_sent(url: str) -> None:
    received = await _exchange(
        url,
        b"PUT /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Content-Encoding: gzip\r\nContent-Length: 8\r\n\r\nnot gzip",
    )
    assert received["body_bytes"] == 8
    assert received["body_sha256"] == hashlib.sha256(b"not gzip").hexdigest()


async def test_large_body_is_hashed_without_a_limit(client: ClientSession) -> None:
    body = bytes(5 * 1024 * 1024)
    async with client.post("/upload", data=io.BytesIO(body)) as response:
        received = await response.json()
    assert received["body_bytes"] == len(body)
    assert received["body_sha256"] == hashlib.sha256(body).hexdigest()


async def test_expected_continue_is_given(client: ClientSession) -> None:
    async with asyncio.timeout(5), client.post("/x", data=b"1", expect100=True) as response:
        assert (await response.json())["body_bytes"] == 1


async def test_websocket_sends_every_message_back(client: ClientSession) -> None:
    async with client.ws_connect("/ws") as socket:
        await socket.send_str("text")
        assert await socket.receive_str() == "text"
        await socket.send_bytes(b"\x00\xff")
        assert await socket.receive_bytes() == b"\x00\xff"


async def test_plain_request_to_the_websocket_is_echoed(client: ClientSession) -> None:
    async with client.get("/ws") as response:
        assert (await response.json())["path"] == "/ws"


async def test_events_go_on_until_the_client_leaves(client: ClientSession) -> None:
    async with asyncio.timeout(5), client.get("/events") as response:
        assert response.content_type == "text/event-stream"
        for number in (1, 2, 3):
            assert (
                await response.content.readuntil(b"\n\n")
                == f"id: {number}\ndata: event {number}\n\n".encode()
            )


async def test_server_stops_while_events_are_read() -> None:
    listener, url = bind("127.0.0.1", 0)
    async with asyncio.timeout(5), ClientSession(url) as session:
        async with listening(upstream.application(), listener):
            response = await session.get("/events")
            await response.content.readany()
        response.close()
