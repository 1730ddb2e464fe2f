"""The tunnel without a gateway, on both event loops."""

import asyncio
import os
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from gateway.proxy.exchanges.tunnel import EndedBy, Tunnel
from gateway.proxy.exchanges.websocket import close_frame
from tests.proxy.tunnels import MEGABYTE
from tests.test_app import self_signed

EVERY_LOOP = pytest.mark.parametrize(
    "loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


class _Keeper(asyncio.Protocol):
    """The protocol of a transport before the tunnel."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.made = asyncio.Event()
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # of a stream
        self.made.set()

    def connection_lost(self, _: Exception | None) -> None:
        self.lost.set()


async def _pair(
    folder: Path | None = None,
) -> tuple[_Keeper, asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect two ends: the tunnel's and the test's. With a folder, over TLS."""
    keeper = _Keeper()
    loop = asyncio.get_running_loop()
    ours = theirs = None
    if folder is not None:
        files = self_signed(folder)
        ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        ours.load_cert_chain(files["certificate"], files["key"])
        theirs = ssl.create_default_context(cafile=files["certificate"])
    server = await loop.create_server(lambda: keeper, "127.0.0.1", 0, ssl=ours)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=theirs)
    await keeper.made.wait()
    server.close()
    return keeper, reader, writer


@EVERY_LOOP
@pytest.mark.parametrize("end", ["client", "upstream"])
def test_the_tunnel_over_tls(loop: Callable[[], asyncio.AbstractEventLoop], end: str, tmp_path: Path) -> None:
    """TLS has no half-close: the end of one side is the end of both, once all data is sent."""

    async def run() -> None:
        client, client_reader, client_writer = await _pair(tmp_path)
        upstream, upstream_reader, upstream_writer = await _pair()
        assert client.transport is not None
        assert upstream.transport is not None
        tunnel = Tunnel(client.transport, upstream.transport, idle_timeout=10)
        running = asyncio.create_task(tunnel.run(b"begun", b""))
        assert await client_reader.readexactly(5) == b"begun"
        there, back = os.urandom(MEGABYTE), os.urandom(MEGABYTE)
        client_writer.write(there)
        upstream_writer.write(back)
        if end == "client":
            assert await client_reader.readexactly(MEGABYTE) == back
            client_writer.close()
            assert await upstream_reader.read() == there
            upstream_writer.close()
        else:
            assert await upstream_reader.readexactly(MEGABYTE) == there
            upstream_writer.close()
            assert await client_reader.read() == back
            client_writer.close()
        assert await running == end
        await asyncio.gather(client.lost.wait(), upstream.lost.wait())

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(run(), 10))


@EVERY_LOOP
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("busy", [False, True])
def test_a_dismissal_on_every_event_loop(
    loop: Callable[[], asyncio.AbstractEventLoop], tls: bool, busy: bool, tmp_path: Path
) -> None:
    async def run() -> None:
        client, client_reader, client_writer = await _pair(tmp_path if tls else None)
        upstream, upstream_reader, upstream_writer = await _pair()
        assert client.transport is not None
        assert upstream.transport is not None
        tunnel = Tunnel(client.transport, upstream.transport, idle_timeout=10)
        tunnel.follow_frames()
        running = asyncio.create_task(tunnel.run(b"\x81\x01a", b"", head=b"head"))
        assert await client_reader.readexactly(7) == b"head\x81\x01a"
        if busy:
            # Frames without end that no client reads.
            client_writer.write((b"\x82\xfdmask" + bytes(125)) * (MEGABYTE // 20))
            await asyncio.sleep(0.1)
        assert tunnel.dismiss("token_expired")
        upstream_writer.write(b"\x81\x04late")
        client_writer.write(close_frame("token_expired", b"mask"))
        assert await client_reader.read() == close_frame("token_expired")
        if not busy:
            told = await upstream_reader.readexactly(21)
            assert told == close_frame("token_expired", told[2:6])
        client_writer.transport.abort()
        upstream_writer.transport.abort()
        assert await asyncio.wait_for(running, 5) is EndedBy.REVOCATION
        await asyncio.gather(client.lost.wait(), upstream.lost.wait())

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(run(), 10))


@EVERY_LOOP
def test_data_that_a_client_sends_over_tls_before_the_close_frame_arrives_is_read(
    loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path
) -> None:
    """Otherwise, closing would reset the connection, and the close frame would be lost."""

    async def run() -> None:
        client, client_reader, client_writer = await _pair(tmp_path)
        upstream, _, upstream_writer = await _pair()
        assert client.transport is not None
        assert upstream.transport is not None
        tunnel = Tunnel(client.transport, upstream.transport, idle_timeout=10)
        tunnel.follow_frames()
        running = asyncio.create_task(tunnel.run(b"", b"", head=b"head"))
        assert await client_reader.readexactly(4) == b"head"
        assert tunnel.dismiss("token_expired")
        for _ in range(20):
            client_writer.write(b"\x82\x80mask" * 1000)
            await client_writer.drain()
            await asyncio.sleep(0.005)
        goodbye = close_frame("token_expired")
        assert await client_reader.readexactly(len(goodbye)) == goodbye
        client_writer.write(close_frame("token_expired", b"mask"))
        assert await client_reader.read() == b""
        upstream_writer.transport.abort()
        assert await running is EndedBy.REVOCATION
        await asyncio.gather(client.lost.wait(), upstream.lost.wait())

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(run(), 20))


@EVERY_LOOP
@pytest.mark.parametrize("end", ["half-close", "abort", "cancel"])
def test_the_tunnel_on_every_event_loop(loop: Callable[[], asyncio.AbstractEventLoop], end: str) -> None:
    async def run() -> None:
        client, client_reader, client_writer = await _pair()
        upstream, upstream_reader, upstream_writer = await _pair()
        assert client.transport is not None
        assert upstream.transport is not None
        tunnel = Tunnel(client.transport, upstream.transport, idle_timeout=10)
        running = asyncio.create_task(tunnel.run(b"to client", b"to upstream"))
        assert await client_reader.readexactly(9) == b"to client"
        assert await upstream_reader.readexactly(11) == b"to upstream"
        there, back = os.urandom(MEGABYTE), os.urandom(MEGABYTE)
        client_writer.write(there)
        upstream_writer.write(back)
        assert await upstream_reader.readexactly(MEGABYTE) == there
        assert await client_reader.readexactly(MEGABYTE) == back
        if end == "half-close":
            client_writer.write_eof()
            assert await upstream_reader.read() == b""
            upstream_writer.write(b"rest")
            upstream_writer.write_eof()
            assert await client_reader.read() == b"rest"
            assert await running is EndedBy.CLIENT
        elif end == "abort":
            upstream_writer.transport.abort()
            assert await client_reader.read() == b""
            client_writer.close()
            assert await running is EndedBy.UPSTREAM
        else:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            assert running.cancelled()
        await asyncio.gather(client.lost.wait(), upstream.lost.wait())
        client_writer.close()
        upstream_writer.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(run(), 10))
