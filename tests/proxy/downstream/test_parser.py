"""Bytes → requests, for any pieces of the bytes."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.model import Header
from gateway.proxy.downstream.head_cache import HeadCache
from gateway.proxy.downstream.incoming import AnyRequest, Incoming
from gateway.proxy.downstream.limits import LimitExceeded, Limits
from gateway.proxy.downstream.parser import RequestParser

SMALL = Limits(head_size=400, header_count=5, field_size=100, target_length=60)
GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
UPGRADE = b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"


@dataclass(frozen=True)
class Read:
    """The result of one request."""

    method: str
    target: str
    headers: tuple[Header, ...]
    body: bytes
    complete: bool
    upgrade: bool
    keep_alive: bool
    error: str | None


def seen(incoming: AnyRequest) -> Read:
    return Read(
        incoming.method,
        incoming.target,
        incoming.headers,
        b"".join(incoming.take() if isinstance(incoming, Incoming) else incoming.body),
        incoming.complete,
        incoming.upgrade,
        incoming.keep_alive,
        None if incoming.error is None else incoming.error.reason.code,
    )


def read(parser: RequestParser, pieces: Iterable[bytes]) -> list[Read]:
    for piece in pieces:
        parser.feed(piece)
    return [seen(incoming) for incoming in parser.arrived]


def take_all(parser: RequestParser) -> list[Read]:
    """Take all requests, also those from the data ahead."""
    found: list[Incoming] = []
    while parser.arrived:
        found.append(parser.arrived.popleft())
        if parser.ahead and not parser.arrived:
            parser.read_on()
    return [seen(incoming) for incoming in found]


def requests(*pieces: bytes, limits: Limits = SMALL) -> list[Read]:
    parser = RequestParser(limits)
    for piece in pieces:
        parser.feed(piece)
    return take_all(parser)


def octets(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def post(body: bytes, *fields: bytes) -> bytes:
    head = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n" % len(body)
    return b"".join([head, *(field + b"\r\n" for field in fields), b"\r\n", body])


# However they arrive -------------------------------------------------------------------------------

TOKENS = st.text("abcXYZ019-_.", min_size=1, max_size=8).map(str.encode)
BODIES = st.binary(max_size=40)


@st.composite
def good_requests(draw: st.DrawFn) -> bytes:
    """Draw one request within the limits of `SMALL`."""
    method = draw(st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE", b"M-SEARCH"]))
    target = b"/" + draw(TOKENS)
    fields = [b"X-%b: %b" % field for field in draw(st.lists(st.tuples(TOKENS, TOKENS), max_size=2))]
    framing = draw(st.sampled_from(["none", "length", "chunked", "trailers"]))
    body = b""
    if framing == "length":
        body = draw(BODIES)
        fields.append(b"Content-Length: %d" % len(body))
    elif framing != "none":
        fields.append(b"transfer-encoding: Chunked")
        chunks = [chunk for chunk in draw(st.lists(BODIES, max_size=3)) if chunk]
        extension = draw(st.sampled_from([b"", b";a=b"]))
        body = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
        body += b"0\r\n" + (b"X-Trailer: 1\r\n" if framing == "trailers" else b"") + b"\r\n"
    return b"\r\n".join([b"%b %b HTTP/1.1" % (method, target), b"Host: a", *fields, b"", b""]) + body


STREAMS = st.builds(
    lambda good, ending: b"".join(good) + ending,
    st.lists(good_requests(), max_size=4),
    st.sampled_from(
        [
            b"",
            b"GET /x HT",
            b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc",
            b"excess\r\n\r\n",
            b"GET /x HTTP/1.1\r\nbad name: b\r\n\r\n",
            b"GET /x HTTP/2.0\r\n\r\n",
            CHUNKED + b"3\r\nabcX\r\n0\r\n\r\n",
            b"GET /" + b"x" * 60 + b" HTTP/1.1\r\n\r\n",
            b"GET /x HTTP/1.1\r\n" + b"X-A: b\r\n" * 6 + b"\r\n",
            UPGRADE + b"early \0 bytes",
            b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\nearly",
            UPGRADE[:-2] + b"Content-Length: 3\r\n\r\nabc" + GET,
        ]
    ),
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


# Heads that come again -----------------------------------------------------------------------------


def known(*pieces: bytes) -> tuple[HeadCache, RequestParser]:
    """Return the cache after these pieces on one connection, and the parser."""
    heads = HeadCache(frozenset(), frozenset(), 100)
    parser = RequestParser(SMALL, heads)
    for piece in pieces:
        parser.feed(piece)
    return heads, parser


def test_a_known_head_is_recalled() -> None:
    heads, first = known(GET)
    assert RequestParser(SMALL, heads).recall(GET) == (first.arrived[0].recurring, None)


@pytest.mark.parametrize("before", [b"PROP", b"\r\n", GET, CHUNKED, CHUNKED + b"3\r\nabc", UPGRADE, b"\0"])
def test_a_head_is_not_recalled_in_the_middle_of_a_message(before: bytes) -> None:
    heads, _ = known(GET)
    parser = RequestParser(SMALL, heads)
    parser.feed(before)
    assert parser.recall(GET) is None


def test_a_head_is_not_recalled_after_a_request_for_another_protocol() -> None:
    heads, parser = known(UPGRADE)
    parser.arrived.clear()
    RequestParser(SMALL, heads).feed(GET)
    assert heads.recall(GET) is not None
    assert parser.recall(GET) is None


@pytest.mark.parametrize(
    "piece",
    [
        pytest.param(GET + b"PROP", id="the-start-of-a-method-behind-it"),
        pytest.param(GET + b"GET /", id="the-start-of-a-target-behind-it"),
        pytest.param(GET + GET, id="two"),
        pytest.param(post(b"abc"), id="body"),
        pytest.param(post(b"abc")[:-1], id="half-a-body"),
        pytest.param(CHUNKED, id="body-to-come"),
        pytest.param(UPGRADE, id="upgrade"),
        pytest.param(b"GET /x HTTP/1.1\r\nConnection: close\r\n\r\n", id="close"),
        pytest.param(b"GET /x HTTP/1.1\r\nbad name: a\r\n\r\n", id="error"),
        pytest.param(GET[:-1], id="half-a-head"),
    ],
)
def test_only_exactly_one_head_is_remembered(piece: bytes) -> None:
    heads, _ = known(piece)
    assert len(heads) == 0


@pytest.mark.parametrize("before", [b"PROP", b"\r\n", GET, GET + b"PROP", CHUNKED + b"3\r\nabc", UPGRADE])
def test_a_head_is_not_remembered_if_its_piece_began_with_other_data(before: bytes) -> None:
    heads, _ = known(before, b"PATCH /x HTTP/1.1\r\nHost: a\r\n\r\n")
    assert heads.recall(b"PATCH /x HTTP/1.1\r\nHost: a\r\n\r\n") is None


@pytest.mark.parametrize("piece", [b"\r\n", b"PROP", b"G"])
def test_data_after_a_waiting_request_is_not_remembered_as_a_head(piece: bytes) -> None:
    heads, _ = known(GET, piece)
    assert heads.recall(piece) is None


@given(st.lists(STREAMS, min_size=1, max_size=3), st.data())
def test_remembered_heads_make_no_difference_to_the_requests(
    streams: list[bytes], data: st.DataObject
) -> None:
    heads = HeadCache(frozenset(), frozenset(), 100)
    for stream in [*streams, *streams]:
        cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=6)) | {0, len(stream)})
        pieces = [stream[start:end] for start, end in pairwise(cuts)]
        assert taken(RequestParser(SMALL, heads), pieces) == taken(RequestParser(SMALL), pieces)


def taken(parser: RequestParser, pieces: list[bytes]) -> list[Read]:
    """Take each request as soon as it is complete, as a connection does."""
    found: list[Read] = []
    for piece in pieces:
        if (recalled := parser.recall(piece)) is not None:
            found.append(seen(recalled[0]))
            continue
        parser.feed(piece)
        if all(incoming.complete or incoming.error for incoming in parser.arrived):
            found += read(parser, [])
            parser.arrived.clear()
    return found + read(parser, [])


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


def test_heads_that_do_not_recur_are_looked_up_seldom() -> None:
    heads = HeadCache(frozenset(), frozenset(), 1000)
    parser = RequestParser(SMALL, heads)

    def came(head: bytes) -> bool:
        """Return whether a head was recalled."""
        if parser.recall(head) is not None:
            return True
        parser.feed(head)
        parser.arrived.clear()
        return False

    for number in range(200):
        assert not came(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
    assert len(heads) < 30
    # If the client begins to repeat heads, the parser notices it later, and then recalls each one.
    known = [came(GET) for _ in range(100)]
    assert sum(known[40:]) == 60
