"""Requests for the tests of the parser, and readers of its results."""

from collections.abc import Iterable
from dataclasses import dataclass

from hypothesis import strategies as st

from gateway.core.model import Header
from gateway.proxy.downstream.incoming import AnyRequest, Incoming
from gateway.proxy.downstream.limits import Limits
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
