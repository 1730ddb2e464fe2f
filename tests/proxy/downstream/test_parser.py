"""Bytes → requests, for any pieces of the bytes."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.downstream.limits import LimitExceeded, Limits
from gateway.proxy.downstream.parser import RequestParser
from tests.proxy.downstream.parsing import (
    CHUNKED,
    GET,
    SMALL,
    STREAMS,
    octets,
    post,
    read,
    requests,
    take_all,
)


@given(st.data())
def test_the_pieces_of_the_data_make_no_difference(data: st.DataObject) -> None:
    stream = data.draw(STREAMS)
    whole, single, split = RequestParser(SMALL), RequestParser(SMALL), RequestParser(SMALL)
    expected = read(whole, [stream])
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=6)) | {0, len(stream)})
    assert read(single, octets(stream)) == expected
    assert read(split, [stream[start:end] for start, end in pairwise(cuts)]) == expected
    for parser in (single, split):
        assert (parser.broken, parser.rest) == (whole.broken, whole.rest)
        assert (parser.current is None) is (whole.current is None)


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_arbitrary_bytes_give_requests_or_an_error(pieces: list[bytes]) -> None:
    parser = RequestParser(SMALL)
    for incoming in read(parser, pieces):
        assert incoming.complete or incoming.error or parser.current is not None


@given(STREAMS, st.data())
def test_a_changed_byte_breaks_only_its_request(stream: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, max(0, len(stream) - 1)))
    octet = data.draw(st.binary(min_size=1, max_size=1))
    found = requests(stream[:at] + octet + stream[at + 1 :])
    assert all(incoming.error is None for incoming in found[:-1])


def test_the_parts_of_a_request_are_read() -> None:
    (incoming,) = requests(b"PUT /a?b=%20 HTTP/1.1\r\nHost: a\r\nx-B:\r\nX-c:  \xe9 d \r\n\r\n")
    assert (incoming.method, incoming.target) == ("PUT", "/a?b=%20")
    assert [name for name, _ in incoming.headers] == [b"Host", b"x-B", b"X-c"]
    assert [value.strip() for _, value in incoming.headers] == [b"a", b"", b"\xe9 d"]
    assert (incoming.body, incoming.complete, incoming.keep_alive) == (b"", True, True)


@pytest.mark.parametrize(
    ("version", "field", "stays"),
    [
        (b"1.1", b"X-A: b", True),
        (b"1.1", b"Connection: close", False),
        (b"1.0", b"X-A: b", False),
        (b"1.0", b"Connection: keep-alive", True),
    ],
)
def test_whether_another_request_may_follow(version: bytes, field: bytes, *, stays: bool) -> None:
    parser = RequestParser(SMALL)
    parser.feed(b"GET /x HTTP/%b\r\n%b\r\n\r\n" % (version, field))
    (incoming,) = parser.arrived
    assert (incoming.keep_alive, incoming.modern) == (stays, version == b"1.1")


def test_the_framing_of_a_body() -> None:
    parser = RequestParser(SMALL)
    parser.feed(CHUNKED + b"0\r\n\r\n" + post(b"", b"Expect: 100-continue") + post(b"abc") + GET)
    found = [(one.chunked, one.length, one.has_body, one.expects_continue) for one in parser.arrived]
    assert found == [
        (True, None, True, False),
        (False, 0, False, True),
        (False, 3, True, False),
        (False, None, False, False),
    ]


# Bodies --------------------------------------------------------------------------------------------


def test_a_body_is_available_as_it_arrives() -> None:
    parser = RequestParser(SMALL)
    parser.feed(post(b"abcdef")[:-4])
    (incoming,) = parser.arrived
    assert (incoming.take(), incoming.received, incoming.complete) == ([b"ab"], 2, False)
    parser.feed(b"cd")
    parser.feed(b"ef" + GET)
    assert (incoming.take(), incoming.take(), incoming.complete) == ([b"cd", b"ef"], [], True)
    assert len(parser.arrived) == 2


def test_trailers_belong_to_no_request() -> None:
    first, second = requests(CHUNKED + b"1\r\na\r\n0\r\nX-User-Id: forged\r\nHost: b\r\n\r\n" + GET)
    assert first.headers == ((b"Host", b"a"), (b"Transfer-Encoding", b"chunked"))
    assert second.headers == ((b"Host", b"a"),)


def test_many_small_chunks_are_kept_as_few_pieces() -> None:
    parser = RequestParser(Limits())
    parser.feed(CHUNKED + b"2\r\nab\r\n" * 30_000)
    incoming = parser.arrived.popleft()
    parser.read_on()
    assert len(incoming.body) < 2000
    assert b"".join(incoming.take()) == b"ab" * 30_000


def test_data_far_ahead_is_kept_unparsed() -> None:
    """Tiny requests would take many times the memory of their bytes."""
    parser, number = RequestParser(Limits()), 9000
    parser.feed(GET * number)
    parser.feed(GET[:9])
    assert 0 < len(parser.arrived) < 1500
    assert len(take_all(parser)) == number
    parser.feed(GET[9:])
    assert len(take_all(parser)) == 1


def test_a_body_is_read_to_its_end_with_other_data_after_it() -> None:
    body = b"abc" * 100_000
    found = requests(post(body) + GET + post(body) + CHUNKED + b"1\r\na\r\n0\r\n\r\n", limits=Limits())
    assert [(incoming.body, incoming.complete) for incoming in found] == [
        (body, True), (b"", True), (body, True), (b"a", True),
    ]  # fmt: skip


def test_data_after_a_swallowed_body_is_not_parsed() -> None:
    parser = RequestParser(Limits())
    body = bytes(40_000)
    parser.feed(post(body) + GET)
    assert parser.ahead
    assert not parser.swallow(b"more of it")
    assert not parser.ahead
    parser = RequestParser(Limits())
    parser.feed(GET * 3000)
    parser.fail(LimitExceeded("header_timeout"))
    assert not parser.ahead


def test_an_unwanted_body_is_swallowed_up_to_its_end() -> None:
    parser = RequestParser(SMALL)
    parser.feed(post(b"abcdef")[:-5])
    (incoming,) = parser.arrived
    assert not parser.swallow(b"bc")
    assert incoming.body == []
    assert parser.swallow(b"def" + GET)
    assert not parser.swallow(GET)


def test_nothing_is_swallowed_where_there_is_no_body() -> None:
    parser = RequestParser(SMALL)
    parser.feed(GET)
    assert not parser.swallow(GET)
    assert len(parser.arrived) == 1


def test_swallowing_ends_at_an_error_in_the_body() -> None:
    parser = RequestParser(SMALL)
    parser.feed(CHUNKED)
    assert not parser.swallow(b"no size\r\n")
    assert parser.broken
    assert not parser.swallow(b"0\r\n\r\n")
