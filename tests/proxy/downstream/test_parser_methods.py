"""Methods and versions that llhttp does not know: it still judges everything but these two words."""

from contextlib import suppress

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.requests.methods import LLHTTP_METHODS
from gateway.proxy.downstream.limits import Limits
from gateway.proxy.downstream.parser import RequestParser
from tests.proxy.downstream.parsing import SMALL, Read, read

UNUSUAL = [
    *("LABEL", "VERSION-CONTROL", "FOO", "get", "X", "MKWORKSPACE", "DESCRIBE", "PLAY", "F'*|~"),
    "P" * 64,
]
HEAD = b" /x?y HTTP/1.1\r\nHost: a\r\n"
BODIES = {
    "none": (b"\r\n", b""),
    "length": (b"Content-Length: 5\r\n\r\nhello", b"hello"),
    "chunked": (b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nT: 1\r\n\r\n", b"hello"),
}


def requests(data: bytes, *, at_once: bool = True, limits: Limits | None = None) -> list[Read]:
    parser = RequestParser(limits or Limits())
    pieces = [data] if at_once else [data[at : at + 1] for at in range(len(data))]
    return read(parser, pieces)


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(("rest", "body"), BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("method", UNUSUAL)
def test_an_unknown_method_is_read_like_any_other(
    method: str, rest: bytes, body: bytes, *, at_once: bool
) -> None:
    (found,) = requests(method.encode() + HEAD + rest, at_once=at_once)
    (usual,) = requests(b"POST" + HEAD + rest, at_once=at_once)

    assert (found.method, found.error, found.complete, found.body) == (method, None, True, body)
    assert (found.target, found.headers, found.keep_alive) == (usual.target, usual.headers, usual.keep_alive)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_higher_minor_version_is_read_as_1_1(*, at_once: bool) -> None:
    for version in (b"1.2", b"1.9"):
        for method in ("GET", "FOO"):
            data = method.encode() + b" / HTTP/" + version + b"\r\nHost: a\r\n\r\n"
            (found,) = requests(data, at_once=at_once)
            assert (found.method, found.error, found.keep_alive) == (method, None, True)
    (old,) = requests(b"FOO / HTTP/1.0\r\nHost: a\r\n\r\n", at_once=at_once)
    assert (old.method, old.error, old.keep_alive) == ("FOO", None, False)


def test_requests_on_one_connection_go_on() -> None:
    parser = RequestParser(Limits())
    found = read(
        parser,
        [
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"FOO / HTTP/1.2\r\nHost: a\r\nContent-Length: 2\r\n\r\nabGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
            b"PUT /3 HTTP/1.1\r\nHost: a\r\n\r\n",
        ],
    )
    assert [each.method for each in found] == ["GET", "FOO", "GET", "PUT"]


def test_an_upgrade_is_none_of_the_method() -> None:
    rest = b" / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert requests(b"FOO" + rest)[0].upgrade == requests(b"POST" + rest)[0].upgrade


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    "rest",
    [
        b" / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b" / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b" / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b" / HTTP/1.1\r\nHost : a\r\n\r\n",
        b" / HTTP/1.1\r\nHost: a\r\n X: folded\r\n\r\n",
        b" / HTTP/1.1\nHost: a\n\n",
        b" / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
        b" / HTTP/2.0\r\nHost: a\r\n\r\n",
        b" / HTTP/3.1\r\nHost: a\r\n\r\n",
        b" / HTTP/1.10\r\nHost: a\r\n\r\n",
        b" / HTTP/01.1\r\nHost: a\r\n\r\n",
        b" / http/1.1\r\nHost: a\r\n\r\n",
        b" /\r\nHost: a\r\n\r\n",
        b" /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\n / HTTP/1.1\r\nHost: a\r\n\r\n",
        b": / HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_nothing_else_is_forgiven(rest: bytes, *, at_once: bool) -> None:
    for method in (b"FOO", b"POST"):
        parser = RequestParser(Limits())
        found = read(parser, [method + rest] if at_once else [bytes([octet]) for octet in method + rest])
        assert found[-1].error == "request_malformed"
        assert parser.broken


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"\x00",
        b"P" * 65,
        b"FOO\x80",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"<html>",
        b"{",
    ],
)
def test_data_that_can_never_be_a_request_is_refused_at_once(data: bytes) -> None:
    (found,) = requests(data)
    assert found.error == "request_malformed"


def test_a_line_has_its_limit() -> None:
    parser = RequestParser(SMALL)
    parser.feed(b"FOO /" + b"x" * 200)
    assert parser.broken
    (found,) = requests(b"FOO /" + b"x" * 80 + b" HTTP/1.1\r\n", limits=SMALL)
    assert found.error == "target_too_long"


def test_a_request_that_is_pipelined_behind_another_must_have_a_known_method() -> None:
    """Where it begins is not known then, so nothing is read again."""
    first = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"
    found = requests(first + b"FOO /2 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert [(each.target, each.error) for each in found] == [("/1", None), ("", "request_malformed")]
    found = requests(first + b"GET /2 HTTP/1.2\r\nHost: a\r\n\r\n")
    assert [(each.target, each.error) for each in found] == [("/1", None), ("", "request_malformed")]


def test_the_known_methods_are_those_of_the_parser() -> None:
    class Events:
        known = False

        def on_url(self, _: bytes) -> None:
            self.known = True

    def knows(method: str) -> bool:
        events = Events()
        with suppress(httptools.HttpParserError):
            httptools.HttpRequestParser(events).feed_data(f"{method} /x HTTP/1.1\r\n".encode())
        return events.known

    for method in LLHTTP_METHODS - {"PRI", "CONNECT"}:
        assert knows(method), method
    for method in ("FOO", "LABEL", "UPDATE", "CHECKIN", "get", "GETS", "VERSION-CONTROL"):
        assert not knows(method), method


TOKENS = st.text("ABCXYZabc-_!~", min_size=1, max_size=8)
PIECES = [
    *(b"FOO", b"GET", b" ", b"/", b"HTTP/1.1", b"HTTP/1.2", b"\r\n", b"Host: a", b"\n", b"\x00", b"x", b"0"),
    *(b"Content-Length: 1", b"Transfer-Encoding: chunked"),
]
NOISE = st.lists(st.sampled_from(PIECES), max_size=12)


@given(TOKENS.filter(lambda method: method not in LLHTTP_METHODS), NOISE)
def test_a_method_changes_nothing_about_framing(method: str, noise: list[bytes]) -> None:
    rest = b" /x HTTP/1.1\r\nHost: a\r\n" + b"".join(noise)
    found, usual = requests(method.encode() + rest), requests(b"POST" + rest)

    assert [each.error for each in found] == [each.error for each in usual]
    assert [(each.target, each.body, each.complete) for each in found] == [
        (each.target, each.body, each.complete) for each in usual
    ]
