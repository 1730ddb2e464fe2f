import asyncio
import os
import signal
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
import uvloop
from redis.asyncio import Redis as Client
from structlog.testing import capture_logs

from gateway.core.revocations import Revocation
from gateway.demo.embedded import EmbeddedRedis
from gateway.stores.redis.change_stream import RedisStream
from gateway.stores.redis.keys import Keys
from gateway.stores.redis.shared_tier import RedisTier
from gateway.stores.redis.user_documents import CachedUser
from tests.stores.cable import Cable, Pushless
from tests.stores.examples import claims

TRACKED = Keys("gateway:").tracked
# What tests wait for is short, so that they are.
BEAT, PATIENCE = 0.05, 0.4


class Notes:
    """Implements `KeysListener`: writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[str | None] = []
        self.at: list[float] = []
        self.proofs = 0
        self.on_touch: Callable[[], None] = lambda: None

    def tracking(self) -> None:
        self._note("tracking")

    def touched(self, keys: Sequence[str] | None) -> None:
        for key in [None] if keys is None else keys:
            self._note(key)
        self.on_touch()

    def proven(self) -> None:
        self.proofs += 1

    def lost(self, detail: str) -> None:
        self._note(f"lost: {detail}")

    def _note(self, what: str | None) -> None:
        self.heard.append(what)
        self.at.append(time.monotonic())

    async def until(self, count: int) -> list[str | None]:
        """Wait until so much has been heard."""
        async with asyncio.timeout(5):
            while len(self.heard) < count:  # noqa: ASYNC110 -- the stream sets no asyncio.Event
                await asyncio.sleep(0.002)
        return self.heard


async def say(client: "Client", *words: object) -> Any:  # noqa: ANN401 -- the reply of Redis
    return await client.execute_command(*words)  # type: ignore[no-untyped-call] # has no annotations


class Stream(RedisStream):
    """One whose heartbeats another client writes, which is closed with it."""

    def __init__(self, url: str, notes: Notes, *, writes_to: str | None = None, **settings: Any) -> None:  # noqa: ANN401 -- those of the stream
        self._writer = RedisTier(writes_to or url, timeout=0.5)
        super().__init__(url, TRACKED, notes, self._writer.beat, **settings)

    async def close(self) -> None:
        await super().close()
        await self._writer.close()


def is_up(stream: RedisStream) -> bool:
    """Ask anew; mypy would take the last answer for the next."""
    return stream.up


def follow(url: str, notes: Notes, *, writes_to: str | None = None, **settings: float) -> RedisStream:
    stream = Stream(url, notes, writes_to=writes_to, **{"beat": BEAT, "patience": PATIENCE, **settings})
    stream.start()
    return stream


@pytest.fixture
async def notes() -> Notes:
    return Notes()


@pytest.fixture
async def stream(redis_url: str, notes: Notes) -> AsyncIterator[RedisStream]:
    stream = follow(redis_url, notes)
    assert await notes.until(1) == ["tracking"]
    yield stream
    await stream.close()


class TestPushes:
    @pytest.mark.usefixtures("stream")
    async def test_a_key_that_any_program_sets_or_deletes_is_reported(
        self, notes: Notes, client: "Client"
    ) -> None:
        await client.set("gateway:revoked:jti:main:é", "1")
        await client.set("gateway:revoked:user:x", "1", px=50)
        await client.delete("gateway:revoked:jti:main:é")
        assert await notes.until(5) == [
            "tracking",
            "gateway:revoked:jti:main:é",
            "gateway:revoked:user:x",
            "gateway:revoked:jti:main:é",
            # Expired, which Redis sees to in its own time.
            "gateway:revoked:user:x",
        ]

    @pytest.mark.usefixtures("stream")
    async def test_fills_and_epochs_are_not(self, notes: Notes, redis_url: str, client: "Client") -> None:
        redis = RedisTier(redis_url, timeout=2.0)
        epoch = await redis.begin_epoch("h1")
        await redis.keep_epoch(epoch.name, "h2")
        assert await redis.store_user(claims(), CachedUser(None, 1.0, epoch.name), 60, horizon=9)
        await redis.revoked.fill([], await redis.revoked.begin_filling())
        await redis.end_epoch(9)
        await client.set("elsewhere:revoked:jti:main:t", "1")
        await redis.bury([("main", "ann"), ("main", "a:b")], 9)
        # The second worker that hears of the change has nothing to say.
        await redis.bury([("main", "ann"), ("main", "a:b")], 9)
        revocation = Revocation("jti", "main", "t", 5.0)
        await redis.revoked.revoke([revocation])
        await redis.revoked.revoke([revocation])
        await redis.revoked.lift([revocation])
        await redis.revoked.lift([revocation])
        await client.set("gateway:revoked:last", "1")
        await notes.until(6)
        assert sorted(map(str, notes.heard[1:3])) == [
            "gateway:tombstone:main:a:b",
            "gateway:tombstone:main:ann",
        ]
        assert notes.heard[3:] == [
            "gateway:revoked:jti:main:t",
            "gateway:revoked:jti:main:t",
            "gateway:revoked:last",
        ]
        await redis.close()

    @pytest.mark.parametrize("command", ["FLUSHALL", "FLUSHDB"])
    @pytest.mark.usefixtures("stream")
    async def test_a_redis_that_is_emptied(self, notes: Notes, client: "Client", command: str) -> None:
        await say(client, command)
        assert await notes.until(2) == ["tracking", None]

    async def test_many_keys_at_once(self, stream: RedisStream, notes: Notes, client: "Client") -> None:
        await client.mset({f"gateway:revoked:jti:main:{n}": "1" for n in range(3000)})
        await notes.until(3001)
        assert len(set(notes.heard)) == 3001
        assert stream.up

    @pytest.mark.usefixtures("stream")
    async def test_how_long_it_takes(self, notes: Notes, client: "Client") -> None:
        took = []
        for n in range(200):
            began = time.monotonic()
            arrived = asyncio.Event()
            notes.on_touch = arrived.set
            await client.set("gateway:revoked:jti:main:t", n)
            await arrived.wait()
            took.append(notes.at[-1] - began)
        print(f"SET to push: median {statistics.median(took) * 1e6:.0f} µs")  # noqa: T201 -- a figure for `pytest -s`


class TestFaults:
    async def test_a_stream_is_up_only_while_it_follows(self, redis_url: str, notes: Notes) -> None:
        async with Cable(redis_url) as cable:
            stream = Stream(cable.url, notes, beat=BEAT, patience=PATIENCE)
            assert not is_up(stream)
            stream.start()
            await notes.until(1)
            assert is_up(stream)
            await cable.pull()
            await notes.until(2)
            assert str(notes.heard[1]).startswith("lost: 127.0.0.1:")
            assert not is_up(stream)
            # Being away for longer is no further news.
            await asyncio.sleep(0.3)
            assert len(notes.heard) == 2
            await cable.plug()
            await notes.until(3)
            assert notes.heard[2] == "tracking"
            assert is_up(stream)
            await stream.close()
            assert not is_up(stream)
            assert len(notes.heard) == 3

    async def test_a_link_that_swallows_everything_is_noticed(self, redis_url: str, notes: Notes) -> None:
        async with Cable(redis_url) as cable:
            stream = follow(cable.url, notes)
            await notes.until(1)
            await asyncio.sleep(4 * BEAT)
            assert notes.heard == ["tracking"]
            cable.freeze()
            frozen_at = time.monotonic()
            await notes.until(2)
            assert notes.at[1] - frozen_at < BEAT + PATIENCE + 0.1
            assert "no answer in time" in str(notes.heard[1])
            cable.thaw()
            await notes.until(3)
            assert notes.heard[2] == "tracking"
            await stream.close()

    async def test_within_two_seconds_by_default(self, redis_url: str, notes: Notes) -> None:
        async with Cable(redis_url) as cable:
            stream = Stream(cable.url, notes)
            stream.start()
            await notes.until(1)
            cable.freeze()
            frozen_at = time.monotonic()
            await notes.until(2)
            assert notes.at[1] - frozen_at < 2.1
            await stream.close()

    async def test_a_halted_server_is_noticed(self, redis_server: EmbeddedRedis, notes: Notes) -> None:
        stream = follow(redis_server.url, notes)
        await notes.until(1)
        async with Client.from_url(redis_server.url) as client:
            process = int((await client.info("server"))["process_id"])
            os.kill(process, signal.SIGSTOP)
            try:
                await notes.until(2)
                assert "no answer in time" in str(notes.heard[1])
            finally:
                os.kill(process, signal.SIGCONT)
            await notes.until(3)
            await client.set("gateway:revoked:user:x", "1")
            await notes.until(4)
        assert notes.heard[2:] == ["tracking", "gateway:revoked:user:x"]
        await stream.close()

    async def test_a_server_that_restarts_empty_is_followed_again(
        self, redis_server: EmbeddedRedis, notes: Notes
    ) -> None:
        stream = follow(redis_server.url, notes)
        await notes.until(1)
        redis_server.stop()
        await notes.until(2)
        redis_server.start()
        await notes.until(3)
        async with Client.from_url(redis_server.url) as client:
            await client.set("gateway:revoked:user:x", "1")
        await notes.until(4)
        assert notes.heard[2:] == ["tracking", "gateway:revoked:user:x"]
        await stream.close()

    async def test_a_process_that_was_halted_trusts_nothing_until_it_has_looked(
        self, stream: RedisStream, notes: Notes
    ) -> None:
        time.sleep(BEAT + PATIENCE)  # noqa: ASYNC251 -- nothing else is to run
        assert not is_up(stream)
        # A heartbeat sent before lies answered in the socket; it is not taken for a silent server.
        await asyncio.sleep(2 * BEAT)
        assert is_up(stream)
        assert notes.heard == ["tracking"]

    def test_a_process_too_busy_to_look_is_not_a_silent_server(
        self, redis_url: str, notes: Notes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In the event loop of production, which looks at timers before it looks at sockets."""
        busy = iter([False, True])  # once it follows

        async def follow_busily() -> None:
            stream = follow(redis_url, notes)
            wait = stream._wait

            async def wait_busily(*futures: "asyncio.Future[None]") -> None:
                if next(busy, False):
                    asyncio.get_running_loop().call_soon(time.sleep, PATIENCE + BEAT)
                await wait(*futures)  # type: ignore[arg-type] # a task is a future

            monkeypatch.setattr(stream, "_wait", wait_busily)
            await asyncio.sleep(PATIENCE + 4 * BEAT)
            await stream.close()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(follow_busily())
        assert next(busy, None) is None
        assert notes.heard == ["tracking"]

    async def test_a_stream_that_never_worked_is_reported_once(self, notes: Notes) -> None:
        stream = follow("redis://ann:hunter2@127.0.0.1:1/0", notes)
        await asyncio.sleep(0.4)
        await stream.close()
        assert notes.heard == ["lost: 127.0.0.1:1: Connection refused"]

    @pytest.mark.usefixtures("stream")
    async def test_each_heartbeat_is_reported(self, notes: Notes) -> None:
        before = notes.proofs
        async with asyncio.timeout(5):
            while notes.proofs < before + 3:  # noqa: ASYNC110 -- the stream sets no asyncio.Event
                await asyncio.sleep(BEAT)
        assert notes.heard == ["tracking"]

    @pytest.mark.usefixtures("stream")
    async def test_a_listener_that_fails_loses_the_stream_and_not_the_process(
        self, notes: Notes, client: "Client"
    ) -> None:
        def fail() -> None:
            notes.on_touch = lambda: None
            raise ValueError("odd")

        notes.on_touch = fail
        with capture_logs() as logs:
            await client.set("gateway:revoked:user:x", "1")
            await notes.until(4)
        assert notes.heard[1] == "gateway:revoked:user:x"
        assert str(notes.heard[2]).endswith(": ValueError")
        assert notes.heard[3] == "tracking"
        assert [entry["event"] for entry in logs] == ["redis_stream_failed"]

    def test_an_unreadable_url_is_not_repeated(self, notes: Notes) -> None:
        with pytest.raises(ValueError, match=r"^the Redis URL cannot be read$"):
            Stream("redis://ann:hunt/er2@db.example.com", notes)


