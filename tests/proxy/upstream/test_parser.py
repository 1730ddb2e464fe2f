"""Valid responses of an upstream, at once and byte by byte, and invalid ones."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.caches import FIFO
from gateway.core.reasons import Denial
from gateway.proxy.upstream.parser import (
    MAX_HEAD_BYTES,
    DecodingResponseParser,
    ResponseHead,
    ResponseParser,
)

OK = b"HTTP/1.1 200 OK\r\n"
EMPTY = OK + b"Content-Length: 0\r\n\r\n"
HELLO = OK + b"Content-Length: 5\r\n\r\nhello"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNKS = b"5\r\nhello\r\n1;x=y\r\n!\r\n0\r\n\r\n"
PLAIN_CHUNKS = CHUNKS.replace(b";x=y", b"")
"""What becomes of them."""
TRAILERS = b"5\r\nhello\r\n0\r\nX-User-Id: root\r\n\r\n"


def whole(data: bytes) -> list[bytes]:
    return [data]


def bytewise(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


Split: TypeAlias = Callable[[bytes], list[bytes]]
BOTH = pytest.mark.parametrize("split", [whole, bytewise])


def feed(parser: ResponseParser, pieces: Iterable[bytes]) -> tuple[list[ResponseHead], bytes]:
    body = b"".join([parser.feed(piece) for piece in pieces])
    return parser.heads, body


@BOTH
@pytest.mark.parametrize(
    ("data", "head", "body", "reusable"),
    [
        (HELLO, ResponseHead(200, b"OK", ((b"Content-Length", b"5"),), length=5), b"hello", True),
        (EMPTY, ResponseHead(200, b"OK", ((b"Content-Length", b"0"),)), b"", True),
        (
            CHUNKED + CHUNKS,
            ResponseHead(200, b"OK", ((b"Transfer-Encoding", b"chunked"),), chunked=True, length=None),
            PLAIN_CHUNKS,
            True,
        ),
        (
            CHUNKED + TRAILERS,
            ResponseHead(200, b"OK", ((b"Transfer-Encoding", b"chunked"),), chunked=True, length=None),
            TRAILERS,
            True,
        ),
        (
            b"HTTP/1.1 404 \r\ncontent-length: 1\r\nX-A: \xff\r\nx-a:  b\r\n\r\nx",
            ResponseHead(404, b"", ((b"content-length", b"1"), (b"X-A", b"\xff"), (b"x-a", b"b")), length=1),
            b"x",
            True,
        ),
        (
            OK + b"Connection: close\r\nContent-Length: 1\r\n\r\nx",
            ResponseHead(200, b"OK", ((b"Connection", b"close"), (b"Content-Length", b"1")), length=1),
            b"x",
            False,
        ),
        (
            b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx",
            ResponseHead(200, b"OK", ((b"Content-Length", b"1"),), length=1),
            b"x",
            False,
        ),
        (
            b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx",
            ResponseHead(200, b"OK", ((b"Connection", b"keep-alive"), (b"Content-Length", b"1")), length=1),
            b"x",
            True,
        ),
        (
            b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + CHUNKED.removeprefix(OK) + PLAIN_CHUNKS,
            ResponseHead(
                200,
                b"OK",
                ((b"Connection", b"keep-alive"), (b"Transfer-Encoding", b"chunked")),
                chunked=True,
                length=None,
            ),
            PLAIN_CHUNKS,
            False,
        ),
        (b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n", ResponseHead(204, b"No", ()), b"", False),
        (b"HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n", ResponseHead(204, b"No", ()), b"", True),
        (
            b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n",
            ResponseHead(204, b"No", ((b"Transfer-Encoding", b"chunked"),)),
            b"",
            False,
        ),
    ],
    ids=[
        "length",
        "empty",
        "chunked",
        "trailers",
        "no reason",
        "close",
        "HTTP/1.0",
        "HTTP/1.0 keep-alive",
        "HTTP/1.0 chunked",
        "204 with a length",
        "204 with none",
        "204 with chunks",
    ],
)
def test_a_response_with_framing_is_read(
    data: bytes, head: ResponseHead, body: bytes, reusable: bool, split: Split
) -> None:
    parser = ResponseParser(bodiless=False)
    heads, read = feed(parser, split(data))

    assert [replace(received, fields=b"") for received in heads] == [head]
    assert read == body
    assert (parser.complete, parser.reusable) == (True, reusable)


@BOTH
@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
def test_without_framing_the_body_ends_with_the_connection(version: bytes, split: Split) -> None:
    parser = ResponseParser(bodiless=False)
    heads, body = feed(parser, split(version + b" 200 OK\r\n\r\nhello\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"))

    assert (heads[0].length, heads[0].chunked, parser.complete) == (None, False, False)
    assert body == b"hello\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"
    parser.eof()
    assert (parser.complete, parser.reusable) == (True, False)


@BOTH
@pytest.mark.parametrize(
    ("data", "bodiless"),
    [
        (OK + b"Content-Length: 5\r\n\r\n", True),
        (CHUNKED, True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", False),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", False),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", True),
    ],
    ids=["HEAD with length", "HEAD with chunks", "204", "304", "304 to HEAD"],
)
def test_a_response_without_body_is_complete_with_its_head(data: bytes, bodiless: bool, split: Split) -> None:
    parser = ResponseParser(bodiless=bodiless)
    heads, body = feed(parser, split(data))

    assert (heads[0].length, heads[0].chunked, body) == (0, False, b"")
    assert (parser.complete, parser.reusable) == (True, True)


@BOTH
def test_a_head_response_without_framing_is_complete_too(split: Split) -> None:
    parser = ResponseParser(bodiless=True)
    feed(parser, split(OK + b"\r\n"))

    assert parser.complete


@BOTH
@pytest.mark.parametrize("final", [HELLO, CHUNKED + CHUNKS])
def test_interim_heads_come_first(final: bytes, split: Split) -> None:
    parser = ResponseParser(bodiless=False)
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
    heads, body = feed(parser, split(b"HTTP/1.1 100 Continue\r\n\r\n" + hints + final))

    assert [(head.status, head.interim) for head in heads] == [(100, True), (103, True), (200, False)]
    assert heads[1].headers == ((b"Link", b"</a.css>"),)
    assert body == final.partition(b"\r\n\r\n")[2].replace(CHUNKS, PLAIN_CHUNKS)
    assert (parser.complete, parser.reusable) == (True, True)


# Excess -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("excess", [b"x", b"\0", b"\r\n", HELLO, b"HTTP/1.1 100 Continue\r\n\r\n"])
@pytest.mark.parametrize("final", [HELLO, EMPTY])
def test_bytes_after_a_body_of_known_length_are_dropped_with_the_connection(
    final: bytes, excess: bytes
) -> None:
    for split in (whole(final + excess), [final, excess]):
        parser = ResponseParser(bodiless=False)
        heads, body = feed(parser, split)

        assert (len(heads), body) == (1, final.partition(b"\r\n\r\n")[2])
        assert (parser.complete, parser.reusable) == (True, False)


@pytest.mark.parametrize("excess", [b"x", b"\0", HELLO])
@pytest.mark.parametrize("together", [True, False])
def test_bytes_after_the_last_chunk_are_never_passed_on(excess: bytes, together: bool) -> None:
    pieces = [CHUNKED + CHUNKS + excess] if together else [CHUNKED + CHUNKS, excess]
    parser = ResponseParser(bodiless=False)

    with pytest.raises(Denial) as caught:
        feed(parser, pieces)
    assert caught.value.reason.code == "upstream_protocol_error"


@BOTH
def test_a_forbidden_body_is_dropped_with_the_connection(split: Split) -> None:
    for data, bodiless in ((HELLO, True), (HELLO.replace(b"200 OK", b"304 Not Modified"), False)):
        parser = ResponseParser(bodiless=bodiless)
        heads, body = feed(parser, split(data))

        assert (len(heads), body) == (1, b"")
        assert (parser.complete, parser.reusable) == (True, False)


# Invalid responses ------------------------------------------------------------------------------

BROKEN: dict[str, bytes] = {
    "length and chunked": OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "two equal lengths": OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "a list of lengths": OK + b"Content-Length: 5, 5\r\n\r\nhello",
    "a negative length": OK + b"Content-Length: -5\r\n\r\nhello",
    "a signed length": OK + b"Content-Length: +5\r\n\r\nhello",
    "a hexadecimal length": OK + b"Content-Length: 0x5\r\n\r\nhello",
    "an empty length": OK + b"Content-Length: \r\n\r\nhello",
    "a huge length": OK + b"Content-Length: 99999999999999999999\r\n\r\n",
    "chunked twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked twice in one field": OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked misspelt": OK + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked not last": OK + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a coding not offered": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": OK + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a line folded": OK + b"X-A: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "bare LF at the end of the head": OK + b"Content-Length: 0\r\n\n",
    "bare CR": OK + b"X-A: a\rb\r\nContent-Length: 0\r\n\r\n",
    "NUL": OK + b"X-A: a\0b\r\nContent-Length: 0\r\n\r\n",
    "a field without colon": OK + b"X-A\r\nContent-Length: 0\r\n\r\n",
    "an empty field name": OK + b": a\r\nContent-Length: 0\r\n\r\n",
    "a chunk size that is no number": CHUNKED + b"zz\r\nhello\r\n",
    "a huge chunk size": CHUNKED + b"fffffffffffffffff\r\n",
    "a negative chunk size": CHUNKED + b"-1\r\n",
    "a chunk longer than its size": CHUNKED + b"4\r\nhello\r\n0\r\n\r\n",
    "a chunk ended by bare LF": CHUNKED + b"5\nhello\n0\n\n",
    "an empty line before the head": b"\r\n" + EMPTY,
    "an empty line after an interim head": b"HTTP/1.1 100 Continue\r\n\r\n\r\n" + EMPTY,
    "101 unasked": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nraw",
    "101 without saying to what": b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + EMPTY,
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "a request": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "HTTP/2": b"HTTP/2 200\r\n\r\n",
    "HTTP/3.0": b"HTTP/3.0 200 OK\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 1000 OK\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "a status below 100": b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
    "an oversize field": OK + b"X-A: " + b"a" * MAX_HEAD_BYTES + b"\r\nContent-Length: 0\r\n\r\n",
    "too many fields": OK + b"X-A: a\r\n" * (MAX_HEAD_BYTES // 8) + b"Content-Length: 0\r\n\r\n",
    "an endless head": OK + b"X-A: a\r\n" * (MAX_HEAD_BYTES // 8),
    "an endless reason": b"HTTP/1.1 200 " + b"a" * (MAX_HEAD_BYTES + 1),
    "an oversize interim head": b"HTTP/1.1 103 E\r\nX: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n" + EMPTY,
}


@BOTH
@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_an_invalid_response_is_a_protocol_error(data: bytes, split: Split) -> None:
    parser = ResponseParser(bodiless=False)
    with pytest.raises(Denial) as caught:
        feed(parser, split(data))

    assert caught.value.reason.code == "upstream_protocol_error"
    assert 200 not in [head.status for head in parser.heads if not head.chunked]


@BOTH
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200",
        OK,
        OK + b"Content-Length: 5\r\n",
        HELLO[:-1],
        CHUNKED,
        CHUNKED + b"5\r\nhello\r\n",
        CHUNKED + CHUNKS[:-2],
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
    ids=["nothing", "status", "line", "fields", "body", "no chunk", "chunk", "last line", "interim alone"],
)
def test_an_answer_that_breaks_off_is_a_protocol_error(data: bytes, split: Split) -> None:
    parser = ResponseParser(bodiless=False)
    feed(parser, split(data))
    with pytest.raises(Denial) as caught:
        parser.eof()

    assert caught.value.reason.code == "upstream_protocol_error"
    assert not parser.complete


def test_the_end_of_the_connection_after_the_response_is_no_error() -> None:
    parser = ResponseParser(bodiless=False)
    feed(parser, [HELLO])
    parser.eof()

    assert parser.complete


# Decoding ---------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("data", "content"),
    [
        (CHUNKED + CHUNKS, b"hello!"),
        (CHUNKED + TRAILERS, b"hello"),
        (CHUNKED + b"0\r\n\r\n", b""),
        (HELLO, b"hello"),
        (EMPTY, b""),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED + CHUNKS, b"hello!"),
    ],
    ids=["chunks", "trailers", "no chunks", "length", "empty", "after an interim head"],
)
def test_an_http_1_0_client_gets_the_content_without_chunks(
    data: bytes, content: bytes, split: Split
) -> None:
    parser = DecodingResponseParser(bodiless=False)
    _, body = feed(parser, split(data))

    assert body == content
    assert (parser.complete, parser.reusable) == (True, True)


@BOTH
def test_an_http_1_0_client_gets_a_body_without_framing_unchanged(split: Split) -> None:
    parser = DecodingResponseParser(bodiless=False)
    _, body = feed(parser, split(OK + b"\r\nhello"))

    assert body == b"hello"


# Pieces of the data -----------------------------------------------------------------------------


@given(
    st.sampled_from(
        [
            HELLO,
            CHUNKED + CHUNKS,
            CHUNKED + TRAILERS,
            b"HTTP/1.1 100 Continue\r\n\r\n" + HELLO,
            *BROKEN.values(),
        ]
    ).filter(lambda data: len(data) < 1000),
    st.sets(st.integers(0, 200)),
)
def test_the_pieces_of_the_data_make_no_difference(data: bytes, cuts: set[int]) -> None:
    assert outcome([data]) == outcome(cut(data, cuts))


def cut(data: bytes, at: set[int]) -> list[bytes]:
    edges = [0, *sorted(edge for edge in at if edge < len(data)), len(data)]
    return [data[start:end] for start, end in pairwise(edges) if start < end]


def outcome(pieces: list[bytes]) -> object:
    parser = ResponseParser(bodiless=False)
    try:
        heads, body = feed(parser, pieces)
    except Denial as denial:
        return denial.reason
    return heads, body, parser.complete, parser.reusable


@pytest.mark.parametrize("status", [b"103 Early Hints", b"204 No Content"])
def test_a_length_without_a_body_is_not_passed_on(status: bytes) -> None:
    parser = ResponseParser(bodiless=False)
    parser.feed(b"HTTP/1.1 " + status + b"\r\nContent-Length: 5\r\nX-Other: kept\r\n\r\n")
    assert parser.heads[0].headers == ((b"X-Other", b"kept"),)


# Known heads ---------------------------------------------------------------------------------------


def test_a_known_head_is_recalled_with_its_complete_body() -> None:
    known: FIFO[bytes, ResponseHead] = FIFO(10)
    first = ResponseParser(bodiless=False, known=known)
    feed(first, [HELLO])
    again = ResponseParser(bodiless=False, known=known)
    heads, body = feed(again, [HELLO[:-5] + b"HELLO"])
    assert len(known) == 1
    assert heads[0] is first.heads[0]
    assert body == b"HELLO"
    assert (again.complete, again.reusable, again.clean) == (True, True, True)


@pytest.mark.parametrize(
    ("data", "bodiless"),
    [
        (CHUNKED + CHUNKS, False),
        (OK + b"Connection: close\r\nContent-Length: 1\r\n\r\nx", False),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" + HELLO, False),
        (HELLO + b"HTTP", False),
        (OK + b"\r\nhello", False),
        (OK + b"Content-Length: 5\r\n\r\n", True),
    ],
    ids=["chunked", "close", "interim", "excess", "to the end", "HEAD"],
)
def test_other_heads_are_parsed_each_time(data: bytes, bodiless: bool) -> None:
    known: FIFO[bytes, ResponseHead] = FIFO(10)
    feed(ResponseParser(bodiless=bodiless, known=known), [data])
    assert len(known) == 0


@pytest.mark.parametrize("pieces", [[HELLO[:-1], HELLO[-1:]], [HELLO + b"x"], [HELLO[:9], HELLO[9:]]])
def test_a_known_head_with_other_data_is_parsed(pieces: list[bytes]) -> None:
    """A part of a body, too much of it, or a part of a head."""
    known: FIFO[bytes, ResponseHead] = FIFO(10)
    feed(ResponseParser(bodiless=False, known=known), [HELLO])
    with_memory, without = ResponseParser(bodiless=False, known=known), ResponseParser(bodiless=False)
    assert feed(with_memory, pieces) == feed(without, pieces)
    assert (with_memory.complete, with_memory.reusable) == (without.complete, without.reusable)


def test_a_known_head_is_not_used_for_a_head_request() -> None:
    known: FIFO[bytes, ResponseHead] = FIFO(10)
    feed(ResponseParser(bodiless=False, known=known), [EMPTY])
    parser = ResponseParser(bodiless=True, known=known)
    heads, _ = feed(parser, [OK + b"Content-Length: 5\r\n\r\n"])
    assert (heads[0].length, parser.complete) == (0, True)


def test_a_parser_that_recalled_a_head_reads_the_next_response() -> None:
    known: FIFO[bytes, ResponseHead] = FIFO(10)
    feed(ResponseParser(bodiless=False, known=known), [HELLO])
    parser = ResponseParser(bodiless=False, known=known)
    for _ in range(2):
        assert feed(parser, [HELLO])[1] == b"hello"
        parser.expect(bodiless=False)
    heads, body = feed(parser, [CHUNKED, CHUNKS])
    assert (heads[0].chunked, body, parser.complete) == (True, PLAIN_CHUNKS, True)


def test_a_long_head_is_not_kept() -> None:
    known: FIFO[bytes, ResponseHead] = FIFO(10)
    long = b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 5000 + b"\r\nContent-Length: 0\r\n\r\n"
    feed(ResponseParser(bodiless=False, known=known), [long])
    assert len(known) == 0
