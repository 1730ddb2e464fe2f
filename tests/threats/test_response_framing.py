"""Threats: message framing of responses: a malformed response harms only its own exchange."""

import asyncio

import pytest

from tests.harness import House, token
from tests.sockets import OK, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="session")

POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"


def response(*fields: bytes, rest: bytes = b"", status: bytes = b"200 OK") -> bytes:
    return b"\r\n".join([b"HTTP/1.1 " + status, *fields, b"", b""]) + rest


NO_HTTP = {
    "length-and-chunked": response(
        b"Content-Length: 3", b"Transfer-Encoding: chunked", rest=b"3\r\nabc\r\n0\r\n\r\n"
    ),
    "chunked-and-length": response(
        b"Transfer-Encoding: chunked", b"Content-Length: 3", rest=b"3\r\nabc\r\n0\r\n\r\n"
    ),
    "two-lengths": response(b"Content-Length: 3", b"Content-Length: 4", rest=b"abcd"),
    "lengths-in-a-list": response(b"Content-Length: 3, 4", rest=b"abcd"),
    "length-negative": response(b"Content-Length: -3", rest=b"abc"),
    "length-with-plus": response(b"Content-Length: +3", rest=b"abc"),
    "length-of-21-digits": response(b"Content-Length: 100000000000000000003", rest=b"abc"),
    "chunked-twice": response(b"Transfer-Encoding: chunked, chunked", rest=b"3\r\nabc\r\n0\r\n\r\n"),
    "chunked-twice-in-fields": response(
        b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", rest=b"3\r\nabc\r\n0\r\n\r\n"
    ),
    "chunked-misspelt": response(b"Transfer-Encoding: xchunked", rest=b"3\r\nabc\r\n0\r\n\r\n"),
    "coding-not-offered": response(b"Transfer-Encoding: gzip, chunked", rest=b"3\r\nabc\r\n0\r\n\r\n"),
    "space-before-the-colon": response(b"Content-Length : 3", rest=b"abc"),
    "obs-fold": response(b"X-Folded: a", b" b", b"Content-Length: 0"),
    "bare-lf-line-ends": b"HTTP/1.1 200 OK\nContent-Length: 3\n\nabc",
    "bare-cr-in-a-field": response(b"X-Field: a\rSet-Cookie: b", b"Content-Length: 0"),
    "nul-in-a-value": response(b"X-Field: a\0b", b"Content-Length: 0"),
    "name-not-a-token": response(b"X Field: a", b"Content-Length: 0"),
    "empty-line-first": b"\r\n" + response(b"Content-Length: 3", rest=b"abc"),
    "garbage": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "nothing": b"",
    "half-a-head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "version-2": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "status-of-two-digits": b"HTTP/1.1 99 Odd\r\nContent-Length: 0\r\n\r\n",
    "switching-protocols-unasked": response(
        b"Connection: upgrade", b"Upgrade: websocket", status=b"101 Switching Protocols"
    ),
    "switching-protocols-bare": response(status=b"101 Switching Protocols"),
    "head-of-1-MB": response(
        *(b"X-%d: %b" % (number, b"a" * 990) for number in range(1000)), b"Content-Length: 0"
    ),
}


@pytest.mark.parametrize("split", [False, True], ids=["one-packet", "with-pause"])
@pytest.mark.parametrize("attack", NO_HTTP.values(), ids=NO_HTTP)
async def test_data_that_is_no_response_becomes_502(house: House, attack: bytes, *, split: bool) -> None:
    pieces = (attack[:20], attack[20:]) if split else (attack,)
    house.upstream.answer(*pieces, close=True)
    async with house.connect() as client:
        await client.send(request_bytes("GET", "/public/x"))
        refused = await client.response()
        assert refused is not None
        assert (refused.status, refused.code) == (502, "upstream_protocol_error")
        # The fault was the upstream's: the client's connection serves on, over a new one behind.
        house.upstream.answer(OK)
        await client.send(request_bytes("GET", "/public/y"))
        good = await client.response()
        assert good is not None
        assert (good.status, good.content) == (200, b"ok")
    assert len(house.upstream.wires) == 2


