"""`buffer_requests`: a small chunked body reaches the upstream with its length."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Thread
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

from gateway.core.model import JSON
from tests.harness import House, open_house, token
from tests.sockets import RawClient, Response, dechunked

HEAD = b"POST /%b/x HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\n%b\r\n"


def head(route: str = "small", *fields: bytes) -> bytes:
    return HEAD % (route.encode(), b"".join(field + b"\r\n" for field in fields))


@asynccontextmanager
async def gateway(
    folder: Path, dsn: str, redis_url: str, *, url: str | None = None, limits: JSON = None
) -> AsyncIterator[House]:
    """Run a gateway that buffers 1 KiB for the raw upstream, or for the one at `url`."""

    def route(name: str, auth: str = "none", **more: JSON) -> JSON:
        upstream = "buffered" if url is None else "service"
        return {"name": name, "match": {"path": f"/{name}/**"}, "upstream": upstream, "auth": auth, **more}

    routes = [route("small"), route("tiny", max_body="16B"), route("private", "required")]
    server: dict[str, JSON] = {"listen": "127.0.0.1:0", "limits": limits or {}}
    upstreams: dict[str, JSON] = (
        {} if url is None else {"service": {"urls": [url], "buffer_requests": "1KiB"}}
    )
    async with open_house(folder, dsn, redis_url, routes=routes, server=server, upstreams=upstreams) as house:
        yield house


@pytest.fixture
async def house(tmp_path: Path, dsn: str, redis_url: str) -> AsyncIterator[House]:
    async with gateway(tmp_path, dsn, redis_url) as house:
        yield house


async def answered(client: RawClient) -> Response:
    response = await client.response()
    assert response is not None
    return response


@pytest.mark.parametrize(
    "pieces",
    [
        (b"5\r\nhello\r\n0\r\n\r\n",),
        (b"2;a=b\r\nhe\r", b"\n3\r\nllo\r\n", b"0\r\n", b"T: 1\r\n\r\n"),
    ],
)
async def test_a_small_body_has_a_length(house: House, pieces: tuple[bytes, ...]) -> None:
    async with house.connect() as client:
        for _ in range(2):
            await client.send(head())
            for piece in pieces:
                await client.send(piece)
                await asyncio.sleep(0)
            assert (await answered(client)).status == 200
            received = house.upstream.requests[-1]
            assert received.body == b"hello"
            assert received.values(b"content-length") == [b"5"]
            assert received.values(b"transfer-encoding") == []


async def test_an_empty_body_has_the_length_zero(house: House) -> None:
    await house.exchange(head() + b"0\r\n\r\n")
    (received,) = house.upstream.requests
    assert (received.values(b"content-length"), received.body) == ([b"0"], b"")


async def test_a_body_that_waits_for_its_user_is_buffered_too(house: House) -> None:
    bearer = b"Authorization: Bearer " + token()
    await house.exchange(head("private", bearer) + b"5\r\nhello\r\n0\r\n\r\n")
    (received,) = house.upstream.requests
    assert (received.values(b"content-length"), received.body) == ([b"5"], b"hello")


async def test_a_large_body_is_streamed(house: House) -> None:
    async with house.connect() as client:
        await client.send(head() + b"400\r\n" + b"x" * 1024 + b"\r\n1\r\ny\r\n")
        # It goes on before its end has come.
        async with asyncio.timeout(20):
            while not house.upstream.wires:  # noqa: ASYNC110 -- the upstream tells nothing of a beginning
                await asyncio.sleep(0.001)
        await client.send(b"0\r\n\r\n")
        assert (await answered(client)).status == 200
    (received,) = house.upstream.requests
    assert received.values(b"transfer-encoding") == [b"chunked"]
    assert dechunked(received.body) == b"x" * 1024 + b"y"


async def test_a_client_that_expects_a_100_gets_it_from_the_gateway(house: House) -> None:
    async with house.connect() as client:
        await client.send(head("small", b"Expect: 100-continue"))
        assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert house.upstream.wires == []
        await client.send(b"5\r\nhello\r\n0\r\n\r\n")
        assert (await answered(client)).status == 200
    assert house.upstream.requests[0].body == b"hello"


@pytest.mark.parametrize(
    ("route", "body", "status"),
    [("small", b"5\r\nhelloX", 400), ("tiny", b"11\r\n" + b"x" * 17, 413)],
)
async def test_a_body_that_is_refused_never_arrives(
    house: House, route: str, body: bytes, status: int
) -> None:
    async with house.connect() as client:
        await client.send(head(route))
        await asyncio.sleep(0.01)
        await client.send(body)
        assert (await answered(client)).status == status
    assert house.upstream.wires == []


async def test_a_client_that_leaves_or_is_too_slow_leaves_nothing(
    tmp_path: Path, dsn: str, redis_url: str
) -> None:
    limits: JSON = {"body_min_rate": "1KiB", "rate_grace": "100ms"}
    async with gateway(tmp_path, dsn, redis_url, limits=limits) as house:
        async with house.connect() as client:
            await client.send(head(), b"5\r\nhel")
        async with house.connect() as client:
            await client.send(head(), b"5\r\nhel")
            assert (await answered(client)).status == 408
        async with asyncio.timeout(20):
            while await house.metric("gateway_in_flight_requests"):  # noqa: ASYNC110 -- of the gateway
                await asyncio.sleep(0.01)
        assert house.upstream.wires == []


# A real server ------------------------------------------------------------------------------------


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002 -- the signature of the base class


def application(
    environ: dict[str, object], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> Iterable[bytes]:
    """Read the body as frameworks do (PEP 3333): as many bytes as CONTENT_LENGTH says."""
    body = environ["wsgi.input"].read(int(str(environ.get("CONTENT_LENGTH") or 0)))  # type: ignore[attr-defined]  # a file
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


async def test_a_wsgi_server_of_the_standard_library_gets_the_body(
    tmp_path: Path, dsn: str, redis_url: str
) -> None:
    with make_server("127.0.0.1", 0, application, handler_class=Quiet) as service:
        thread = Thread(target=service.serve_forever, daemon=True)
        thread.start()
        try:
            url = f"http://127.0.0.1:{service.server_port}"
            async with gateway(tmp_path, dsn, redis_url, url=url) as house:
                response = await house.exchange(head() + b"5\r\nhello\r\n0\r\n\r\n")
                assert (response.status, response.body) == (200, b"hello")
        finally:
            service.shutdown()
            thread.join()
