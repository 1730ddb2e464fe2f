"""Streams, downloads and tunnels end when their caller loses access: real clients, Postgres and Redis."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websockets
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from gateway.proxy.websocket import close_frame
from tests import tokens
from tests.harness import House, open_house, token
from tests.proxy.test_tunnel import handshake, switching
from tests.sockets import Exchange, RawClient, Wire, request_bytes
from tests.stores.cable import Cable
from tests.stores.examples import eventually

session = pytest.mark.asyncio(loop_scope="session")

AT_ONCE: Final = 1.0
"""Seconds. Milliseconds are expected, but the machine may be busy."""
LEEWAY: Final = 30.0
EVENTS: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
DOWNLOAD: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
TO_THE_END: Final = b"HTTP/1.1 200 OK\r\n\r\n"
HELLO: Final = Frame(Opcode.TEXT, b"hello").serialize(mask=False)


class Caller:
    """A new user with a token."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.subject = f"caller-{uuid.uuid4().hex}"
        self.jti = uuid.uuid4().hex
        self.token = token(self.subject, jti=self.jti)

    def expire(self, seconds: float) -> float:
        """Use a token that is valid for `seconds`, leeway included; return its end."""
        until = time.time() + seconds
        self.token = token(self.subject, jti=self.jti, exp=until - LEEWAY)
        return until

    async def exist(self) -> "Caller":
        await self.house.sql(
            "WITH u AS (INSERT INTO users (status, roles) VALUES ('active', '{admin}') RETURNING id)"
            " INSERT INTO identities (issuer, subject, user_id) SELECT $1, $2, id FROM u",
            tokens.ISSUER,
            self.subject,
        )
        return self

    async def update(self, change: str) -> None:
        await self.house.sql(
            f"UPDATE users SET {change} WHERE id = (SELECT user_id FROM identities WHERE subject = $1)",  # noqa: S608 -- a constant of the test's
            self.subject,
        )

    async def user_id(self) -> str:
        (row,) = await self.house.sql(
            "SELECT user_id::text AS id FROM identities WHERE subject = $1", self.subject
        )
        return str(row["id"])


async def caller(house: House) -> Caller:
    return await Caller(house).exist()


async def stay(exchange: Exchange) -> None:
    await exchange.wire.to_end()


