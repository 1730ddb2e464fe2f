"""Heads that come again: which ones the parser remembers and recalls."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.downstream.head_cache import HeadCache
from gateway.proxy.downstream.parser import RequestParser
from tests.proxy.downstream.parsing import CHUNKED, GET, SMALL, STREAMS, UPGRADE, Read, post, read, seen


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
