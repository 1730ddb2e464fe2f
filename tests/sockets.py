"""Raw sockets on both sides of a gateway: its input and output, byte for byte.

`RawClient` sends exactly the bytes it is given; `RawUpstream` keeps exactly the bytes it gets.
"""

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeAlias

from gateway.core.model import JSON, Header

PATIENCE: Final = 20.0
"""Seconds until a test gives up waiting for bytes: far beyond what a good run needs."""

OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Wire:
    """One end of a connection: reads by HTTP/1.1's framing and keeps what it read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self._buffer = bytearray()
        self.raw = bytearray()
        """Every byte that arrived."""
        self.ended = False
        """True once the other end has closed its side."""
        self.broken = False
        """True once the other end has reset the connection."""

    async def more(self) -> bool:
        """Wait for bytes; False at the end of the connection."""
        try:
            async with asyncio.timeout(PATIENCE):
                data = await self._reader.read(64 * 1024)
        except ConnectionError:
            self.broken = self.ended = True
            return False
        self.ended = self.ended or not data
        self._buffer += data
        self.raw += data
        return bool(data)

    async def until(self, mark: bytes) -> bytes:
        """Return bytes up to and including a mark; what there is when the connection ends first."""
        while mark not in self._buffer:
            if not await self.more():
                return self._take(len(self._buffer))
        return self._take(self._buffer.index(mark) + len(mark))

    async def exactly(self, number: int) -> bytes:
        """Return that many bytes; fewer when the connection ends first."""
        while len(self._buffer) < number and await self.more():
            pass
        return self._take(min(number, len(self._buffer)))

    async def to_end(self) -> bytes:
        """Return everything until the connection ends."""
        while await self.more():
            pass
        return self._take(len(self._buffer))

    async def body(self, head: bytes, *, to_end: bool) -> tuple[bytes, bool]:
        """Return a body as it is framed on the wire, and whether it was whole."""
        lengths = values(fields_of(head), b"content-length")
        if values(fields_of(head), b"transfer-encoding"):
            return await self._chunked()
        if lengths:
            body = await self.exactly(int(lengths[0]))
            return body, len(body) == int(lengths[0])
        if to_end:
            body = await self.to_end()
            return body, not self.broken
        return b"", True

    async def _chunked(self) -> tuple[bytes, bool]:
        raw = bytearray()
        while True:
            line = await self.until(b"\r\n")
            raw += line
            if not line.endswith(b"\r\n"):
                return bytes(raw), False
            size = int(line.partition(b";")[0], 16)
            if size == 0:
                break
            chunk = await self.exactly(size + 2)
            raw += chunk
            if len(chunk) < size + 2:
                return bytes(raw), False
        while (line := await self.until(b"\r\n")) not in {b"\r\n", b""}:
            raw += line
        return bytes(raw + line), line == b"\r\n"

    def _take(self, number: int) -> bytes:
        taken = bytes(self._buffer[:number])
        del self._buffer[:number]
        return taken

    def reset(self) -> None:
        """Break the connection with a RST, as a crash does."""
        raw: socket.socket = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def until_ended(self) -> None:
        """Wait for the other end to close, while another task reads."""
        async with asyncio.timeout(PATIENCE):
            while not self.ended:  # noqa: ASYNC110 -- the reading task does not know the waiting one
                await asyncio.sleep(0.001)

    async def close(self) -> None:
        """Close this end, once the other has followed."""
        with suppress(ConnectionError, OSError, TimeoutError):
            if self.writer.can_write_eof() and not self.writer.is_closing():
                self.writer.write_eof()
                await self.to_end()
        self.writer.close()


def fields_of(head: bytes) -> list[Header]:
    """Return the fields of a head, names and values as they stood."""
    lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")[1:]
    return [(name, value.strip(b" \t")) for name, _, value in (line.partition(b":") for line in lines)]


def values(fields: Iterable[Header], name: bytes) -> list[bytes]:
    """Return the values of a field, in any letter case."""
    return [value for found, value in fields if found.lower() == name.lower()]


def dechunked(raw: bytes) -> bytes:
    """Return the content of a chunked body."""
    chunks: list[bytes] = []
    at = 0
    while at < len(raw):
        start = raw.index(b"\r\n", at) + 2
        size = int(raw[at:start].partition(b";")[0], 16)
        if size == 0:
            break
        chunks.append(raw[start : start + size])
        at = start + size + 2
    return b"".join(chunks)


@dataclass
class Received:
    """A request as it arrived at the upstream."""

    head: bytes
    body: bytes = b""
    """As it was framed on the wire."""

    @property
    def line(self) -> bytes:
        return self.head.partition(b"\r\n")[0]

    @property
    def target(self) -> bytes:
        return self.line.split(b" ")[1]

    @property
    def fields(self) -> list[Header]:
        return fields_of(self.head)

    def values(self, name: bytes) -> list[bytes]:
        return values(self.fields, name)


@dataclass
class Exchange:
    """One request at the upstream, for a script to answer."""

    wire: Wire
    request: Received

    async def read_body(self) -> None:
        """Read the request's body."""
        self.request.body, _ = await self.wire.body(self.request.head, to_end=False)

    async def send(self, data: bytes) -> None:
        self.wire.writer.write(data)
        await self.wire.writer.drain()


