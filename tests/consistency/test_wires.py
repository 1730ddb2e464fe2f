"""The data that the wires lose, and the data that they pass on, with real servers and real clients."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import asyncpg
import pytest
from redis.asyncio import Redis

from gateway.demo.embedded import EmbeddedPostgres, EmbeddedRedis
from gateway.stores.redis.change_stream import RedisStream
from gateway.stores.redis.keys import Tracked
from tests.consistency.links import DEAF
from tests.consistency.wires import PostgresTap, RedisTap, Wire, _value_end
from tests.stores.examples import eventually
from tests.stores.redis.test_change_stream import Notes

PREFIX = "wires:"


@dataclass
class Listener:
    """A session behind the wire that listens, and one that speaks past the wire."""

    wire: Wire
    session: "asyncpg.Connection[asyncpg.Record]"
    speaker: "asyncpg.Connection[asyncpg.Record]"
    heard: list[str] = field(default_factory=list)

    async def hears(self, mark: str, by: "asyncpg.Connection[asyncpg.Record]") -> bool:
        """Send a notification, and see whether it has come when the session answers another query."""
        await by.execute(f"NOTIFY marks, '{mark}'")
        for _ in range(3):
            assert await self.session.fetchval("SELECT 1") == 1
        return mark in self.heard


@asynccontextmanager
async def listening(postgres: EmbeddedPostgres) -> AsyncIterator[Listener]:
    async with Wire(postgres.dsn, 0, PostgresTap) as wire:
        session, speaker = await asyncpg.connect(wire.url), await asyncpg.connect(postgres.dsn)
        listener = Listener(wire, session, speaker)
        try:
            await session.add_listener("marks", lambda *said: listener.heard.append(str(said[-1])))
            yield listener
        finally:
            session.terminate()
            await speaker.close()


async def test_a_deaf_session_still_answers(postgres_server: EmbeddedPostgres) -> None:
    async with listening(postgres_server) as listener:
        assert await listener.hears("before", listener.speaker)
        with DEAF["deaf"](listener.wire):
            assert not await listener.hears("other", listener.speaker)
            assert not await listener.hears("own", listener.session)
            assert await listener.session.fetchval("SELECT repeat('x', 200000)") == "x" * 200_000
        assert await listener.hears("after", listener.speaker)
        assert listener.heard == ["before", "after"]


async def test_a_session_that_is_deaf_to_others_receives_its_own_notifications(
    postgres_server: EmbeddedPostgres,
) -> None:
    async with listening(postgres_server) as listener:
        with DEAF["deaf to other sessions"](listener.wire):
            assert not await listener.hears("other", listener.speaker)
            assert await listener.hears("own", listener.session)


async def test_a_session_that_begins_while_the_wire_is_deaf_is_deaf_too(
    postgres_server: EmbeddedPostgres,
) -> None:
    async with Wire(postgres_server.dsn, 0, PostgresTap) as wire:
        heard: list[str] = []
        with DEAF["deaf"](wire):
            session = await asyncpg.connect(wire.url)
            await session.add_listener("marks", lambda *said: heard.append(str(said[-1])))
            await session.execute("NOTIFY marks, 'a'")
        await session.execute("NOTIFY marks, 'b'")
        await session.close()
        assert heard == ["b"]


async def test_of_two_sessions_one_is_deaf(postgres_server: EmbeddedPostgres) -> None:
    async with listening(postgres_server) as first:
        second = await asyncpg.connect(first.wire.url)
        heard: list[str] = []
        await second.add_listener("marks", lambda *said: heard.append(str(said[-1])))
        with DEAF["one worker deaf"](first.wire):
            assert not await first.hears("a", first.speaker)
            await second.execute("NOTIFY marks, 'b'")
            assert heard == ["a", "b"]
        await second.close()


async def test_what_is_held_up_comes_in_the_end(postgres_server: EmbeddedPostgres) -> None:
    async with listening(postgres_server) as listener:
        other = await asyncpg.connect(listener.wire.url)
        with DEAF["mute"](listener.wire):
            await listener.speaker.execute("NOTIFY marks, 'a'")
            with pytest.raises(TimeoutError):
                await listener.session.fetchval("SELECT 1", timeout=0.2)
            assert await other.fetchval("SELECT 2") == 2
        await other.close()

        async def heard() -> bool:
            return listener.heard == ["a"]

        await eventually(heard)


@pytest.mark.parametrize("how", ["deaf", "one worker deaf"])
async def test_a_deaf_stream_from_redis_still_gets_answers(how: str, redis_server: EmbeddedRedis) -> None:
    notes = Notes()
    async with Wire(redis_server.url, 0, RedisTap) as wire, Redis.from_url(redis_server.url) as client:

        async def write(key: str) -> None:
            await client.set(key, 1, px=10_000)

        stream = RedisStream(wire.url, Tracked((PREFIX,), f"{PREFIX}:"), notes, write)
        stream.start()
        try:
            await notes.until(1)
            with DEAF[how](wire):
                await client.set(f"{PREFIX}lost", 1)
                # Another connection through the wire has its replies, of every shape.
                async with Redis.from_url(wire.url, protocol=3) as other:
                    await other.hset(f"{PREFIX}map", mapping={"a": 1, "b": 2})
                    assert await other.hgetall(f"{PREFIX}map") == {b"a": b"1", b"b": b"2"}
                await asyncio.sleep(0.1)
            await client.set(f"{PREFIX}heard", 1)
            assert f"{PREFIX}heard" in (await notes.until(2))
            assert f"{PREFIX}lost" not in notes.heard
        finally:
            await stream.close()


@pytest.mark.parametrize(
    "value",
    [
        b"+OK\r\n", b":1\r\n", b"_\r\n", b"#t\r\n", b",1.5\r\n", b"$-1\r\n", b"$5\r\na\r\nbc\r\n", b"*-1\r\n",
        b"*2\r\n*1\r\n+a\r\n$1\r\nb\r\n", b"%1\r\n+a\r\n*0\r\n", b"|1\r\n+a\r\n:1\r\n+about\r\n",
        b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n", b">2\r\n$10\r\ninvalidate\r\n_\r\n",
    ],
)  # fmt: skip
def test_a_value_of_resp3_ends_where_it_ends_and_is_not_there_before(value: bytes) -> None:
    assert _value_end(bytearray(value + b"+next\r\n"), 0) == len(value)
    assert [_value_end(bytearray(value[:size]), 0) for size in range(len(value))] == [None] * len(value)


def test_a_message_that_comes_in_pieces_is_passed_on_whole() -> None:
    async def run() -> None:
        tap = PostgresTap()
        message = b"D\x00\x00\x00\x08abcd"
        passed = [await tap.back(message[at : at + 1]) for at in range(len(message))]
        assert passed == [b""] * (len(message) - 1) + [message]

    asyncio.run(run())
