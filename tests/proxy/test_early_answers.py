"""An early answer of an upstream counts, even if it read no more of the request (RFC 9112 §9.5)."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import pytest
import uvloop

from gateway.core.reasons import Denial
from gateway.proxy.upstream import unread
from gateway.proxy.upstream.balancer import Upstream
from gateway.proxy.upstream.connection import UpstreamConnection
from gateway.proxy.upstream.options import Ejection, TlsRules, UpstreamRules
from gateway.proxy.upstream.parser import ResponseParser
from tests.proxy.services import REQUEST, Receiver, UnixUpstream, acquire, exchange, settled
from tests.proxy.upstream.test_tls import Authority, serving
from tests.sockets import OK, Exchange, RawUpstream

TOTAL: Final = 10_000_000
BLOCK: Final = bytes(64 * 1024)
POST: Final = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % TOTAL
SMALL: Final = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"
REFUSED: Final = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 3\r\n\r\nwho"
# Fits in a receive buffer, so that the sender has sent everything before the reset.
LARGE: Final = bytes(range(256)) * 192

Transport: TypeAlias = str
TRANSPORTS: Final = ("tcp", "unix", "tls")
LOOPS: Final = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@dataclass
class Scene:
    """An upstream that answered and closed before its answer was read."""

    service: Upstream
    server: RawUpstream
    kind: Transport
    closed: asyncio.Event

    async def connection(self) -> UpstreamConnection:
        return await acquire(self.service, fresh=True)

    def answer(self, *pieces: bytes, orderly: bool = False) -> None:
        """Answer without reading the body, then reset the connection; `orderly`: close it before that."""

        async def script(exchange: Exchange) -> None:
            for piece in pieces:
                await exchange.send(piece)
            if orderly:
                if self.kind == "tls":
                    exchange.wire.writer.close()
                    await asyncio.sleep(0.01)
                else:
                    exchange.wire.writer.write_eof()
            exchange.wire.reset()
            # The event loop closes a socket in its next turn.
            await asyncio.sleep(0.01)
            self.closed.set()

        self.closed.clear()
        self.server.behave(script)

    def hang_up(self) -> None:
        """Close the newest connection within one turn of the event loop, so that it goes unnoticed."""
        descriptor = self.server.wires[-1].writer.get_extra_info("socket").fileno()
        with socket.socket(fileno=os.dup(descriptor)) as raw:
            raw.shutdown(socket.SHUT_WR)

    async def send_deafly(
        self, connection: UpstreamConnection, *, head: bytes = POST, bodiless: bool = False
    ) -> Receiver:
        """Send a head, read nothing until the upstream has closed, then send the body."""
        receiver = Receiver()
        connection.begin(head, ResponseParser(bodiless=bodiless), receiver)
        connection.pause_reading()
        connection.write(BLOCK[:1])
        await self.closed.wait()
        connection.write(BLOCK)
        # The write fails before anything is read.
        await settled(lambda: connection.write_failed)
        connection.resume_reading()
        return receiver


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


Scenario = Callable[[Scene, pytest.MonkeyPatch], Coroutine[None, None, None]]


async def a_whole_answer(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.answer(REFUSED)
    connection = await scene.connection()
    receiver = await scene.send_deafly(connection)
    assert await receiver.whole() == b"who"
    assert receiver.heads[0].status == 401
    connection.owner.release(connection)
    assert connection.failure is None
    assert (scene.service.idle, scene.service.active, scene.service.ejected) == (0, 0, 0)


async def an_answer_in_chunks(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.answer(
        b"HTTP/1.1 413 Too Large\r\nTransfer-", b"Encoding: chunked\r\n\r\n3\r\nbi", b"g\r\n0\r\n\r\n"
    )
    connection = await scene.connection()
    receiver = await scene.send_deafly(connection)
    assert await receiver.whole() == b"3\r\nbig\r\n0\r\n\r\n"
    connection.owner.release(connection)


async def an_answer_behind_interim_ones(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.answer(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n", REFUSED)
    connection = await scene.connection()
    receiver = await scene.send_deafly(connection)
    assert await receiver.whole() == b"who"
    assert [head.status for head in receiver.heads] == [103, 100, 401]
    connection.owner.release(connection)


async def an_answer_without_a_body(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.answer(b"HTTP/1.1 204 No Content\r\n\r\n")
    connection = await scene.connection()
    assert await (await scene.send_deafly(connection)).whole() == b""
    connection.owner.release(connection)
    scene.answer(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\n")
    connection = await scene.connection()
    assert await (await scene.send_deafly(connection, bodiless=True)).whole() == b""
    connection.owner.release(connection)


async def a_large_answer(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading pauses while the client reads nothing, and no data is lost."""
    monkeypatch.setattr(unread, "PIECE_BYTES", 4096)
    scene.answer(b"HTTP/1.1 401 No\r\nContent-Length: %d\r\n\r\n" % len(LARGE), LARGE)
    connection = await scene.connection()
    receiver = await scene.send_deafly(connection)
    while len(receiver.body) < len(LARGE):
        before = len(receiver.body)
        await receiver.more_than(before)
        connection.pause_reading()
        before = len(receiver.body)
        await asyncio.sleep(0.002)
        assert len(receiver.body) == before
        connection.resume_reading()
    assert receiver.body == LARGE
    connection.owner.release(connection)
    assert connection.failure is None


