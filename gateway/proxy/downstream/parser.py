"""Bytes from a client → its requests, without any I/O.

llhttp reads every byte and alone decides on framing (RFC 9112 §6). This file measures sizes while the data
arrives, so that no more of a head is kept than its limits allow.

=============== =============================== =============== ============================================
State           Event                           Next            What follows
=============== =============================== =============== ============================================
between         a message begins                head
head            llhttp does not know the        head            another llhttp parses the head, with a method
                method, or the version                          and a version that it knows
head            the same, within the line       line            the rest of the line is awaited
line            the line is complete            head            the same as above
head            its head ends                   body            the request has arrived, its body may follow
body            the message ends                between         the request is complete
head            its head ends; it asks for      body skipped    llhttp does not parse the body
                another protocol and has a body
body skipped    llhttp stops                    body            a second llhttp parses the body
between         llhttp stops: the last request  other protocol  all following data is kept in `rest`
                asked for another protocol
other protocol  `resume`                        between         `rest` is parsed as HTTP
any             a byte is wrong, or a limit is  broken          the request that is arriving gets the error;
                exceeded; `fail`                                nothing more is parsed
=============== =============================== =============== ============================================
"""

import re
from collections import deque
from typing import Final, Literal, TypeAlias

import httptools

from gateway.core.model import Header
from gateway.core.reasons import REQUEST_MALFORMED, Denial
from gateway.core.requests.methods import LLHTTP_METHODS
from gateway.proxy.downstream.head_cache import HeadCache, Known
from gateway.proxy.downstream.incoming import Incoming, RecurringRequest
from gateway.proxy.downstream.limits import LimitExceeded, Limits

# The lengths of the names that `_note` reads. Comparing the length first is fast.
_SPECIAL_LENGTHS: Final = frozenset(map(len, (b"Content-Length", b"Transfer-Encoding", b"Expect")))
# Data that may contain heads is parsed in pieces of this many bytes. A parsed request takes many times the
# memory of its bytes, and one large read may contain thousands of small requests.
_AT_ONCE: Final = 32 * 1024
# After this many new heads in a row, a client will probably repeat no head: browsers do not, and neither do
# traced services. From then on, only one head in `_LOOK_AGAIN` is looked up and remembered.
_ALL_NEW: Final = 8
_LOOK_AGAIN: Final = 16
# A well-formed request line of HTTP/1 (RFC 9112 §3), and one of which more may come.
_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}"
_LINE: Final = re.compile(rb"(%b)( [!-\xff]+ HTTP/1\.)([0-9])\r?\n" % _TOKEN)
_LINE_BEGUN: Final = re.compile(rb"%b(?: [!-\xff]*(?: [HTP/1.0-9]*\r?)?)?" % _TOKEN)
_LONGEST_METHOD: Final = 64
# The framing of a request does not depend on its method, except for CONNECT (RFC 9112 §6.3). So llhttp gets
# this one for a method that it does not know, and stays the only judge of framing.
_STAND_IN: Final = b"POST"
# More pieces of a body are joined, because small pieces take less memory than their bookkeeping.
_MOST_PIECES: Final = 1024


State: TypeAlias = Literal["between", "line", "head", "body", "body skipped", "other protocol", "broken"]
_IN_LINE: Final = frozenset({"between", "line", "head"})


