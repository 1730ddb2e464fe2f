"""Bytes from an upstream → its response, without any I/O.

llhttp reads every byte and alone decides on framing (RFC 9112 §6). Accepted bytes are passed on unchanged,
but for the extensions of chunks. So a body is not parsed and rebuilt without need.
"""

from dataclasses import dataclass
from typing import Final

import httptools

from gateway.core.caches import FIFO
from gateway.core.headers import read_response
from gateway.core.model import Header
from gateway.core.reasons import UPSTREAM_PROTOCOL_ERROR, Denial
from gateway.core.requests.upgrades import offered
from gateway.proxy.upstream.chunk_extensions import ChunkExtensions

MAX_HEAD_BYTES: Final = 64 * 1024
MAX_INTERIM_RESPONSES: Final = 32
_LONGEST_RECURRING: Final = 4 * 1024
"""The largest size of a remembered head."""


@dataclass(slots=True)
class ResponseHead:
    """A response up to its body (RFC 9112 §4). It is never changed."""

    status: int
    reason: bytes
    headers: tuple[Header, ...]
    chunked: bool = False
    length: int | None = 0
    """The length of the body; None if chunks or the end of the connection end it."""
    fields: bytes = b""
    """The headers for the client, each with its line end."""

    @property
    def interim(self) -> bool:
        """True for 1xx: another head follows (RFC 9110 §15.2). After a 101, another protocol follows."""
        return self.status < 200 and self.status != 101


