"""Upstreams that close after their answer, over TLS: the complete answer arrives, even if TLS buffers it."""

import asyncio
import fcntl
import socket
import ssl
import struct
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal, TypeAlias

import pytest
import uvloop

from gateway.core.reasons import Denial
from gateway.proxy.upstream.balancer import Upstream
from gateway.proxy.upstream.options import TlsRules, UpstreamRules
from gateway.proxy.upstream.parser import ResponseParser
from tests.proxy.services import REQUEST, Receiver, acquire, settled
from tests.proxy.upstream.test_tls import Authority
from tests.sockets import PATIENCE

LOOPS: Final = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
End: TypeAlias = Literal["told", "cut", "reset"]
Framing: TypeAlias = Literal["length", "chunks", "end"]
Pace: TypeAlias = Literal["at once", "late", "haltingly"]

# TLS buffers up to 256 KiB that its application does not read.
SIZES: Final = (20_000, 200_000, 250_000, 2_000_000)
PATTERN: Final = bytes(range(251)) * 8_000


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority.create(tmp_path_factory.mktemp("tls"), "authority")
    authority.issue("localhost")
    return authority


class BlockingServer:
    """A server with blocking sockets in a thread. Like most servers, it does not wait for a close_notify."""

    def __init__(self, certificate: Path) -> None:
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.load_cert_chain(certificate)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.closed = threading.Event()
        """Set once it has closed its side of the connection."""
        self.answer = b""
        self.end: End = "told"

    def run(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with suppress(OSError):
                    self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._tls.wrap_socket(connection, server_side=True) as secured:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += secured.recv(65536)
            secured.sendall(self.answer)
            if self.end == "told":
                secured.setblocking(False)
                with suppress(ssl.SSLWantReadError):
                    secured.unwrap()
                secured.setblocking(True)
            if self.end == "reset":
                # A reset drops the data that the kernel has not sent.
                while any(fcntl.ioctl(secured.fileno(), termios.TIOCOUTQ, bytes(4))):
                    time.sleep(0.001)
                secured.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                secured.close()
                self.closed.set()
                return
            socket.socket.shutdown(secured, socket.SHUT_WR)
            self.closed.set()
            with suppress(OSError):
                while socket.socket.recv(secured, 65536):
                    pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextmanager
def blocking_server(certificate: Path) -> Iterator[BlockingServer]:
    server = BlockingServer(certificate)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()


def framed(body: bytes, framing: Framing) -> tuple[bytes, bytes]:
    """Return an answer and its body as bytes on the wire."""
    if framing == "length":
        return b"HTTP/1.1 401 No\r\nContent-Length: %d\r\n\r\n" % len(body) + body, body
    if framing == "chunks":
        chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        return b"HTTP/1.1 401 No\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked, chunked
    return b"HTTP/1.0 401 No\r\n\r\n" + body, body


async def receive(service: Upstream, server: BlockingServer, pace: Pace) -> Receiver:
    """Get one answer, and read it slowly."""
    connection = await acquire(service, fresh=True)
    receiver = Receiver()
    server.closed.clear()
    connection.begin(REQUEST, ResponseParser(bodiless=False), receiver)
    if pace != "at once":
        connection.pause_reading()
        if len(server.answer) < 256 * 1024:
            await asyncio.to_thread(server.closed.wait, PATIENCE)
        # The end has arrived in our kernel; let the event loop read it.
        for _ in range(20):
            await asyncio.sleep(0)
        connection.resume_reading()
    try:
        if pace == "haltingly":
            while not receiver.complete:
                await receiver.more()
                connection.pause_reading()
                size = len(receiver.body)
                for _ in range(3):
                    await asyncio.sleep(0)
                assert len(receiver.body) == size
                connection.resume_reading()
        await receiver.whole()
    finally:
        connection.owner.release(connection)
    return receiver


def run(authority: Authority, loop: str, size: int, framing: Framing, end: End, pace: Pace) -> None:
    """Get answers of these sizes."""
    answer, body = framed(PATTERN[:size], framing)

    async def run() -> None:
        async with asyncio.timeout(30):
            service = Upstream(
                UpstreamRules(
                    "orders",
                    (f"https://localhost:{server.port}",),
                    tls=TlsRules(ca=authority.folder / "authority.pem"),
                )
            )
            for _ in range(5):
                if framing == "end" and end != "told":
                    with pytest.raises(Denial, match=r"close_notify|broke the connection"):
                        await receive(service, server, pace)
                else:
                    received = await receive(service, server, pace)
                    assert received.body == body
            await settled(lambda: (service.active, service.idle) == (0, 0))
            service.close()

    with blocking_server(authority.folder / "localhost.crt") as server:
        server.answer, server.end = answer, end
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(run())


@pytest.mark.parametrize("pace", ["at once", "late", "haltingly"])
@pytest.mark.parametrize("end", ["told", "cut"])
@pytest.mark.parametrize("framing", ["length", "chunks", "end"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("loop", LOOPS)
def test_an_answer_before_the_end_of_the_connection_arrives_completely(
    authority: Authority, loop: str, size: int, framing: Framing, end: End, pace: Pace
) -> None:
    run(authority, loop, size, framing, end, pace)


@pytest.mark.parametrize("pace", ["late", "haltingly"])
@pytest.mark.parametrize("framing", ["length", "chunks", "end"])
@pytest.mark.parametrize("size", [20_000, 200_000])
@pytest.mark.parametrize("loop", LOOPS)
def test_an_answer_before_a_reset_arrives_completely(
    authority: Authority, loop: str, size: int, framing: Framing, pace: Pace
) -> None:
    run(authority, loop, size, framing, "reset", pace)
