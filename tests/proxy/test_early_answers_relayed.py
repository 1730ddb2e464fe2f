"""The clients of an upstream that answers without reading the body: their answers and connections."""

import asyncio

import pytest

from gateway.proxy.downstream import lingering_close
from gateway.proxy.upstream import early_answer
from gateway.proxy.upstream.early_answer import MOST_UNREAD
from tests.harness import House
from tests.sockets import OK, Exchange, RawClient, Script, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="session")

REFUSED = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 3\r\n\r\nwho"
CREATED = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok"
MOVED = b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 2\r\n\r\ngo"
BLOCK = bytes(64 * 1024)


def resetting(*pieces: bytes, after: int = 0) -> Script:
    """Answer after `after` bytes of the body, and reset the connection."""

    async def script(exchange: Exchange) -> None:
        await exchange.wire.exactly(after)
        for piece in pieces:
            await exchange.send(piece)
        exchange.wire.reset()

    return script


async def upload(client: RawClient, size: int, *, chunked: bool, target: str = "/public/x") -> None:
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
    await client.send(request_bytes("POST", target, framing))
    while size:
        piece = BLOCK[:size]
        size -= len(piece)
        await client.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
    await client.send(b"0\r\n\r\n" if chunked else b"")


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize(
    ("size", "times"), [(1, 20), (64 * 1024, 20), (1_000_000, 40), (10_000_000, 10)], ids=str
)
@pytest.mark.parametrize("answer", [REFUSED, CREATED], ids=["refused", "accepted"])
async def test_an_early_answer_arrives(
    house: House, answer: bytes, size: int, times: int, *, chunked: bool
) -> None:
    house.upstream.behave(resetting(answer))
    before = await house.metric("gateway_upstream_endpoints", upstream="raw", state="ejected")
    for _ in range(times):
        async with house.connect() as client:
            await upload(client, size, chunked=chunked)
            response = await client.response()
            assert response is not None
            assert b"HTTP/1.1 %d" % response.status == answer[:12], response
            assert response.body == answer[-len(response.body) :]
            assert response.complete
    assert len(house.upstream.requests) == times, "one was sent once more"
    assert await house.metric("gateway_upstream_endpoints", upstream="raw", state="ejected") == before == 0
    assert not house.events("endpoint_ejected")


async def test_concurrent_clients_get_their_answers(house: House) -> None:
    house.upstream.behave(
        resetting(b"HTTP/1.1 413 Content Too ", b"Large\r\nContent-Length: 3\r\n\r\nb", b"ig")
    )

    async def ask() -> bytes:
        async with house.connect() as client:
            await upload(client, 500_000, chunked=False)
            response = await client.response()
            return b"" if response is None else b"%d %b" % (response.status, response.body)

    assert await asyncio.gather(*(ask() for _ in range(32))) == [b"413 big"] * 32


