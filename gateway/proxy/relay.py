"""One admitted request, streamed to its upstream, and the response streamed back.

Request bodies are framed anew, because aiohttp's parser has taken them apart; response bodies pass
as they stood on the wire, unless the client's HTTP version cannot read them.
"""

import asyncio
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, cast

from aiohttp import HttpVersion11, http_exceptions, web
from aiohttp.http_websocket import WebSocketReader

from gateway.core.credentials import subprotocol_answer
from gateway.core.headers import response_headers
from gateway.core.model import Admission, Header
from gateway.core.reasons import REQUEST_MALFORMED, UPSTREAM_PROTOCOL_ERROR, Denial
from gateway.proxy.connection import UpstreamConnection
from gateway.proxy.limits import LimitExceeded
from gateway.proxy.response_parser import DecodingResponseParser, ResponseHead, ResponseParser
from gateway.proxy.upgrade import EarlyBytes, EndedBy, Tunnel, TunnelObserver
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
        self,
        request: web.BaseRequest,
        admission: Admission,
        upstream: Upstream,
        request_id: str,
        tunnels: TunnelObserver,
    ) -> None:
        self._request = request
        self._admission = admission
        self._upstream = upstream
        self._request_id = request_id
        self._tunnels = tunnels
        self._modern = request.version >= HttpVersion11
        self._has_body = request.body_exists

    async def run(self) -> Relayed:
        """Forward the request and stream the response.

        Raises `Denial` of the proxy group while nothing has been sent to the client. When an upstream
        closes a kept connection just as it is used, the request goes out once more on a fresh one,
        if it has no body and is idempotent (RFC 9112 §9.3.1), and the budget for retries allows it.
        """
        if self._has_body:
            self._check_body()
        relayed = await self._forward()
        if relayed.broken is None and self._request.protocol.writing_paused:
            # A client that sends requests and reads no answers must not pile these up.
            await self._request.writer.drain()
        return relayed

    async def _forward(self) -> Relayed:
        connection = await self._upstream.acquire()
        try:
            return await self._exchange(connection)
        except Denial as denial:
            if not (self._may_repeat(connection, denial) and self._upstream.may_retry("connection_closed")):
                raise
        finally:
            self._upstream.release(connection)
        connection = await self._upstream.acquire(fresh=True)
        try:
            return await self._exchange(connection)
        finally:
            self._upstream.release(connection)

    def _check_body(self) -> None:
        """Refuse a body that is known to be too large, or to have a transfer coding beside chunked.

        Nothing here undoes other codings (RFC 9112 §6.1).
        """
        length = int(self._request.headers.get("Content-Length", "0"))
        if length > self._admission.route.max_body:
            raise LimitExceeded("body_size", f"{length} bytes")
        for coding in self._request.headers.getall("Transfer-Encoding", ()):
            if coding.lower() != "chunked":
                raise Denial(REQUEST_MALFORMED, "the body has a transfer coding beside chunked")

    def _may_repeat(self, connection: UpstreamConnection, denial: Denial) -> bool:
        return (
            connection.reused
            and not connection.answered
            and denial.reason is UPSTREAM_PROTOCOL_ERROR
            and not self._has_body
            and self._request.method in _IDEMPOTENT
        )

    async def _exchange(self, connection: UpstreamConnection) -> Relayed:
        connection.begin(self._request_head(connection.owner.host), self._parser(connection))
        if not self._has_body:
            connection.allow(self._upstream.response_timeout)
            return await self._respond(connection)
        connection.sent()
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

    def _parser(self, connection: UpstreamConnection) -> ResponseParser:
        bodiless = self._request.method == "HEAD"
        if not self._modern:
            return DecodingResponseParser(bodiless=bodiless)
        parser, connection.spare = connection.spare, None
        if parser is None:
            return ResponseParser(bodiless=bodiless, upgrade=self._admission.upgrade)
        parser.expect(bodiless=bodiless, upgrade=self._admission.upgrade)
        return parser

    def _request_head(self, host: bytes | None) -> bytes:
        """Return the request line and fields (RFC 9112 §3), with the framing of the body to come.

        `host` takes the place of the client's Host.
        """
        admission = self._admission
        lines = [f"{admission.method} {admission.target} HTTP/1.1".encode("ascii")]
        lines += [name + b": " + value for name, value in _with_host(admission.headers, host)]
        length = self._request.headers.get("Content-Length")
        if length is not None:
            lines.append(b"Content-Length: " + length.encode("ascii"))
        elif self._has_body:
            lines.append(b"Transfer-Encoding: chunked")
        if admission.upgrade is not None:
            lines += [b"Connection: Upgrade", b"Upgrade: " + admission.upgrade]
        return b"\r\n".join([*lines, b"", b""])

    async def _send_body(self, connection: UpstreamConnection) -> None:
        """Stream the client's body; a body that breaks off fails the exchange."""
        content = self._request.content
        chunked = "Content-Length" not in self._request.headers
        left = self._admission.route.max_body
        try:
            while data := await content.readany():
                left -= len(data)
                if left < 0:
                    raise LimitExceeded("body_size", "more bytes came")
                connection.write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
                connection.sent()
                if connection.writing_paused:
                    await self._wait_for_upstream(connection)
        except (web.RequestPayloadError, http_exceptions.HttpProcessingError, OSError) as error:
            denial = Denial(REQUEST_MALFORMED, "the body broke off, or its framing is wrong")
            denial.__cause__ = error
            connection.fail(denial)
            return
        except LimitExceeded as exceeded:
            connection.fail(exceeded)
            return
        if chunked:
            connection.write(b"0\r\n\r\n")
        # The upstream's time counts from the end of the request.
        connection.allow(self._upstream.response_timeout)

    async def _wait_for_upstream(self, connection: UpstreamConnection) -> None:
        """Read nothing from the client until the upstream has taken what was read before."""
        transport = self._request.transport
        stopped = transport is not None and transport.is_reading()
        if transport is not None and stopped:
            transport.pause_reading()
        try:
            await connection.drain()
        finally:
            if transport is not None and stopped and not transport.is_closing():
                transport.resume_reading()

    async def _respond(self, connection: UpstreamConnection) -> Relayed:
        request = self._request
        head = await self._final_head(connection)
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client has left")
        if head.status == 101:
            return await self._switch(connection, head, transport)
        framed = head.length is not None or (head.chunked and self._modern)
        keep_alive = request.keep_alive and framed and request.content.is_eof()
        transport.write(self._response_head(head, keep_alive=keep_alive) + connection.read_nowait())
        try:
            while not connection.complete or connection.unread:
                await request.writer.drain()
                if data := await connection.read():
                    transport.write(data)
        except Denial as denial:
            break_off(transport)
            return Relayed(head.status, keep_alive=False, broken=denial)
        return Relayed(head.status, keep_alive)

    async def _switch(
        self, connection: UpstreamConnection, head: ResponseHead, transport: asyncio.Transport
    ) -> Relayed:
        """Pass a 101 on, and make a tunnel of both connections until either side ends it."""
        # What comes from here on is the other protocol's, on both sides.
        await self._request.writer.drain()
        await connection.drain()
        early = EarlyBytes()
        # An annotation asks for aiohttp's own reader, of which these two methods are all that is called.
        self._request.protocol.set_parser(cast("WebSocketReader", early))
        answer = self._switch_head(head) + connection.read_nowait()
        upstream = connection.transport
        if upstream is None:
            transport.write(answer)
            return Relayed(head.status, keep_alive=False)
        tunnel = Tunnel(transport, upstream, idle_timeout=self._admission.route.tunnel_timeout)
        self._tunnels.tunnel_opened(self._upstream.name)
        ended_by = EndedBy.SHUTDOWN
        try:
            ended_by = await tunnel.run(answer, bytes(early.data))
        finally:
            self._tunnels.tunnel_ended(self._upstream.name, ended_by)
        return Relayed(head.status, keep_alive=False)

    def _switch_head(self, head: ResponseHead) -> bytes:
        ours = [b"X-Request-Id: " + self._request_id.encode("ascii"), b"Connection: Upgrade"]
        ours += [b"Upgrade: " + value for name, value in head.headers if name.lower() == b"upgrade"]
        if not any(name.lower() == b"sec-websocket-protocol" for name, _ in head.headers):
            accepted = subprotocol_answer(self._request.raw_headers, self._admission.route.credentials)
            if accepted is not None:
                ours.append(b"Sec-WebSocket-Protocol: " + accepted)
        return _head_bytes(head, ours)

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


def _with_host(headers: tuple[Header, ...], host: bytes | None) -> Iterable[Header]:
    if host is None:
        return headers
    return [(name, host if name.lower() == b"host" else value) for name, value in headers]


def break_off(transport: asyncio.Transport) -> None:
    """Reset a connection: where its end is the body's, an orderly one would make half a body whole."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()


def _head_bytes(head: ResponseHead, ours: list[bytes]) -> bytes:
    lines = [b"HTTP/1.1 %d %b" % (head.status, head.reason)]
    lines += [name + b": " + value for name, value in response_headers(head.headers)]
    return b"\r\n".join([*lines, *ours, b"", b""])
