"""Limits and errors of the parser, and requests for other protocols."""

import pytest

from gateway.proxy.downstream.limits import LimitExceeded, Limits
from gateway.proxy.downstream.parser import RequestParser
from tests.proxy.downstream.parsing import CHUNKED, GET, SMALL, UPGRADE, octets, post, read, requests

# Errors --------------------------------------------------------------------------------------------

GREEDY = {
    "target_length": b"GET /%b HTTP/1.1\r\n\r\n" % (b"x" * 60),
    "field_size": b"GET /x HTTP/1.1\r\nX-A: %b\r\n\r\n" % (b"b" * 101),
    "header_count": b"GET /x HTTP/1.1\r\n%b\r\n" % (b"X-A: b\r\n" * 6),
    "head_size": b"GET /x HTTP/1.1\r\n%b\r\n" % (b"X-A: %b\r\n" % (b"b" * 96) * 4),
}
MODEST = {
    "target_length": b"GET /%b HTTP/1.1\r\n\r\n" % (b"x" * 59),
    "field_size": b"GET /x HTTP/1.1\r\nX-A: %b\r\n\r\n" % (b"b" * 100),
    "header_count": b"GET /x HTTP/1.1\r\n%b\r\n" % (b"X-A: b\r\n" * 5),
    "head_size": b"GET /x HTTP/1.1\r\n%bX: %b\r\n\r\n" % (b"X-A: %b\r\n" % (b"b" * 96) * 3, b"b" * 59),
}
BEFORE = {"nothing": b"", "a request": GET, "a body": post(b"a" * 1000), "chunks": CHUNKED + b"0\r\n\r\n"}


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
@pytest.mark.parametrize("limit", GREEDY)
def test_every_limit_holds_for_a_head_in_two_pieces(limit: str, before: bytes) -> None:
    """Even if its start came in one piece with earlier data."""
    stream = before + GREEDY[limit]
    for cut in range(len(before), len(stream)):
        parser = RequestParser(SMALL)
        found = read(parser, [stream[:cut], stream[cut:]])
        assert parser.broken, cut
        assert (found[-1].method, len(found)) == ("", 1 + bool(before)), cut
        error = parser.arrived[-1].error
        assert isinstance(error, LimitExceeded)
        assert error.limit == limit, cut


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
@pytest.mark.parametrize("limit", MODEST)
def test_a_head_at_a_limit_passes_in_two_pieces(limit: str, before: bytes) -> None:
    stream = before + MODEST[limit]
    for cut in range(len(stream)):
        found = requests(stream[:cut], stream[cut : cut + 1], stream[cut + 1 :])
        assert [incoming.error for incoming in found] == [None] * (1 + bool(before)), cut
    assert len(requests(*octets(stream))) == 1 + bool(before)


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
def test_an_endless_head_is_refused_while_it_arrives(before: bytes) -> None:
    parser = RequestParser(SMALL)
    parser.feed(before + b"GET /x HTTP/1.1\r\nX-A: ")
    fed = 0
    while not parser.broken:
        parser.feed(b"b")
        fed += 1
    assert fed < SMALL.head_size + 100


def test_endless_fields_are_counted_while_they_arrive() -> None:
    parser = RequestParser(Limits())
    parser.feed(b"GET /x HTTP/1.1\r\n" + b"a:\r\n" * 200)
    (incoming,) = parser.arrived
    assert isinstance(incoming.error, LimitExceeded)
    assert incoming.error.limit == "header_count"


def test_endless_trailers_are_refused() -> None:
    parser = RequestParser(SMALL)
    parser.feed(CHUNKED + b"0\r\n")
    (incoming,) = parser.arrived
    for _ in range(100):
        parser.feed(b"X-A: b\r\n")
    assert isinstance(incoming.error, LimitExceeded)
    assert not incoming.complete


def test_requests_before_an_error_are_good() -> None:
    parser = RequestParser(SMALL)
    found = read(parser, [post(b"abc") + GET + b"nonsense\r\n\r\n" + GET])
    assert [incoming.error for incoming in found] == [None, None, "request_malformed"]
    assert [incoming.method for incoming in found] == ["POST", "GET", ""]
    assert len(read(parser, [GET])) == 3


def test_an_error_in_a_body_belongs_to_its_request() -> None:
    parser = RequestParser(SMALL)
    (incoming,) = read(parser, [CHUNKED + b"3\r\nabcd"])
    assert (incoming.method, incoming.body, incoming.error) == ("POST", b"abc", "request_malformed")
    assert not incoming.complete
    assert parser.broken


def test_the_connection_may_find_an_error() -> None:
    parser = RequestParser(SMALL)
    parser.feed(GET + b"GET /x HT")
    parser.fail(LimitExceeded("header_timeout"))
    first, second = read(parser, [b"TP/1.1\r\n\r\n"])
    assert (first.error, second.error) == (None, "request_timeout")


def test_nothing_follows_a_request_that_closes() -> None:
    first, second = requests(b"GET /x HTTP/1.1\r\nConnection: close\r\n\r\n" + GET)
    assert (first.keep_alive, second.error) == (False, "request_malformed")


# Other protocols -----------------------------------------------------------------------------------


def test_data_after_a_request_for_another_protocol_waits() -> None:
    parser = RequestParser(SMALL)
    (incoming,) = read(parser, [UPGRADE + b"\0\1", b"\2", GET])
    assert (incoming.upgrade, incoming.complete, incoming.error) == (True, True, None)
    assert bytes(parser.rest or b"") == b"\0\1\2" + GET
    assert parser.pending == 0


def test_data_that_waited_may_be_parsed_as_http() -> None:
    parser = RequestParser(SMALL)
    parser.feed(GET + UPGRADE + UPGRADE + post(b"abc")[:-1])
    assert len(parser.arrived) == 2
    parser.resume()
    assert len(parser.arrived) == 3
    parser.resume()
    found = read(parser, [b"c"])
    assert [incoming.upgrade for incoming in found] == [False, True, True, False]
    assert (found[-1].body, found[-1].complete) == (b"abc", True)
    assert parser.rest is None


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("single", [False, True])
def test_the_body_of_a_request_for_another_protocol_is_read(framing: str, *, single: bool) -> None:
    if framing == "length":
        body = b"Content-Length: 3\r\n\r\nabc"
    else:
        body = b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-A: b\r\n\r\n"
    stream = UPGRADE[:-2] + body + GET
    first, second = requests(*(octets(stream) if single else [stream]))
    assert (first.upgrade, first.body, first.complete) == (False, b"abc", True)
    assert (second.target, second.headers) == ("/x", ((b"Host", b"a"),))


def test_many_bodies_of_requests_for_other_protocols_are_read() -> None:
    one = UPGRADE[:-2] + b"Content-Length: 3\r\n\r\nabc"
    found = requests(one * 2000)
    assert len(found) == 2000
    assert {(incoming.body, incoming.complete, incoming.error) for incoming in found} == {
        (b"abc", True, None)
    }


def test_data_after_connect_is_not_parsed_as_http() -> None:
    parser = RequestParser(SMALL)
    (incoming,) = read(parser, [b"CONNECT a:22 HTTP/1.1\r\nHost: a:22\r\n\r\n" + GET])
    assert (incoming.method, incoming.target, incoming.complete) == ("CONNECT", "a:22", True)
    assert bytes(parser.rest or b"") == GET