class ResponseParser:
    """The response to one request. Each method may raise `Denial` `upstream_protocol_error`."""

    def __init__(
        self,
        *,
        bodiless: bool,
        upgrade: bytes | None = None,
        known: FIFO[bytes, ResponseHead] | None = None,
    ) -> None:
        """`bodiless`: no body follows, even if the head has a length, because the request was HEAD.

        `upgrade`: the requested protocol. A 101 with another protocol is an error.
        `known`: heads of earlier responses that were complete.
        """
        self._known = known
        self._llhttp = httptools.HttpResponseParser(self)
        self._raw = bytearray()
        self.expect(bodiless=bodiless, upgrade=upgrade)
        self._prepare()

    def expect(self, *, bodiless: bool, upgrade: bytes | None = None) -> None:
        """Begin the response to the next request on the same connection, if `clean`."""
        self.heads: list[ResponseHead] = []
        """Heads that were not taken yet: interim ones, then at most one final head."""
        self.begun = False
        """True once the final head has arrived."""
        self.complete = False
        """True once the complete response has arrived."""
        self.reusable = False
        """True if the connection may serve another request."""
        self.clean = False
        """True if llhttp is at the end of the response, too."""
        self.switched = False
        """True once a 101 has arrived: the following data belongs to the new protocol."""
        self._first = True
        self._may_recur = not bodiless and upgrade is None and self._known is not None
        self._bodiless = bodiless
        self._upgrade = upgrade

    def _prepare(self) -> None:
        """Prepare to parse a response with an unknown head."""
        # Counts of heads: parsed by llhttp, and removed from the bytes before the body.
        self._final: ResponseHead | None = None
        self._head: ResponseHead | None = None
        self._remaining = 0
        self._extensions: ChunkExtensions | None = None
        self._excess = False
        self._doubtful = False
        self._reason = b""
        self._headers: list[Header] = []
        self._finished_heads: list[ResponseHead] = []
        self._interim = 0

    def feed(self, data: bytes) -> bytes:
        """Parse bytes as they arrive; return those of the body, with its framing.

        All bytes after a 101 are returned.
        """
        if not self._first:
            return data if self.switched else self._read(data)
        self._first = False
        if self._may_recur and (body := self._recall(data)) is not None:
            return body
        self._prepare()
        body = self._read(data)
        if self._may_recur:
            self._remember(data[: len(data) - len(body)])
        return body

    def _remember(self, head: bytes) -> None:
        """Recognise a known head with a complete body of the head's length."""
        if self._known is None or not (self.clean and self.reusable) or len(self.heads) != 1:
            return
        if self.heads[0].length is not None and len(head) <= _LONGEST_RECURRING:
            self._known.put(head, self.heads[0])

    def _recall(self, data: bytes) -> bytes | None:
        """Take a complete response with a known head; return None if it must be parsed.

        llhttp would give the same result as before, because it has no state between two messages.
        """
        end = data.find(b"\r\n\r\n") + 4
        head = None if self._known is None else self._known.get(data[:end])
        if head is None or head.length != len(data) - end:
            return None
        self.heads.append(head)
        self._head, self._remaining, self._excess = head, 0, False
        self.begun = self.complete = self.reusable = self.clean = True
        return data[end:]

    def _read(self, data: bytes) -> bytes:
        try:
            self._llhttp.feed_data(data)
        except httptools.HttpParserUpgrade:
            # To the requested protocol: `_check_switch` has refused all others.
            return self._take_heads(data)
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, Denial):
                raise error.__context__ from None
            if not self.complete:
                raise _broken(f"its response is not HTTP: {error}") from error
            self._excess = True
        if self._head is None:
            data = self._take_heads(data)
            if self._head is None:
                return b""
        if self._head.length is None:
            if self._excess:
                raise _broken("it sent more than one response")
            if self._head.chunked:
                if self._extensions is None:
                    self._extensions = ChunkExtensions()
                data = self._extensions.remove(data)
        elif len(data) <= self._remaining and not self._excess:
            self._remaining -= len(data)
        else:
            self.reusable = False
            data = data[: self._remaining]
            self._remaining = 0
        return data

    def eof(self) -> None:
        """Take the orderly end of the connection."""
        head = None if self._first else self._head
        if self.complete:
            return
        if head is None or head.chunked or head.length is not None:
            where = "before" if head is None else "in the middle of"
            raise _broken(f"it closed the connection {where} its response")
        self.complete = True

    def _take_heads(self, data: bytes) -> bytes:
        """Remove finished heads; return the bytes after the final head."""
        finished = self._finished_heads
        if self._raw or not finished:
            self._raw += data
            if not finished:
                if len(self._raw) > MAX_HEAD_BYTES:
                    raise _too_large()
                return b""
            data = bytes(self._raw)
            self._raw.clear()
        for head in finished:
            # llhttp accepts empty lines before a head, and then this would cut at the wrong place.
            if not data.startswith(b"HTTP/"):
                raise _broken("its response begins with an empty line")
            end = data.index(b"\r\n\r\n") + 4
            if end > MAX_HEAD_BYTES:
                raise _too_large()
            data = data[end:]
            self.heads.append(head)
            if head is self._final:
                self._head, self.begun = head, True
                self._remaining = head.length or 0
        finished.clear()
        if self._head is None:
            self._raw += data
            if len(data) > MAX_HEAD_BYTES:
                raise _too_large()
            return b""
        return data

    # Callbacks of llhttp, with httptools' names ----------------------------------------------------

    def on_message_begin(self) -> None:
        if self.complete:
            self._excess = True

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers arrive here, too. They are passed on with the body's bytes.
        if not self.complete and self._head is None:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        head = self._read_head(self._llhttp.get_status_code())
        self._finished_heads.append(head)
        self._reason, self._headers = b"", []
        if head.interim:
            self._interim += 1
            if self._interim > MAX_INTERIM_RESPONSES:
                raise _broken(f"it sent more than {MAX_INTERIM_RESPONSES} interim responses")
            return
        self._final = head
        if head.length == 0 and not head.chunked:
            # A head without a body (HEAD, 304) may have a length for llhttp.
            self.complete = True
            self.reusable = not (self.switched or self._doubtful) and self._llhttp.should_keep_alive()

    def on_message_complete(self) -> None:
        if self._final is None:
            return
        self.clean = True
        if not self.complete:
            self.complete = True
            self.reusable = self._llhttp.should_keep_alive() and not self._doubtful

    def _read_head(self, status: int) -> ResponseHead:
        if self._llhttp.get_http_version() not in {"1.0", "1.1"}:
            raise _broken("it answered in a version of HTTP that was not requested")
        if status < 100:
            raise _broken("its status is below 100")
        if status == 101:
            self._check_switch()
        headers = tuple(self._headers)
        kept, lengths, codings = read_response(headers)
        if len(codings) > 1 or (codings and codings[0].strip(b" \t").lower() != b"chunked"):
            raise _broken("it used a transfer coding that was not offered")
        length, chunked = int(lengths[0]) if lengths else None, bool(codings)
        # A server that does not know where its response ends may send more. RFC 9112 §6.1: HTTP/1.0 has no
        # codings, and a 204 neither codings nor, by RFC 9110 §8.6, a length.
        bodiless = status == 204 and (chunked or bool(length))
        self._doubtful = bodiless or (chunked and self._llhttp.get_http_version() == "1.0")
        if status < 200 or status == 204:
            # RFC 9110 §8.6: a length would promise the client a body that cannot come.
            headers = tuple(header for header in headers if header[0].lower() != b"content-length")
            kept = read_response(headers).kept
        if self._bodiless or status < 200 or status in {204, 304}:
            length, chunked = 0, False
        return ResponseHead(status, self._reason, headers, chunked, length, kept)

    def _check_switch(self) -> None:
        """Accept a 101 only to the requested protocol (RFC 9110 §7.8)."""
        protocol = offered(self._headers)
        if self._upgrade is None or protocol is None or protocol.lower() != self._upgrade.lower():
            raise _broken("it switched to a protocol that was not requested")
        self.switched = True


class DecodingResponseParser(ResponseParser):
    """Removes the framing of a chunked body, for an HTTP/1.0 client."""

    def __init__(self, *, bodiless: bool) -> None:
        self._content: list[bytes] = []
        super().__init__(bodiless=bodiless)

    def feed(self, data: bytes) -> bytes:
        raw = super().feed(data)
        if self._head is None or not self._head.chunked:
            self._content.clear()
            return raw
        content = b"".join(self._content)
        self._content.clear()
        return content

    def on_body(self, content: bytes) -> None:
        self._content.append(content)

    def _read_head(self, status: int) -> ResponseHead:
        head = super()._read_head(status)
        if head.chunked:
            # Its trailers are dropped with the framing.
            plain = tuple(header for header in head.headers if header[0].lower() != b"trailer")
            head.fields = read_response(plain).kept
        return head


def _too_large() -> Denial:
    return _broken(f"its response head exceeds {MAX_HEAD_BYTES} bytes")


def _broken(detail: str) -> Denial:
    return Denial(UPSTREAM_PROTOCOL_ERROR, detail)