BROKEN = {
    "length-closed-early": response(b"Content-Length: 10", rest=b"abc"),
    "chunked-closed-early": response(b"Transfer-Encoding: chunked", rest=b"3\r\nabc\r\n"),
    "chunked-closed-in-a-chunk": response(b"Transfer-Encoding: chunked", rest=b"9\r\nabc"),
    "chunked-closed-in-the-trailers": response(
        b"Transfer-Encoding: chunked", rest=b"3\r\nabc\r\n0\r\nX-A: b\r\n"
    ),
}


@pytest.mark.parametrize("rst", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
async def test_a_response_that_ends_early_reaches_the_client_broken(
    house: House, answer: bytes, *, rst: bool
) -> None:
    house.upstream.answer(answer, close=not rst, rst=rst)
    async with house.connect() as client:
        await client.send(request_bytes("GET", "/public/x"))
        broken = await client.response()
        assert broken is not None
        assert broken.status == 200
        assert not broken.complete
        assert client.ended
    assert await house.metric("gateway_broken_responses_total", upstream="raw") > 0
    assert house.events("response_broken")


@pytest.mark.parametrize("split", [False, True], ids=["one-packet", "later"])
@pytest.mark.parametrize(
    "body",
    [
        b"xyz\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3\r\nabc\r\n10000000000000000\r\n",
        b"3\nabc\n0\n\n",
        b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    ],
    ids=["size-no-number", "size-too-small", "size-beyond-64-bits", "bare-lf", "bare-cr-in-extension"],
)
async def test_a_chunked_response_that_can_be_read_two_ways_never_becomes_whole(
    house: House, body: bytes, *, split: bool
) -> None:
    good = response(b"Transfer-Encoding: chunked", rest=b"1\r\nx\r\n")
    house.upstream.answer(*((good, body) if split else (good + body,)))
    async with house.connect() as client:
        await client.send(request_bytes("GET", "/public/x"))
        if split:
            assert (await client.until(b"1\r\nx\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
            assert await client.closed()
            assert client.broken
        else:
            answer = await client.response()
            assert answer is not None
            assert (answer.status, answer.code) == (502, "upstream_protocol_error")


EXCESS = {
    "after-length": response(b"Content-Length: 2", rest=b"ok" + POISON),
    "after-length-0": response(b"Content-Length: 0", rest=POISON),
    "after-chunks": response(b"Transfer-Encoding: chunked", rest=b"2\r\nok\r\n0\r\n\r\n" + POISON),
    "after-204": response(status=b"204 No Content", rest=POISON),
    "after-304": response(status=b"304 Not Modified", rest=POISON),
    "garbage-after-length": response(b"Content-Length: 2", rest=b"okgarbage"),
}


@pytest.mark.parametrize("split", [False, True], ids=["one-packet", "later"])
@pytest.mark.parametrize("attack", EXCESS.values(), ids=EXCESS)
async def test_excess_bytes_answer_no_later_request(house: House, attack: bytes, *, split: bool) -> None:
    """Response splitting: bytes that an attacker appends must not answer another client's request."""
    mark = (
        attack.find(b"HTTP/1.1 200 OK\r\nContent-Length: 6") if POISON in attack else attack.find(b"garbage")
    )
    house.upstream.answer(*((attack[:mark], attack[mark:]) if split else (attack,)))
    async with house.connect() as first, house.connect() as second:
        await first.send(request_bytes("GET", "/public/x"))
        await first.until(b"\r\n\r\n")
        await asyncio.sleep(0.05 if split else 0)  # until what comes later has come
        house.upstream.answer(response(b"Content-Length: 4", rest=b"mine"))
        for client in (second, first):
            await client.send(request_bytes("GET", "/private/x", token=token()))
        answer = await second.response()
        assert answer is not None
        assert answer.content == b"mine"
        assert b"poison" not in first.raw
        assert b"poison" not in second.raw


async def test_a_body_where_none_belongs_is_not_passed_on(house: House) -> None:
    """To a HEAD, Content-Length announces nothing that follows."""
    house.upstream.answer(response(b"Content-Length: 6", rest=b"poison"))
    async with house.connect() as client:
        await client.send(request_bytes("HEAD", "/public/x"))
        head = await client.response(to_head=True)
        assert head is not None
        assert head.field(b"content-length") == b"6"
        house.upstream.answer(OK)
        await client.send(request_bytes("GET", "/public/y"))
        answer = await client.response()
        assert answer is not None
        assert answer.content == b"ok"
    assert b"poison" not in client.raw


async def test_unasked_bytes_end_the_connection(house: House) -> None:
    await house.request("/public/x")
    (wire,) = house.upstream.wires
    wire.writer.write(POISON)
    await wire.until_ended()
    answer = await house.request("/public/y")
    assert answer.content == b"ok"
    assert len(house.upstream.wires) == 2


@pytest.mark.parametrize("status", [b"100 Continue", b"102 Processing", b"103 Early Hints"])
async def test_interim_responses_pass_and_end_nothing(house: House, status: bytes) -> None:
    interim = response(b"Link: </a.css>; rel=preload", status=status)
    house.upstream.answer(interim, interim, OK)
    answer = await house.request("/public/x")
    assert (answer.status, answer.content) == (200, b"ok")
    assert [head.partition(b"\r\n")[0] for head in answer.interim] == [b"HTTP/1.1 " + status] * 2


async def test_interim_and_final_response_in_one_packet(house: House) -> None:
    house.upstream.answer(response(status=b"103 Early Hints") + OK)
    answer = await house.request("/public/x")
    assert (answer.status, answer.content, len(answer.interim)) == (200, b"ok", 1)


async def test_interim_responses_without_end_are_bounded(house: House) -> None:
    house.upstream.answer(response(status=b"103 Early Hints") * 1000)
    answer = await house.request("/public/x")
    assert (answer.status, answer.code) == (502, "upstream_protocol_error")


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_a_status_without_body_needs_no_framing(house: House, status: bytes) -> None:
    house.upstream.answer(response(b'ETag: "1"', status=status))
    async with house.connect() as client:
        for target in ("/public/x", "/public/y"):
            await client.send(request_bytes("GET", target))
            answer = await client.response()
            assert answer is not None
            assert answer.status == int(status[:3])
            assert answer.field(b"transfer-encoding") is None
    assert len(house.upstream.wires) == 1


async def test_304_may_announce_the_length_it_does_not_send(house: House) -> None:
    house.upstream.answer(response(b"Content-Length: 99", status=b"304 Not Modified"))
    async with house.connect() as client:
        for target in ("/public/x", "/public/y"):
            await client.send(request_bytes("GET", target))
            answer = await client.response()
            assert answer is not None
            assert (answer.status, answer.field(b"content-length")) == (304, b"99")


async def test_a_body_that_the_connection_ends_is_whole_and_ends_the_clients(house: House) -> None:
    house.upstream.answer(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nabc", b"def", close=True)
    async with house.connect() as client:
        await client.send(request_bytes("GET", "/public/x"))
        answer = await client.response()
        assert answer is not None
        assert answer.head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.body == b"abcdef"
        assert answer.complete
        assert answer.field(b"connection") == b"close"


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_body_that_a_reset_ends_is_broken(house: House, version: bytes) -> None:
    house.upstream.answer(b"HTTP/" + version + b" 200 OK\r\n\r\nabc", rst=True)
    async with house.connect() as client:
        await client.send(request_bytes("GET", "/public/x"))
        answer = await client.response()
        assert answer is None or not answer.complete
        assert client.broken