def answering(head: bytes, first: bytes) -> Callable[[Exchange], Awaitable[None]]:
    """Begin a response, and continue it later."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(head)
        await exchange.send(first)
        await stay(exchange)

    return script


@asynccontextmanager
async def streaming(
    house: House,
    raw: bytes,
    head: bytes = EVENTS,
    first: bytes = b"6\r\n:hello\r\n",
    target: str = "/private/x",
) -> AsyncIterator[RawClient]:
    """Connect, and wait for the begin of a response."""
    house.upstream.behave(answering(head, first))
    async with house.connect() as client:
        await client.send(request_bytes("GET", target, token=raw))
        assert b" 200 " in await client.until(b"\r\n\r\n")
        assert await client.exactly(len(first)) == first
        yield client


@asynccontextmanager
async def tunnelling(
    house: House, raw: bytes, target: str = "/private/x", behind: bytes = HELLO
) -> AsyncIterator[RawClient]:
    """Connect a WebSocket, and wait for the first data of the upstream."""
    house.upstream.behave(switching(stay, behind=behind))
    async with house.connect() as client:
        await client.send(handshake(target, bearer=raw))
        assert b" 101 " in await client.until(b"\r\n\r\n")
        assert await client.exactly(len(behind)) == behind
        yield client


async def live(house: House) -> float:
    return await house.metric("gateway_live_connections")


async def until_live(house: House, number: int) -> None:
    async def reached() -> bool:
        return await live(house) == number

    await eventually(reached)


async def ended(client: RawClient, within: float = AT_ONCE) -> bytes:
    async with asyncio.timeout(within):
        return await client.to_end()


async def stays_open(client: RawClient, seconds: float = 0.2) -> None:
    with pytest.raises(TimeoutError):
        await ended(client, seconds)


async def suspend(who: Caller) -> str:
    await who.update("status = 'suspended'")
    return "user_suspended"


async def revoke(who: Caller) -> str:
    await who.house.set_key(f"revoked:jti:main:{who.jti}", "1")
    return "token_revoked"


async def revoke_in_sql(who: Caller) -> str:
    await who.house.sql(
        "INSERT INTO revocations (kind, issuer, value, revoked_at) VALUES ('user', '', $1, now())",
        await who.user_id(),
    )
    return "tokens_revoked_before"


async def delete(who: Caller) -> str:
    await who.update("deleted_at = now()")
    return "user_deleted"


async def unlink(who: Caller) -> str:
    await who.house.sql("DELETE FROM identities WHERE subject = $1", who.subject)
    return "user_not_found"


async def take_the_role(who: Caller) -> str:
    await who.update("roles = '{}'")
    return "role_missing"


Loss = Callable[[Caller], Awaitable[str]]


# Responses -----------------------------------------------------------------------------------------


@session
@pytest.mark.parametrize("loss", [suspend, revoke, revoke_in_sql, delete, unlink, take_the_role])
async def test_a_stream_of_events_is_broken_off_when_its_caller_loses_access(
    house: House, loss: Loss
) -> None:
    who = await caller(house)
    before = await house.metrics()
    async with streaming(house, who.token, target="/admin/x") as client:
        assert await live(house) == 1
        began = time.monotonic()
        reason = await loss(who)
        assert await ended(client) == b""
        assert time.monotonic() - began < AT_ONCE
        assert client.broken
        await house.upstream.wires[-1].until_ended()
    await until_live(house, 0)
    labels = {"route": "admin", "issuer": "main", "reason": reason}
    assert await house.metric("gateway_connections_closed_total", **labels) >= 1
    (line,) = house.events("connection_closed")
    assert (line["reason"], line["route"], line["issuer"]) == (reason, "admin", "main")
    assert who.subject not in str(line)
    # The upstream is not to blame.
    broken = ("gateway_broken_responses_total", (("upstream", "raw"),))
    assert (await house.metrics()).get(broken, 0) == before.get(broken, 0)
    assert house.events("response_broken") == []


@session
@pytest.mark.parametrize("loss", [suspend, revoke])
@pytest.mark.parametrize(
    ("head", "first"),
    [(DOWNLOAD, b"x" * 1000), (EVENTS, b"3e8\r\n" + b"x" * 100), (TO_THE_END, b"some of it")],
    ids=["length", "in-a-chunk", "to-the-end"],
)
async def test_a_shortened_download_is_recognisable(
    house: House, loss: Loss, head: bytes, first: bytes
) -> None:
    who = await caller(house)
    async with streaming(house, who.token, head, first) as client:
        await loss(who)
        await ended(client)
        assert client.broken
    await until_live(house, 0)


@session
@pytest.mark.parametrize("kind", ["events", "websocket"])
async def test_an_expired_token_ends_a_long_lived_exchange(house: House, kind: str) -> None:
    who = await caller(house)
    expires_at = who.expire(1.0)
    opened = streaming(house, who.token) if kind == "events" else tunnelling(house, who.token)
    async with opened as client:
        rest = await ended(client, 3.0)
        assert 0 <= time.time() - expires_at < AT_ONCE
        assert rest == (b"" if kind == "events" else close_frame("token_expired"))
        assert client.broken is (kind == "events")
    await until_live(house, 0)
    (line,) = house.events("connection_closed")
    assert line["reason"] == "token_expired"


@session
async def test_a_client_that_does_not_read_is_cut_off_too(house: House) -> None:
    async def flood(exchange: Exchange) -> None:
        exchange.wire.writer.write(DOWNLOAD.replace(b"1000000", b"100000000") + bytes(50_000_000))
        await stay(exchange)

    who = await caller(house)
    house.upstream.behave(flood)
    async with house.connect() as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream's transport reads too
        await client.send(request_bytes("GET", "/private/x", token=who.token))
        await until_live(house, 1)
        await suspend(who)
        await until_live(house, 0)
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len(await ended(client)) < 50_000_000
        assert client.broken


@session
async def test_a_caller_who_keeps_access_keeps_the_stream(house: House) -> None:
    who, other = await caller(house), await caller(house)
    async with streaming(house, who.token) as client, streaming(house, other.token) as staying:
        assert await live(house) == 2
        await suspend(who)
        await ended(client)
        await other.update("email = 'a@example.com'")
        await stays_open(staying)
        wire = house.upstream.wires[-1]
        wire.writer.write(b"5\r\nagain\r\n0\r\n\r\n")
        assert await staying.until(b"0\r\n\r\n") == b"5\r\nagain\r\n0\r\n\r\n"
        await until_live(house, 0)


@session
async def test_a_change_before_the_head_of_the_response_is_not_missed(house: House) -> None:
    asked, go = asyncio.Event(), asyncio.Event()

    async def late(exchange: Exchange) -> None:
        asked.set()
        await go.wait()
        await answering(EVENTS, b"6\r\n:hello\r\n")(exchange)

    who = await caller(house)
    house.upstream.behave(late)
    async with house.connect() as client:
        await client.send(request_bytes("GET", "/private/x", token=who.token))
        await asked.wait()
        await suspend(who)
        await asyncio.sleep(0.2)
        go.set()
        await ended(client)
        assert client.broken
    await until_live(house, 0)


@session
@pytest.mark.parametrize("target", ["/public/x", "/optional/x"])
async def test_an_exchange_without_a_caller_is_not_watched(house: House, target: str) -> None:
    house.upstream.behave(answering(EVENTS, b"6\r\n:hello\r\n"))
    async with house.connect() as client:
        await client.send(request_bytes("GET", target))
        await client.until(b":hello\r\n")
        assert await live(house) == 0


@session
@pytest.mark.parametrize("kind", ["events", "websocket"])
async def test_a_route_may_turn_re_authorization_off(house: House, kind: str) -> None:
    who = await caller(house)
    expires_at = who.expire(1.0)
    how = streaming if kind == "events" else tunnelling
    async with how(house, who.token, target="/unwatched/x") as client:
        await suspend(who)
        await revoke(who)
        await stays_open(client, expires_at - time.time() + 0.3)
        assert await live(house) == 0


# Tunnels -------------------------------------------------------------------------------------------


async def test_a_websocket_gets_a_close_frame_on_both_sides(tmp_path: Path, dsn: str, redis_url: str) -> None:
    behind: list[ServerConnection] = []

    async def handle(socket: ServerConnection) -> None:
        behind.append(socket)
        async for message in socket:
            await socket.send(message)

    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serve_websockets(handle, "127.0.0.1", 0))
        port = next(iter(server.sockets)).getsockname()[1]
        house = await stack.enter_async_context(
            open_house(
                tmp_path,
                dsn,
                redis_url,
                upstreams={"raw": {"urls": [f"http://127.0.0.1:{port}"]}},
                errors={"detail": "generic"},
            )
        )
        url = f"{house.url.replace('http', 'ws', 1)}/private/ws"
        for loss, told in ((suspend, "invalid_token"), (revoke, "token_revoked")):
            who = await caller(house)
            other = await stack.enter_async_context(
                connect(url, additional_headers={"Authorization": f"Bearer {token().decode()}"})
            )
            bearer = {"Authorization": f"Bearer {who.token.decode()}"}
            async with connect(url, additional_headers=bearer) as socket:
                await socket.send("hello")
                assert await socket.recv() == "hello"
                await loss(who)
                with pytest.raises(ConnectionClosed):
                    await asyncio.wait_for(socket.recv(), AT_ONCE)
                assert (socket.close_code, socket.close_reason) == (1008, told)
            served = behind[-1]
            await asyncio.wait_for(served.wait_closed(), AT_ONCE)
            assert (served.close_code, served.close_reason) == (1008, told)
            await other.send("still here")
            assert await other.recv() == "still here"
            ended_by = await house.metric("gateway_tunnels_ended_total", upstream="raw", by="revocation")
            assert ended_by >= 1
            await other.close()
        await until_live(house, 0)


@session
async def test_a_close_frame_follows_complete_frames_and_is_the_last_one(house: House) -> None:
    who = await caller(house)
    async with tunnelling(house, who.token) as client:
        # The parts of a message are frames, too.
        part = Frame(Opcode.TEXT, b"part", fin=False).serialize(mask=False)
        (wire,) = house.upstream.wires
        wire.writer.write(part)
        assert await client.exactly(len(part)) == part
        await suspend(who)
        assert await client.exactly(len(close_frame("user_suspended"))) == close_frame("user_suspended")
        wire.writer.write(HELLO)
        await client.send(Frame(Opcode.TEXT, b"too late").serialize(mask=True))
        assert await ended(client) == b""
        assert not client.broken
        # The upstream's script reads to the end, and keeps the data.
        await eventually(lambda: _has_ended(wire))
        told = bytes(wire.raw[-len(close_frame("user_suspended", bytes(4))) :])
        assert close_frame("user_suspended", told[2:6]) == told
    assert house.events("library") == []
    await until_live(house, 0)


@session
@pytest.mark.parametrize("where", ["in-the-head", "in-the-payload"])
async def test_in_the_middle_of_a_frame_the_connection_is_broken_off(house: House, where: str) -> None:
    who = await caller(house)
    frame = Frame(Opcode.BINARY, bytes(1000)).serialize(mask=False)
    begun = HELLO + frame[: 3 if where == "in-the-head" else 500]
    async with tunnelling(house, who.token, behind=begun) as client:
        await suspend(who)
        assert await ended(client) == b""
        assert client.broken
        await house.upstream.wires[-1].until_ended()
    await until_live(house, 0)


@session
async def test_an_upstream_in_the_middle_of_a_frame_sees_an_end(house: House) -> None:
    who = await caller(house)
    begun = Frame(Opcode.BINARY, bytes(1000)).serialize(mask=True)[:500]
    async with tunnelling(house, who.token) as client:
        await client.send(begun)
        (wire,) = house.upstream.wires

        async def arrived() -> bool:
            return wire.raw.endswith(begun)

        await eventually(arrived)
        await suspend(who)
        assert await ended(client) == close_frame("user_suspended")
        await wire.until_ended()
        assert wire.raw.endswith(begun)


@session
async def test_after_a_close_frame_there_is_no_other(house: House) -> None:
    who = await caller(house)
    bye = Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=False)
    async with tunnelling(house, who.token, behind=bye) as client:
        await suspend(who)
        assert await ended(client) == b""
    await until_live(house, 0)


@session
@pytest.mark.parametrize("reading", [True, False])
async def test_a_side_that_does_not_close_is_cut_off_soon(house: House, reading: bool) -> None:
    async def gone() -> bool:
        metrics = await house.metrics()
        upstream = ("gateway_upstream_connections", (("state", "active"), ("upstream", "raw")))
        return metrics["gateway_client_connections", ()] == metrics[upstream] == 0

    who = await caller(house)
    async with tunnelling(house, who.token) as client:
        if not reading:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream's transport reads too
            large = Frame(Opcode.BINARY, bytes(50_000_000)).serialize(mask=False)
            house.upstream.wires[-1].writer.write(large)
            await asyncio.sleep(0.1)
        await suspend(who)
        await until_live(house, 0)
        await eventually(gone)
        assert not client.writer.is_closing()


@session
async def test_data_that_a_client_sends_before_the_close_frame_arrives_is_read(house: House) -> None:
    """Otherwise, closing would reset the connection, and the close frame would be lost."""
    who = await caller(house)
    async with tunnelling(house, who.token) as client:
        house.upstream.wires[-1].writer.transport.pause_reading()  # type: ignore[attr-defined]  # as above
        client.writer.write(Frame(Opcode.BINARY, bytes(20_000_000)).serialize(mask=True))
        await asyncio.sleep(0.2)
        assert client.writer.transport.get_write_buffer_size()
        await suspend(who)
        async with asyncio.timeout(AT_ONCE):
            await client.writer.drain()
            assert await client.until(b"suspended") == close_frame("user_suspended")
        house.upstream.wires[-1].writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above


@session
async def test_another_protocol_is_broken_off(house: House) -> None:
    async def switch(exchange: Exchange) -> None:
        await exchange.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: custom\r\nConnection: Upgrade\r\n\r\nwelcome"
        )
        await stay(exchange)

    who = await caller(house)
    house.upstream.behave(switch)
    async with house.connect() as client:
        fields = (b"Connection: upgrade", b"Upgrade: custom")
        await client.send(request_bytes("GET", "/switched/x", *fields, token=who.token))
        await client.until(b"welcome")
        await suspend(who)
        assert await ended(client) == b""
        assert client.broken
    await until_live(house, 0)


# Faults --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["pulled", "frozen"])
async def test_exchanges_survive_an_outage_of_the_stores_and_are_checked_after_it(
    tmp_path: Path, dsn: str, redis_url: str, how: str
) -> None:
    async with AsyncExitStack() as stack:
        cables = [await stack.enter_async_context(Cable(url)) for url in (dsn, redis_url)]
        house = await stack.enter_async_context(open_house(tmp_path, cables[0].url, cables[1].url))
        house.dsn = dsn
        who, other = await caller(house), await caller(house)
        client = await stack.enter_async_context(streaming(house, who.token))
        staying = await stack.enter_async_context(streaming(house, other.token))
        for cable in cables:
            if how == "pulled":
                await cable.pull()
            else:
                cable.freeze()
        await suspend(who)
        await stays_open(client, 4.0)
        assert await live(house) == 2
        assert (await house.request("/private/x", token=other.token)).status == 503
        for cable in cables:
            if how == "pulled":
                await cable.plug()
            else:
                cable.thaw()
        await ended(client, 5.0)
        assert client.broken
        await stays_open(staying, 1.5)
        assert await live(house) == 1


@pytest.mark.parametrize("store", ["postgres", "redis"])
async def test_while_one_stream_of_changes_is_down_exchanges_are_checked_every_few_seconds(
    tmp_path: Path, dsn: str, redis_url: str, store: str
) -> None:
    async with AsyncExitStack() as stack:
        postgres, redis = [await stack.enter_async_context(Cable(url)) for url in (dsn, redis_url)]
        house = await stack.enter_async_context(
            open_house(tmp_path, dsn, redis.url, postgres={"listen_dsn": postgres.url})
        )
        who, other = await caller(house), await caller(house)
        client = await stack.enter_async_context(streaming(house, who.token))
        staying = await stack.enter_async_context(streaming(house, other.token))
        await (postgres if store == "postgres" else redis).pull()
        await asyncio.sleep(0.5)
        await suspend(who)
        # Cached users in Redis end with the epoch, which no worker extends.
        await ended(client, 8.0)
        assert client.broken
        await stays_open(staying)


async def _has_ended(wire: Wire) -> bool:
    return wire.ended