async def test_an_answer_that_a_reset_ends_is_broken_off(house: House) -> None:
    house.upstream.behave(resetting(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"))
    for _ in range(10):
        async with house.connect() as client:
            await upload(client, 1_000_000, chunked=False)
            response = await client.response()
            assert response is None or not response.complete
            assert client.broken


async def test_a_reset_without_an_answer_is_a_502(house: House) -> None:
    house.upstream.behave(resetting())
    for _ in range(3):
        async with house.connect() as client:
            await upload(client, 1_000_000, chunked=False)
            response = await client.response()
            assert response is not None
            assert (response.status, response.code) == (502, "upstream_protocol_error")
    assert len(house.upstream.requests) == 3


async def test_a_client_that_waits_for_a_100_gets_the_answer_instead(house: House) -> None:
    house.upstream.behave(resetting(REFUSED))
    async with house.connect() as client:
        await client.send(request_bytes("POST", "/public/x", b"Content-Length: 9", b"Expect: 100-continue"))
        response = await client.response()
        assert response is not None
        assert (response.status, response.interim) == (401, ())
        # The client may still send the body or not, so no request can follow.
        assert response.field(b"connection") == b"close"


async def test_the_next_pipelined_request_is_answered(house: House) -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.request.line.startswith(b"POST"):
            await resetting(REFUSED)(exchange)
        else:
            await exchange.send(OK)

    house.upstream.behave(script)
    async with house.connect() as client:
        await client.send(
            request_bytes("POST", "/public/x", body=b"body") + request_bytes("GET", "/public/y")
        )
        first, second = await client.response(), await client.response()
        assert first is not None
        assert second is not None
        assert (first.status, first.field(b"connection"), second.status) == (401, None, 200)


async def test_a_client_that_keeps_sending_gets_the_answer_and_is_cut_off(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lingering_close, "SILENCE_SECONDS", 0.05)
    monkeypatch.setattr(lingering_close, "MOST_SECONDS", 0.3)
    house.upstream.behave(resetting(REFUSED))
    async with house.connect() as client:
        await client.send(request_bytes("POST", "/public/x", b"Transfer-Encoding: chunked"))

        async def send() -> None:
            while True:
                await client.send(b"10000\r\n%b\r\n" % BLOCK)
                await asyncio.sleep(0.001)

        sending = asyncio.create_task(send())
        response = await client.response()
        assert response is not None
        assert (response.status, response.field(b"connection")) == (401, b"close")
        with pytest.raises(ConnectionError):
            await sending


async def test_a_slow_client_gets_the_answer_after_its_body(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client keeps sending. If it read only after its body, it would find a reset."""
    monkeypatch.setattr(lingering_close, "SILENCE_SECONDS", 0.5)
    house.upstream.behave(resetting(REFUSED))
    async with house.connect() as client:
        await client.send(request_bytes("POST", "/public/x", b"Content-Length: 16"))
        for _ in range(16):
            await asyncio.sleep(0.1)
            await client.send(b"a")
        response = await client.response()
        assert response is not None
        assert response.status == 401
        assert await client.to_end() == b""
        assert not client.broken


async def test_an_error_in_the_unread_body_does_not_replace_the_answer(house: House) -> None:
    """A chunk that cannot be parsed, in the part of the body that the upstream no longer reads."""
    house.upstream.behave(resetting(REFUSED, after=3))
    async with house.connect() as client:
        await client.send(request_bytes("POST", "/public/x", b"Transfer-Encoding: chunked"))
        await client.send(b"3\r\nabc\r\n")
        response = await client.response()
        await client.send(b"no chunk at all\r\n")
        assert response is not None
        assert response.status == 401
        assert await client.to_end() == b""


async def test_an_upgrade_with_a_body_is_refused_early(house: House) -> None:
    house.upstream.behave(resetting(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"))
    async with house.connect() as client:
        await client.send(
            request_bytes(
                "POST",
                "/any-protocol/x",
                b"Connection: Upgrade",
                b"Upgrade: websocket",
                b"Content-Length: 1000000",
            )
        )
        await client.send(bytes(1_000_000))
        response = await client.response()
        assert response is not None
        assert response.status == 403


@pytest.mark.parametrize("answer", [REFUSED, MOVED, CREATED], ids=["refused", "redirected", "accepted"])
@pytest.mark.parametrize(("size", "wires"), [(MOST_UNREAD, 1), (MOST_UNREAD + 1, 2)])
async def test_a_connection_is_not_kept_after_a_quick_answer_to_a_large_body(
    house: House, size: int, wires: int, answer: bytes
) -> None:
    """The gateway cannot see what the upstream has read, and the status does not tell."""

    async def respond(exchange: Exchange) -> None:
        await exchange.read_body()
        await exchange.send(answer)

    house.upstream.behave(respond)
    for _ in range(2):
        response = await house.request("/public/x", method="POST", body=bytes(size))
        assert b"HTTP/1.1 %d" % response.status == answer[:12]
    assert len(house.upstream.wires) == wires


@pytest.mark.parametrize("before", [b"", b"bo"], ids=["before it", "within it"])
@pytest.mark.parametrize("answer", [REFUSED, MOVED, CREATED], ids=["refused", "redirected", "accepted"])
async def test_a_connection_whose_answer_began_before_the_end_of_the_body_is_not_kept(
    house: House, answer: bytes, before: bytes
) -> None:
    """Even if the body is small, and was sent completely when the answer ended."""
    begun = asyncio.Event()

    async def respond(exchange: Exchange) -> None:
        await exchange.send(answer[:-1])
        begun.set()
        await exchange.read_body()
        await exchange.send(answer[-1:])

    house.upstream.behave(respond)
    for wires in (1, 2):
        begun.clear()
        async with house.connect() as client:
            await client.send(request_bytes("POST", "/public/x", b"Content-Length: 4") + before)
            await begun.wait()
            await client.until(b"\r\n\r\n")
            await client.send(b"body".removeprefix(before))
            await client.until(answer[-1:])
        assert len(house.upstream.wires) == wires


async def test_a_connection_is_kept_if_a_large_body_was_answered_slowly(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early_answer, "QUICK_SECONDS", 0.01)

    async def respond(exchange: Exchange) -> None:
        await exchange.read_body()
        await asyncio.sleep(0.1)
        await exchange.send(CREATED)

    house.upstream.behave(respond)
    for _ in range(2):
        response = await house.request("/public/x", method="POST", body=bytes(1_000_000))
        assert response.status == 201
    assert len(house.upstream.wires) == 1


async def test_a_connection_is_not_kept_while_the_kernel_holds_a_part_of_the_body(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway wrote all of it long ago. The upstream cannot have read the part that did not arrive."""
    monkeypatch.setattr(early_answer, "QUICK_SECONDS", 0.0)
    monkeypatch.setattr(early_answer, "MOST_UNREAD", 2**30)

    async def respond(exchange: Exchange) -> None:
        # The body fits in the reader's buffer and both kernels' buffers, but not in the upstream's alone.
        await asyncio.sleep(0.2)
        await exchange.send(MOVED)
        await exchange.read_body()

    house.upstream.behave(respond)
    for wires in (1, 2):
        response = await house.request("/public/x", method="POST", body=bytes(1_500_000))
        assert response.status == 302
        assert len(house.upstream.wires) == wires


async def test_an_answer_counts_as_a_success_of_the_endpoint(house: House) -> None:
    house.upstream.behave(resetting())
    for _ in range(3):
        async with house.connect() as client:
            await upload(client, 200_000, chunked=False)
            await client.response()
    house.upstream.behave(resetting(REFUSED))
    async with house.connect() as client:
        await upload(client, 200_000, chunked=False)
        response = await client.response()
        assert response is not None
        assert response.status == 401
    assert await house.metric("gateway_upstream_endpoints", upstream="raw", state="ejected") == 0