Script: TypeAlias = Callable[[Exchange], Awaitable[None]]


class RawUpstream:
    """A server that keeps every request as it arrived, and answers as it is told."""

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self.wires: list[Wire] = []
        """One per connection since the last `reset`."""
        self._script: Script = _answering(OK, close=False)
        self._server: asyncio.Server | None = None
        self._serving: dict[Wire, asyncio.Task[None]] = {}
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, *pieces: bytes, close: bool = False, rst: bool = False) -> None:
        """Answer every request from here on, piece by piece; then close or reset the connection."""
        self._script = _answering(*pieces, close=close, rst=rst)

    def behave(self, script: Script) -> None:
        """Let a script answer every request from here on. It reads the body itself, if it wants to."""
        self._script = script

    async def settle(self) -> None:
        """Close all connections and wait until the gateway has, so that nothing more can arrive on them."""
        while self._serving:
            wire, task = self._serving.popitem()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await wire.close()

    async def reset(self) -> None:
        """Close all connections and forget everything."""
        await self.settle()
        self.requests.clear()
        self.wires.clear()
        self.answer(OK)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=2**16, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.reset()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = Wire(reader, writer)
        self.wires.append(wire)
        self._serving[wire] = asyncio.create_task(self._serve(wire))

    async def _serve(self, wire: Wire) -> None:
        with suppress(ConnectionError, TimeoutError):
            while (head := await self._head(wire)).endswith(b"\r\n\r\n"):
                request = Received(head)
                self.requests.append(request)
                await self._script(Exchange(wire, request))
                if wire.writer.is_closing():
                    return

    async def _head(self, wire: Wire) -> bytes:
        # A kept connection may wait longer for its next request than a test waits for bytes.
        while True:
            with suppress(TimeoutError):
                return await wire.until(b"\r\n\r\n")


def _answering(*pieces: bytes, close: bool, rst: bool = False) -> Script:
    async def answer(exchange: Exchange) -> None:
        await exchange.read_body()
        for piece in pieces:
            await exchange.send(piece)
            # Each piece is a packet of its own, and the gateway reads it on its own.
            await asyncio.sleep(0.005 if len(pieces) > 1 else 0)
        if rst:
            # Let what was sent be read before the RST discards it.
            await asyncio.sleep(0.05)
            exchange.wire.reset()
        elif close:
            await exchange.wire.close()

    return answer


@dataclass(frozen=True)
class Response:
    """A response as it arrived at the client."""

    status: int
    head: bytes
    body: bytes
    """As it was framed on the wire."""
    complete: bool
    """Whether the body came whole; a body without framing is whole when the connection ended in order."""
    interim: tuple[bytes, ...] = ()
    """The heads of 1xx responses that came before."""

    @property
    def fields(self) -> list[Header]:
        return fields_of(self.head)

    def values(self, name: bytes) -> list[bytes]:
        return values(self.fields, name)

    def field(self, name: bytes) -> bytes | None:
        """Return a field that must not come twice."""
        found = self.values(name)
        assert len(found) <= 1, (name, found)
        return found[0] if found else None

    @property
    def content(self) -> bytes:
        return dechunked(self.body) if self.values(b"transfer-encoding") else self.body

    @property
    def problem(self) -> dict[str, JSON]:
        """The body as problem+json (RFC 9457)."""
        assert self.field(b"content-type") == b"application/problem+json", self.head
        document = json.loads(self.body)
        assert isinstance(document, dict)
        return document

    @property
    def code(self) -> JSON:
        return self.problem["code"]


class RawClient(Wire):
    """A connection to the gateway."""

    async def send(self, *pieces: bytes) -> None:
        """Send bytes as they are, each piece in a packet of its own."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            if len(pieces) > 1:
                await asyncio.sleep(0.005)

    async def response(self, *, to_head: bool = False) -> Response | None:
        """Read the next response; None when the connection ends without one. `to_head`: to a HEAD."""
        interim: list[bytes] = []
        while (head := await self.until(b"\r\n\r\n")).endswith(b"\r\n\r\n"):
            status = int(head.split(b" ")[1])
            if status < 200 and status != 101:
                interim.append(head)
                continue
            bodiless = to_head or status in {101, 204, 304}
            body, complete = (b"", True) if bodiless else await self.body(head, to_end=True)
            return Response(status, head, body, complete, tuple(interim))
        assert not head, head
        return None

    async def closed(self) -> bool:
        """Wait for the gateway to close the connection; False when it answers instead."""
        return await self.to_end() == b""


def request_bytes(
    method: str, target: str, *fields: bytes, token: bytes | None = None, body: bytes | None = None
) -> bytes:
    """Compose a request; a Host is added unless the fields have one."""
    lines = [f"{method} {target} HTTP/1.1".encode("latin-1")]
    if not any(field.lower().startswith(b"host:") for field in fields):
        lines.append(b"Host: gateway.test")
    if token is not None:
        lines.append(b"Authorization: Bearer " + token)
    lines += fields
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", b""]) + (body or b"")
