"""Streams and downloads end when their caller loses access: real clients, Postgres and Redis."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gateway.proxy.exchanges.websocket import close_frame
from tests.harness import House, open_house
from tests.proxy.long_lived import (
    AT_ONCE,
    DOWNLOAD,
    EVENTS,
    TO_THE_END,
    Loss,
    answering,
    caller,
    delete,
    ended,
    live,
    revoke,
    revoke_in_sql,
    session,
    stay,
    stays_open,
    streaming,
    suspend,
    take_the_role,
    tunnelling,
    unlink,
    until_live,
)
from tests.sockets import Exchange, request_bytes
from tests.stores.cable import Cable

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
