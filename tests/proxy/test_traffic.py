"""How many bytes of bodies pass, by route, in each direction."""

import asyncio

import pytest

from tests.harness import House
from tests.proxy.tunnels import echo, switching, tunnel
from tests.sockets import Exchange, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="session")

LARGE = b"x" * 100_000


async def traffic(house: House, route: str = "public") -> tuple[float, float]:
    """Return the bytes that went upstream, and those that came from there."""
    found = await house.metrics()
    labels = (("route", route),)
    return found["gateway_request_bytes_total", labels], found["gateway_response_bytes_total", labels]


def answering(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@pytest.mark.parametrize("size", [0, 5, len(LARGE)], ids=["none", "small", "large"])
@pytest.mark.parametrize("method", ["POST", "HEAD"])
async def test_bodies_count_in_both_directions(house: House, size: int, method: str) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.send(answering(LARGE[:size]) if method == "POST" else answering(b""))

    house.upstream.behave(answer)
    before = await traffic(house)
    await house.request("/public/x", method=method, body=LARGE[:size] if method == "POST" else None)
    sent = size if method == "POST" else 0
    assert await traffic(house) == (before[0] + sent, before[1] + sent)


async def test_chunks_count_as_they_pass(house: House) -> None:
    """A response counts while it comes: one that never ends would never count otherwise."""
    more = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await more.wait()
        await exchange.send(b"0\r\n\r\n")

    house.upstream.behave(answer)
    before = await traffic(house)
    async with house.connect() as client:
        await client.send(
            request_bytes("POST", "/public/x", b"Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n"
        )
        await client.until(b"hello\r\n")
        # Chunks from an upstream are passed on as they are, and count with their framing.
        assert await traffic(house) == (before[0] + 3, before[1] + len(b"5\r\nhello\r\n"))
        more.set()
        await client.until(b"0\r\n\r\n")


async def test_a_tunnel_counts_while_it_is_open(house: House) -> None:
    house.upstream.behave(switching(echo, behind=b"behind"))
    before = await traffic(house)
    async with tunnel(house) as client:
        assert await client.exactly(6) == b"behind"
        await client.send(LARGE)
        assert await client.exactly(len(LARGE)) == LARGE
        assert await traffic(house) == (before[0] + len(LARGE), before[1] + len(LARGE) + 6)


async def test_answers_of_the_gateway_itself_do_not_count(house: House) -> None:
    before = await traffic(house, "private")
    assert (await house.request("/private/x", method="POST", body=b"hello")).status == 401
    assert await traffic(house, "private") == before