async def an_end_after_an_orderly_close(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The upstream ended the body in order before it reset the connection."""
    scene.answer(b"HTTP/1.1 401 No\r\n\r\nall of it", orderly=True)
    connection = await scene.connection()
    receiver = await scene.send_deafly(connection)
    assert await receiver.whole() == b"all of it"
    connection.owner.release(connection)


async def an_end_by_a_reset(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a reset ends a body, the upstream's kernel may have dropped the rest of it."""
    if scene.kind == "unix":
        # Here everything was read, so a Unix socket ends in order.
        return
    scene.answer(b"HTTP/1.1 401 No\r\n\r\nhalf of it")
    connection = await scene.connection()
    receiver = await scene.send_deafly(connection)
    with pytest.raises(Denial, match="upstream_protocol_error: it broke the connection"):
        await receiver.whole()
    assert receiver.body == b"half of it"
    connection.owner.release(connection)
    assert scene.service.ejected == 0


async def half_an_answer(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    chunked = REFUSED.replace(b"Content-Length: 3", b"Transfer-Encoding: chunked")
    # The upstream sent a final head, so it does not count as failed because of its kernel.
    for half, failures in (
        (b"HTTP/1.1 401 Unau", 1),
        (REFUSED[:-1], 0),
        (chunked.replace(b"who", b"9\r\nwho"), 0),
        (chunked, 1),
    ):
        for orderly in (False, True):
            scene.answer(half, orderly=orderly)
            connection = await scene.connection()
            receiver = await scene.send_deafly(connection)
            with pytest.raises(Denial, match="upstream_protocol_error"):
                await receiver.whole()
            connection.owner.release(connection)
            assert scene.service._choices[0].outlier_detection.failures == failures, (half, orderly)
            scene.service._choices[0].outlier_detection.succeeded()


async def a_reset_behind_a_body_that_was_sent(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer and the reset are read one after the other, without a failed write."""
    if scene.kind == "unix":
        return
    for post, failures in ((True, 0), (False, 1)):
        scene.answer(b"HTTP/1.0 401 No\r\n\r\nhalf of it")
        connection = await scene.connection()
        connection.begin(SMALL if post else REQUEST, ResponseParser(bodiless=False), receiver := Receiver())
        if post:
            connection.write(b"body")
        with pytest.raises(Denial, match="upstream_protocol_error"):
            await receiver.whole()
        connection.owner.release(connection)
        assert scene.service._choices[0].outlier_detection.failures == failures
        scene.service._choices[0].outlier_detection.succeeded()


async def no_answer(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.answer()
    connection = await scene.connection()
    receiver = await scene.send_deafly(connection)
    with pytest.raises(Denial, match=r"upstream_protocol_error: it broke the connection: .*(reset|Broken)"):
        await receiver.whole()
    connection.owner.release(connection)
    assert scene.service.ejected == 1


async def a_client_that_leaves(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """If reading stops, the duplicate descriptor is closed."""
    before = descriptors()
    monkeypatch.setattr(unread, "PIECE_BYTES", 4096)
    scene.answer(b"HTTP/1.1 401 No\r\nContent-Length: %d\r\n\r\n" % len(LARGE), LARGE)
    connection = await scene.connection()
    receiver = await scene.send_deafly(connection)
    await receiver.more_than(0)
    connection.pause_reading()
    connection.abort()
    connection.owner.release(connection)
    assert scene.service.active == 0
    size = len(receiver.body)
    await settled(lambda: connection._wire is None)
    assert len(receiver.body) == size
    await scene.server.settle()
    await settled(lambda: descriptors() <= before)


async def a_kept_connection(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a kept connection, an answer counts too once a part of the body has been written."""
    scene.server.answer(OK)
    first = await exchange(scene.service)
    scene.answer(REFUSED)
    connection = await acquire(scene.service)
    assert connection is first.connection
    receiver = await scene.send_deafly(connection)
    assert await receiver.whole() == b"who"
    connection.owner.release(connection)
    assert scene.service.idle == 0


SCENARIOS: Final[tuple[Scenario, ...]] = (
    a_whole_answer,
    an_answer_in_chunks,
    an_answer_behind_interim_ones,
    an_answer_without_a_body,
    a_large_answer,
    an_end_after_an_orderly_close,
    an_end_by_a_reset,
    half_an_answer,
    a_reset_behind_a_body_that_was_sent,
    no_answer,
    a_client_that_leaves,
    a_kept_connection,
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority.create(tmp_path_factory.mktemp("tls"), "authority")
    authority.issue("localhost")
    return authority


@asynccontextmanager
async def staged(
    kind: Transport, folder: Path, authority: Authority, *, max_connections: int = 1024
) -> AsyncIterator[Scene]:
    tls = TlsRules(ca=authority.folder / "authority.pem")
    server: RawUpstream
    if kind == "tls":
        server = serving(authority)
    else:
        server = UnixUpstream(folder / "orders.sock") if kind == "unix" else RawUpstream()
    async with server:
        rules = UpstreamRules(
            "orders",
            (server.url,),
            ejection=Ejection(1, base_time=60.0),
            tls=tls,
            max_connections=max_connections,
        )
        service = Upstream(rules)
        yield Scene(service, server, kind, asyncio.Event())
        service.close()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
@pytest.mark.parametrize("kind", TRANSPORTS)
@pytest.mark.parametrize("loop", LOOPS)
def test_an_answer_before_a_failed_write_counts(
    tmp_path: Path,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    loop: str,
    kind: Transport,
    scenario: Scenario,
) -> None:
    async def run() -> None:
        async with asyncio.timeout(30), staged(kind, tmp_path, authority) as scene:
            await scenario(scene, monkeypatch)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(run())


@pytest.mark.parametrize("kind", TRANSPORTS)
@pytest.mark.parametrize("loop", LOOPS)
def test_an_unrepeatable_request_gets_no_closed_connection_after_waiting(
    tmp_path: Path, authority: Authority, loop: str, kind: Transport
) -> None:
    """A connection that is handed to a waiting request, and one that became idle during a look-up."""

    async def run() -> None:
        async with asyncio.timeout(30), staged(kind, tmp_path, authority, max_connections=1) as scene:
            for handed in (True, False):
                kept = await acquire(scene.service)
                kept.begin(REQUEST, ResponseParser(bodiless=False), receiver := Receiver())
                await receiver.whole()
                waiting = asyncio.create_task(scene.service.open(once=True))
                if handed:
                    await settled(lambda: scene.service.pending)
                scene.hang_up()
                kept.owner.release(kept)
                assert (scene.service.idle, scene.service.active) == ((0, 1) if handed else (1, 0))
                fresh = await waiting
                assert fresh is not kept
                fresh.begin(REQUEST, ResponseParser(bodiless=False), receiver := Receiver())
                assert await receiver.whole() == b"ok"
                fresh.owner.release(fresh)
                assert (scene.service.idle, scene.service.active) == (1, 0)
                assert scene.service.take() is fresh
                fresh.owner.release(fresh)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(run())


@pytest.mark.parametrize("kind", TRANSPORTS)
@pytest.mark.parametrize("loop", LOOPS)
def test_an_unrepeatable_request_gets_no_closed_connection(
    tmp_path: Path, authority: Authority, loop: str, kind: Transport
) -> None:
    async def run() -> None:
        async with asyncio.timeout(30), staged(kind, tmp_path, authority) as scene:
            kept = (await exchange(scene.service)).connection
            assert scene.service.take(once=True) is kept
            kept.begin(REQUEST, ResponseParser(bodiless=False), receiver := Receiver())
            await receiver.whole()
            kept.owner.release(kept)
            scene.hang_up()
            assert scene.service.take(once=True) is None
            assert (scene.service.idle, scene.service.active) == (0, 0)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(run())