class RequestParser:
    """The requests of one connection, in order."""

    __slots__ = (
        "_headers",
        "_known",
        "_limits",
        "_line",
        "_llhttp",
        "_method",
        "_new_heads",
        "_others",
        "_progress",
        "_state",
        "_target",
        "ahead",
        "arrived",
        "current",
        "pending",
        "rest",
    )

    def __init__(self, limits: Limits, known: HeadCache | None = None) -> None:
        """`known`: the heads of earlier requests, from all connections with these limits."""
        self._limits = limits
        self._known = known
        self._llhttp = httptools.HttpRequestParser(self)
        self._state: State = "between"
        # The beginning of a head whose request line is not complete.
        self._line = b""
        # The method of the request, if llhttp was given another one.
        self._method = ""
        self._target = b""
        self._headers: list[Header] = []
        self.current: Incoming | None = None
        """The request whose body is arriving."""
        self._progress = False
        # New heads in a row on this connection.
        self._new_heads = 0
        # The largest part of `pending` that may have come before the head, in one piece with its start.
        self._others = 0
        self.pending = 0
        """Bytes since the last complete head or content: bytes of a head, of trailers or of chunk sizes.

        If the start of a head came in one piece with other data, that data is counted too.
        """
        self.arrived: deque[Incoming] = deque()
        """Requests whose head has arrived, and that the connection has not taken yet.

        A request that could not be parsed has an `error`, and is the last one.
        """
        self.rest: bytearray | None = None
        """The data after a request for another protocol, until `resume`."""
        self.ahead = b""
        """The data after the requests in `arrived`. `read_on` parses it once they have been taken."""

    @property
    def broken(self) -> bool:
        """True after an error: the following data has no meaning."""
        return self._state == "broken"

    def recall(self, data: bytes) -> Known | None:
        """Return the request if these bytes are exactly one with a known head; None: call `feed`.

        llhttp would give the same result as before, because it has no state between two messages.
        """
        if self._known is None or self._state != "between" or self.pending or self.arrived:
            return None
        if self._new_heads >= _ALL_NEW and self._new_heads % _LOOK_AGAIN:
            return None
        known = self._known.recall(data)
        if known is not None:
            self._new_heads = 0
        return known

    def feed(self, data: bytes) -> None:
        """Parse bytes as they arrive. An error becomes the `error` of a request."""
        if self._state == "broken":
            return
        if self.rest is not None:
            self.rest += data
            return
        fresh = self._state == "between" and not self.pending
        if self.ahead:
            self.ahead += data
            return
        if len(data) > _AT_ONCE and len(data) > self._body_to_come:
            self._feed_in_pieces(data)
            return
        self._progress = False
        self.pending += len(data)
        first = fresh and not self.arrived
        line = data if fresh else self._line + data if self._line else b""
        failure: httptools.HttpParserError | None = None
        try:
            self._read(data)
        except httptools.HttpParserError as error:
            # Handled below: here it would become the context of the next error of httptools.
            failure = error
        if failure is not None and not self._recover(line, failure):
            return
        self._line = line if self._state in _IN_LINE and b"\n" not in line else b""
        if first and len(self.arrived) == 1 and self._state != "head":
            self._remember(data, self.arrived[0])
        if self._progress:
            self.pending = self._others = len(data) if self._state == "head" else 0
        elif self.pending - self._others > self._limits.head_size:
            self.fail(LimitExceeded("head_size"))
        elif len(self._headers) > self._limits.header_count:
            self.fail(LimitExceeded("header_count"))

    def _recover(self, head: bytes, error: httptools.HttpParserError) -> bool:
        """Fail, unless llhttp only does not know the method or the version. Return whether parsing goes on.

        `head` is the arriving request from its first byte on. It is empty if that byte is not known: the
        request has come together with an earlier one, or its line is complete.
        """
        in_line = self._state in _IN_LINE and not (self._headers or self._progress)
        if head and in_line and not isinstance(error.__context__, Denial):
            try:
                if self._read_unusual(head):
                    return True
            except httptools.HttpParserError as again:
                error = again
        self.fail(_denial(error))
        return False

    def _read_unusual(self, head: bytes) -> bool:
        """Parse a head with a method and a version that llhttp knows; return False if it has these already.

        If the request line is not complete yet, its rest is awaited. Raises `httptools.HttpParserError`.
        """
        if b"\n" not in head:
            self._state = "line"
            longest = self._limits.target_length + _LONGEST_METHOD + len("  HTTP/1.1\r")
            return _LINE_BEGUN.fullmatch(head) is not None and len(head) <= longest
        match = _LINE.match(head)
        if match is None:
            return False
        method, target, minor, rest = match[1], match[2], match[3], head[match.end(3) :]
        unknown = method.decode("ascii") not in LLHTTP_METHODS
        if not unknown and minor in {b"0", b"1"}:
            return False
        self._method = method.decode("ascii") if unknown else ""
        self._target = b""
        self._llhttp = httptools.HttpRequestParser(self)
        # RFC 9110 §2.5: a higher minor version is read as the highest that is known.
        minor = min(minor, b"1")
        self._read(b"%b%b%b%b" % (_STAND_IN if unknown else method, target, minor, rest))
        return True

    def _feed_in_pieces(self, data: bytes) -> None:
        """Parse piece by piece, until a request has arrived; keep the rest in `ahead`."""
        start = 0
        while start < len(data):
            if self.arrived:
                self.ahead = data[start:]
                return
            end = start + max(_AT_ONCE, self._body_to_come)
            self.feed(data[start:end])
            start = end

    @property
    def _body_to_come(self) -> int:
        """The number of following bytes that belong to the current body, so contain no head."""
        incoming = self.current
        return 0 if incoming is None or incoming.length is None else incoming.length - incoming.received

    def read_on(self) -> None:
        """Parse the data in `ahead`. Call it once all requests in `arrived` have been taken."""
        ahead, self.ahead = self.ahead, b""
        self.feed(ahead)

    def _remember(self, data: bytes, incoming: Incoming) -> None:
        """Remember the head of a request without a body, if the data was exactly this request."""
        self._new_heads += 1
        if self._new_heads > _ALL_NEW and self._new_heads % _LOOK_AGAIN != 1:
            return
        if self._known is None or not (incoming.complete and incoming.keep_alive and incoming.headers):
            return
        if not (incoming.has_body or incoming.upgrade or incoming.expects_continue):
            incoming.recurring = RecurringRequest(
                incoming.method, incoming.target, incoming.headers, incoming.modern
            )
            self._known.keep(data, incoming.recurring)

    def fail(self, denial: Denial) -> None:
        """Stop parsing. The arriving request gets the denial; if there is none, an empty request gets it."""
        self._state = "broken"
        self.pending = 0
        self.ahead = b""
        incoming, self.current = self.current, None
        if incoming is None:
            incoming = Incoming()
            if self._headers:
                # Its request line was complete.
                incoming.target = self._target.decode("latin-1")
            self.arrived.append(incoming)
        self._line, self._target, self._headers = b"", b"", []
        incoming.error = denial

    def swallow(self, data: bytes) -> bool:
        """Drop bytes of a body that is not needed; return whether they were the last ones."""
        incoming = self.current
        if incoming is None:
            return False
        # `ahead` has later requests, which get no answer either.
        self.ahead = b""
        self.feed(data)
        incoming.body.clear()
        return incoming.complete

    def resume(self) -> None:
        """Continue with HTTP after a request whose upgrade the upstream did not accept."""
        rest, self.rest = self.rest, None
        if self._state == "other protocol":
            self._state = "between"
        if rest:
            self.feed(bytes(rest))

    def _read(self, data: bytes | memoryview) -> None:
        while True:
            try:
                self._llhttp.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = memoryview(data)[upgrade.args[0] :]
            else:
                return
            if self._state != "body skipped":
                self._state, self.rest = "other protocol", bytearray(data)
                return
            self._expect_body()

    def _expect_body(self) -> None:
        """Prepare a second llhttp for the body of a request that asks for another protocol.

        llhttp assumes that the body belongs to that protocol. But a server may ignore Upgrade (RFC 9110
        §7.8), and the gateway does so for a request with a body.
        """
        incoming = self.current
        if incoming is not None:
            chunked, length = b"Transfer-Encoding: chunked", b"Content-Length: %d" % (incoming.length or 0)
            self._llhttp = httptools.HttpRequestParser(self)
            self._llhttp.feed_data(
                b"POST / HTTP/1.1\r\n%b\r\n\r\n" % (chunked if incoming.chunked else length)
            )

    # Callbacks of llhttp, with httptools' names ----------------------------------------------------

    def on_message_begin(self) -> None:
        self._state = "head"

    def on_url(self, part: bytes) -> None:
        if self.current is None:
            self._target += part
            if self.pending > self._limits.target_length < len(self._target):
                raise LimitExceeded("target_length")

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers arrive here too, and are dropped.
        if self.current is None:
            self._headers.append((name, value))
            if self.pending > self._limits.field_size < max(len(name), len(value)):
                raise LimitExceeded("field_size")

    def on_headers_complete(self) -> None:
        self._state = "body"
        if self.current is not None:
            return
        llhttp, headers = self._llhttp, self._headers
        incoming = Incoming()
        incoming.method = self._method or llhttp.get_method().decode("ascii")
        incoming.target = self._target.decode("latin-1")
        incoming.headers = tuple(headers)
        incoming.keep_alive = llhttp.should_keep_alive()
        if self.pending > self._limits.head_size or len(headers) > self._limits.header_count:
            self._limits.check_head(incoming.method, incoming.target, headers)
        version = llhttp.get_http_version()
        incoming.modern = version == "1.1"
        if not incoming.modern and version != "1.0":
            raise Denial(REQUEST_MALFORMED, "it is neither HTTP/1.1 nor HTTP/1.0")
        for name, value in headers:
            if len(name) in _SPECIAL_LENGTHS:
                _note(incoming, name.lower(), value)
        if llhttp.should_upgrade():
            incoming.upgrade = not incoming.has_body
            if incoming.has_body:
                self._state = "body skipped"
        self._target, self._headers, self._method = b"", [], ""
        self._progress = True
        self.current = incoming
        self.arrived.append(incoming)

    def on_body(self, content: bytes) -> None:
        incoming = self.current
        if incoming is not None:
            self._progress = True
            incoming.body.append(content)
            incoming.received += len(content)
            if len(incoming.body) > _MOST_PIECES:
                incoming.body = [b"".join(incoming.body)]

    def on_message_complete(self) -> None:
        incoming = self.current
        if incoming is not None and self._state == "body":
            self._progress = True
            incoming.complete = True
            self._state, self.current = "between", None


def _note(incoming: Incoming, name: bytes, value: bytes) -> None:
    """Note how a message is framed. llhttp has checked it, and accepts at most one length."""
    if name == b"content-length":
        incoming.length = int(value)
    elif name == b"transfer-encoding":
        if not incoming.modern:
            # A proxy in between may read it differently (RFC 9112 §6.1).
            raise Denial(REQUEST_MALFORMED, "HTTP/1.0 has no transfer codings")
        if value.strip(b" \t").lower() != b"chunked":
            # The gateway decodes no other codings (RFC 9112 §6.1).
            raise Denial(REQUEST_MALFORMED, "the body has a transfer coding beside chunked")
        incoming.chunked = True
    elif name == b"expect":
        incoming.expects_continue = True


def _denial(error: httptools.HttpParserError) -> Denial:
    """Translate an error of llhttp. Its text quotes no data of the client."""
    denial = error.__context__
    if isinstance(denial, Denial):
        return denial
    denial = Denial(REQUEST_MALFORMED, str(error))
    denial.__cause__ = error
    return denial