class TestHeartbeats:
    """What another connection writes must be told of here: nothing else proves anything."""

    async def test_a_proxy_that_swallows_pushes_alone(self, redis_url: str, notes: Notes) -> None:
        async with Pushless(redis_url) as proxy:
            stream = follow(proxy.url, notes, writes_to=redis_url)
            await asyncio.sleep(3 * PATIENCE)
            await stream.close()
        assert not is_up(stream)
        assert notes.heard == [f"lost: {stream.detail}"]
        assert "a proxy swallows pushes" in str(stream.detail)

    async def test_a_link_that_loses_the_data_of_the_server(self, redis_url: str, notes: Notes) -> None:
        async with Cable(redis_url) as cable:
            stream = follow(cable.url, notes, writes_to=redis_url)
            await notes.until(1)
            cable.deafen()
            await notes.until(2)
            assert "no answer in time" in str(notes.heard[1])
            cable.swallows = lambda _: False
            await notes.until(3)
            await stream.close()

    async def test_a_stream_from_another_server(self, redis_url: str, notes: Notes) -> None:
        with EmbeddedRedis() as other:
            stream = follow(other.url, notes, writes_to=redis_url)
            await asyncio.sleep(3 * PATIENCE)
            assert not is_up(stream)
            assert "is missing: `redis.url` leads to several servers" in str(stream.detail)
            await stream.close()
        assert notes.heard == [f"lost: {stream.detail}"]

    async def test_writes_that_fail_prove_nothing(self, redis_url: str, notes: Notes) -> None:
        async with Cable(redis_url) as cable:
            stream = follow(redis_url, notes, writes_to=cable.url)
            await notes.until(1)
            await cable.pull()
            await notes.until(2)
            assert str(notes.heard[1]).startswith("lost: 127.0.0.1:")
            await cable.plug()
            await notes.until(3)
            await stream.close()

    async def test_those_of_others_are_neither_proof_nor_news(self, redis_url: str, notes: Notes) -> None:
        touches = []
        notes.on_touch = lambda: touches.append(1)
        neighbours = [follow(redis_url, Notes()) for _ in range(3)]
        with EmbeddedRedis() as other:
            deaf = follow(redis_url, notes, writes_to=other.url)
            await asyncio.sleep(3 * PATIENCE)
            assert not is_up(deaf)
            assert [is_up(stream) for stream in neighbours] == [True] * 3
            for stream in [deaf, *neighbours]:
                await stream.close()
        assert (notes.heard, touches) == ([f"lost: {deaf.detail}"], [])

    async def test_a_full_redis_still_reports_them(self, redis_url: str, client: "Client") -> None:
        notes = Notes()
        await say(client, "CONFIG", "SET", "maxmemory", "1")
        try:
            stream = follow(redis_url, notes)
            await notes.until(1)
            await asyncio.sleep(2 * PATIENCE)
            assert is_up(stream)
            await stream.close()
        finally:
            await say(client, "CONFIG", "SET", "maxmemory", "0")
        assert notes.heard == ["tracking"]

    @pytest.mark.usefixtures("stream")
    async def test_they_outlive_a_redis_that_is_emptied(self, notes: Notes, client: "Client") -> None:
        await say(client, "FLUSHALL")
        await asyncio.sleep(2 * PATIENCE)
        assert notes.heard == ["tracking", None]

    @pytest.mark.usefixtures("stream")
    async def test_their_keys_expire(self, client: "Client") -> None:
        (key,) = await client.keys("gateway:tombstone::*")
        assert 0 < await client.pttl(key) <= 10_000


async def test_a_password_and_a_database(redis_url: str, client: "Client", notes: Notes) -> None:
    await say(client, "ACL", "SETUSER", "ann", "on", ">s3 cret/é", "+@all", "~gateway:*")
    try:
        stream = follow(redis_url.replace("redis://", "redis://ann:s3%20cret%2F%C3%A9@"), notes)
        assert await notes.until(1) == ["tracking"]
        await stream.close()
        wrong = Notes()
        with capture_logs() as logs:
            refused = follow(redis_url.replace("redis://", "redis://ann:wrong-one@"), wrong)
            await asyncio.sleep(0.3)
            await refused.close()
        assert logs == []
        assert wrong.heard == [f"lost: {refused.detail}"]
        assert "wrong-one" not in str(refused.detail)
    finally:
        await say(client, "ACL", "DELUSER", "ann")
