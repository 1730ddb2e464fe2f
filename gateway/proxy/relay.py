"""One admitted request, streamed to its upstream, and the response streamed back.

Request bodies are framed anew, because aiohttp's parser has taken them apart; response bodies pass
as they stood on the wire, unless the client's HTTP version cannot read them.
"""

import asyncio
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from aiohttp import HttpVersion11, http_exceptions, web

from gateway.core.headers import response_headers
from gateway.core.model import Admission
from gateway.core.reasons import REQUEST_MALFORMED, UPSTREAM_PROTOCOL_ERROR, Denial
from gateway.proxy.connection import UpstreamConnection
from gateway.proxy.response_parser import DecodingResponseParser, ResponseHead, ResponseParser
from gateway.proxy.upstream import Upstream

# RFC 9110 §9.2.2: sending these twice does no more than sending them once.
_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})

# Closing discards what was not sent, and sends RST (`struct linger` of POSIX sockets).
_NO_LINGER: Final = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Relayed:
    """What the client was sent."""

    status: int
    keep_alive: bool
    broken: Denial | None = None
    """Why the response broke off in the middle; the client's connection was broken to tell it."""


class Relay:
    """One exchange between a client and an upstream."""

    def __init__(
        self, request: web.BaseRequest, admission: Admission, upstream: Upstream, request_id: str
    ) -> None:
        self._request = request
        self._admission = admission
        self._upstream = upstream
        self._request_id = request_id
        self._modern = request.version >= HttpVersion11

    async def run(self) -> Relayed:
        """Forward the request and stream the response.

        Raises `Denial` of the proxy group while nothing has been sent to the client. When an upstream
        closes a kept connection just as it is used, the request goes out once more on a fresh one,
        if it has no body and is idempotent (RFC 9112 §9.3.1).
        """
        self._check_codings()
        connection = await self._upstream.acquire()
        try:
            return await self._exchange(connection)
        except Denial as denial:
            if not self._may_repeat(connection, denial):
                raise
        finally:
            self._upstream.release(connection)
        connection = await self._upstream.acquire(fresh=True)
        try:
            return await self._exchange(connection)
        finally:
            self._upstream.release(connection)

    def _check_codings(self) -> None:
        """Refuse every transfer coding but chunked: nothing here undoes it (RFC 9112 §6.1)."""
        for coding in self._request.headers.getall("Transfer-Encoding", ()):
            if coding.lower() != "chunked":
                raise Denial(REQUEST_MALFORMED, "the body has a transfer coding beside chunked")

    def _may_repeat(self, connection: UpstreamConnection, denial: Denial) -> bool:
        return (
            connection.reused
            and not connection.answered
            and denial.reason is UPSTREAM_PROTOCOL_ERROR
            and not self._request.body_exists
            and self._request.method in _IDEMPOTENT
        )

    async def _exchange(self, connection: UpstreamConnection) -> Relayed:
        bodiless = self._request.method == "HEAD"
        parser = (
            ResponseParser(bodiless=bodiless) if self._modern else DecodingResponseParser(bodiless=bodiless)
        )
        connection.begin(self._request_head(), parser)
        connection.allow(self._upstream.response_timeout)
        if not self._request.body_exists:
            return await self._respond(connection)
        body = asyncio.create_task(self._send_body(connection))
        try:
            return await self._respond(connection)
        finally:
            if not body.done():
                # The upstream has answered without reading on, or is gone: so is this connection.
                connection.abort()
                body.cancel()
            with suppress(asyncio.CancelledError):
                await body

    def _request_head(self) -> bytes:
        """Return the request line and fields (RFC 9112 §3), with the framing of the body to come."""
        admission = self._admission
        lines = [f"{admission.method} {admission.target} HTTP/1.1".encode("ascii")]
        lines += [name + b": " + value for name, value in admission.headers]
        length = self._request.headers.get("Content-Length")
        if length is not None:
            lines.append(b"Content-Length: " + length.encode("ascii"))
        elif self._request.body_exists:
            lines.append(b"Transfer-Encoding: chunked")
        return b"\r\n".join([*lines, b"", b""])

    async def _send_body(self, connection: UpstreamConnection) -> None:
        """Stream the client's body; a body that breaks off fails the exchange."""
        content = self._request.content
        chunked = "Content-Length" not in self._request.headers
        try:
            while data := await content.readany():
                connection.write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
                # The upstream's time counts from the end of the request.
                connection.allow(self._upstream.response_timeout)
                await connection.drain()
        except (web.RequestPayloadError, http_exceptions.HttpProcessingError, OSError) as error:
            denial = Denial(REQUEST_MALFORMED, "the body broke off, or its framing is wrong")
            denial.__cause__ = error
            connection.fail(denial)
            return
        if chunked:
            connection.write(b"0\r\n\r\n")

    async def _respond(self, connection: UpstreamConnection) -> Relayed:
        request = self._request
        head = await self._final_head(connection)
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client has left")
        framed = head.length is not None or (head.chunked and self._modern)
        keep_alive = request.keep_alive and framed and request.content.is_eof()
        transport.write(self._response_head(head, keep_alive=keep_alive) + connection.read_nowait())
        try:
            while not connection.complete or connection.unread:
                await request.writer.drain()
                if data := await connection.read():
                    transport.write(data)
        except Denial as denial:
            _break(transport)
            return Relayed(head.status, keep_alive=False, broken=denial)
        return Relayed(head.status, keep_alive)

    async def _final_head(self, connection: UpstreamConnection) -> ResponseHead:
        """Wait for the final head, passing interim ones on to who can read them (RFC 9110 §15.2)."""
        while (head := await connection.next_head()).interim:
            transport = self._request.transport
            if self._modern and transport is not None:
                transport.write(_head_bytes(head, []))
        return head

    def _response_head(self, head: ResponseHead, *, keep_alive: bool) -> bytes:
        ours = [b"X-Request-Id: " + self._request_id.encode("ascii")]
        if head.chunked and self._modern:
            ours.append(b"Transfer-Encoding: chunked")
        if not keep_alive:
            ours.append(b"Connection: close")
        elif not self._modern:
            ours.append(b"Connection: keep-alive")
        return _head_bytes(head, ours)


def _break(transport: asyncio.Transport) -> None:
    """Reset a connection: where its end is the body's, an orderly one would make half a body whole."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()


def _head_bytes(head: ResponseHead, ours: list[bytes]) -> bytes:
    lines = [b"HTTP/1.1 %d %b" % (head.status, head.reason)]
    lines += [
        name + b": " + value
        for name, value in response_headers(head.headers)
        if name.lower() != b"x-request-id"
    ]
    return b"\r\n".join([*lines, *ours, b"", b""])
