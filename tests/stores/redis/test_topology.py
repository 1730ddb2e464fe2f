"""The ways to a Redis: sockets, TLS, Sentinels and a cluster, each with the real program."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis as Client
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.core.model import StoreUnavailable
from gateway.core.revocations import Revocation
from gateway.demo.embedded import EmbeddedRedis
from gateway.stores.redis.change_stream import RedisStream
from gateway.stores.redis.keys import Keys, Tracked
from gateway.stores.redis.shared_tier import RedisTier
from gateway.stores.redis.topology import hash_tag, server_at
from gateway.stores.redis.user_documents import CachedUser
from tests.harness import unused_port
from tests.issuer_keys.test_fetch import certificate
from tests.stores.examples import claims, eventually
from tests.stores.redis.test_change_stream import Notes, say
from tests.stores.tls_front import tls_front

TAGGED = "{gateway}:"


def revoked(prefix: str) -> Tracked:
    """Revocations alone, and heartbeats."""
    return Tracked((f"{prefix}revoked:",), f"{prefix}revoked::")


@pytest.fixture(scope="module")
def program() -> Iterator[Path]:
    with EmbeddedRedis() as server:
        yield server._program


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """The certificate of all servers, or None for servers without TLS."""
    return certificate(tmp_path) if request.param == "tls" else None


@asynccontextmanager
async def running(
    program: Path, folder: Path, port: int, *options: str, tls: Path | None = None
) -> AsyncIterator[Client]:
    """Run a Redis with these options, behind a program that takes TLS off if `tls`; yields a client of it."""
    async with AsyncExitStack() as stack:
        own = port
        if tls is not None:
            own = unused_node_port()
            await stack.enter_async_context(tls_front(tls, own, port))
            options += (
                "--replica-announce-port", str(port),
                "--cluster-announce-port", str(port), "--cluster-announce-bus-port", str(bus_of(own)),
            )  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            program, *options, "--port", str(own), "--dir", folder, stdout=asyncio.subprocess.DEVNULL
        )
        try:
            # One that waits before it connects again would hide what happens after a shutdown.
            async with Client(host="127.0.0.1", port=port, retry=Retry(NoBackoff(), 1)) as client:
                await eventually(lambda: answers(client))
                yield client
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


def unused_node_port() -> int:
    """Find a port whose bus has one, too."""
    while bus_of(port := unused_port()) > 65535:
        pass
    return port


def bus_of(port: int) -> int:
    """Where nodes of a cluster talk to each other."""
    return port + 10000


async def answers(client: Client) -> bool:
    try:
        return bool(await client.ping())
    except RedisConnectionError:
        return False


class TestUrls:
    @pytest.mark.parametrize(
        ("url", "address"),
        [
            ("redis://ann:hunter2@db.example.com", "db.example.com:6379"),
            ("rediss://:hunter2@[::1]:7000/3", "::1:7000"),
            ("unix:///run/redis.sock", "/run/redis.sock"),
            ("redis+sentinel://ann:hunter2@a,b:7/mymaster", "a,b:7"),
            ("rediss+sentinel://a/mymaster/2?sentinel_password=hunter2&ssl_cert_reqs=none", "a"),
            ("redis+sentinel://a/mymaster?db=2", "a"),
            ("redis+cluster://:hunter2@a:1,b:2", "a:1,b:2"),
            ("rediss+cluster://a:1/?ssl_cert_reqs=none", "a:1"),
        ],
    )
    def test_urls_that_can_be_read(self, url: str, address: str) -> None:
        assert server_at(url, TAGGED).address == address

    @pytest.mark.parametrize(
        "url",
        [
            "http://h",
            "redis+tardis://h",
            "http+cluster://h",
            "redis+cluster://h/0",
            "redis+cluster://h,",
            "redis+cluster://h:port",
            "redis+sentinel://h",
            "redis+sentinel://h/m/x",
            "redis+sentinel://ann:hunt/er2@h/m",
            "redis+sentinel://h/m?socket=1",
        ],
    )
    def test_urls_that_cannot_be_read(self, url: str) -> None:
        with pytest.raises(ValueError, match=r"^the Redis URL cannot be read$") as caught:
            server_at(url, TAGGED)
        assert caught.value.__cause__ is None

    @pytest.mark.parametrize("prefix", ["gateway:", "{gateway:", "{}gateway{x}:", "}a{"])
    def test_a_cluster_needs_a_prefix_with_a_hash_tag(self, prefix: str) -> None:
        assert hash_tag(prefix) == ""
        with pytest.raises(ValueError, match=r"a prefix with a hash tag, such as \{gateway\}:"):
            server_at("redis+cluster://h", prefix)

    @pytest.mark.parametrize("prefix", ["{gateway}:", "a{b}c{d}:", "a}{b}:", "{{}:"])
    def test_keys_with_a_hash_tag_share_a_slot(self, prefix: str) -> None:
        assert hash_tag(prefix)
        slots = {key_slot(f"{prefix}{rest}".encode()) for rest in ("", "a", "user:{x}:y", "}{")}
        assert slots == {key_slot(hash_tag(prefix).encode())}


async def works(url: str, prefix: str = "gateway:") -> None:
    """See that everything that is done in Redis can be done by this URL."""
    redis, notes = RedisTier(url, prefix=prefix, timeout=2.0), Notes()
    stream = RedisStream(url, Keys(prefix).tracked, notes, redis.beat)
    stream.start()
    await notes.until(1)
    await redis.ping()
    epoch = await redis.begin_epoch("h1")
    assert await redis.keep_epoch(epoch.name, "h2")
    cached = CachedUser(None, 1.0, epoch.name)
    assert await redis.store_user(claims(), cached, 60, horizon=9)
    await redis.revoked.fill([Revocation("jti", "main", "token-1", 5.0)], await redis.revoked.begin_filling())
    shared = await redis.read(claims(), "x")
    assert (shared.cached, shared.epoch, shared.complete) == (cached, epoch.name, True)
    assert shared.revocations.token
    assert await redis.revoked.lift([Revocation("jti", "main", "token-1", 5.0)]) == 1
    await redis.bury([("main", "ann"), ("main", "bob")], 9)
    await redis.forget_users([("main", "ann"), ("main", "bob")])
    await redis.end_epoch(9)
    assert len(await notes.until(5)) == 5
    await stream.close()
    await redis.close()


async def test_a_socket(tmp_path: Path, program: Path) -> None:
    async with running(program, tmp_path, unused_port(), "--unixsocket", f"{tmp_path}/s", "--save", ""):
        await works(f"unix://{tmp_path}/s")


async def test_a_command_that_is_unknown_is_not_shown(tmp_path: Path, program: Path) -> None:
    """As AUTH is to a proxy, or HELLO to Redis 5: the answer repeats what was sent."""
    port = unused_port()
    async with running(program, tmp_path, port, "--save", "", "--rename-command", "AUTH", ""):
        redis = RedisTier(f"redis://ann:hunter2@127.0.0.1:{port}")
        with pytest.raises(StoreUnavailable) as caught:
            await redis.ping()
        # From Redis 7 on, the command is in other quotation marks.
        detail = caught.value.detail.replace("'AUTH'", "`AUTH`")
        assert detail == f"127.0.0.1:{port}: refuses the command: unknown command `AUTH`"
        await redis.close()


async def test_tls(tmp_path: Path, redis_url: str) -> None:
    file = certificate(tmp_path)
    port = urlsplit(redis_url).port
    assert port is not None
    async with tls_front(file, port) as front:
        url = f"rediss://127.0.0.1:{front}/0"
        await works(f"{url}?ssl_ca_certs={file}")
        stranger = RedisTier(url)
        with pytest.raises(StoreUnavailable, match="certificate is not trusted"):
            await stranger.ping()
        await stranger.close()


@asynccontextmanager
async def sentinels(
    program: Path, folder: Path, tls: Path | None = None
) -> AsyncIterator[tuple[str, Client, Client]]:
    """Run a primary, a replica and a Sentinel; yields a URL and clients of the first two."""
    async with AsyncExitStack() as stack:

        async def start(port: int, *options: str) -> Client:
            return await stack.enter_async_context(running(program, folder, port, *options, tls=tls))

        ports = [unused_port() for _ in range(3)]
        # From Redis 7 on, a primary waits five seconds for more replicas before it sends its data.
        primary = await start(ports[0], "--save", "", "--repl-diskless-sync-delay", "0")
        replica = await start(
            ports[1], "--save", "", "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0",
            "--replicaof", "127.0.0.1", str(ports[0]),
        )  # fmt: skip

        async def linked() -> bool:
            return bool((await replica.info("replication"))["master_link_status"] == "up")

        # A Sentinel that does not find the replica at once looks for it again after ten seconds.
        await eventually(linked)
        configuration = folder / "sentinel.conf"
        configuration.write_text(
            f"sentinel monitor main 127.0.0.1 {ports[0]} 1\n"
            "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n"
        )
        sentinel = await start(ports[2], str(configuration), "--sentinel")

        async def settled() -> bool:
            return len(await say(sentinel, "SENTINEL", "replicas", "main")) == 1

        await eventually(settled)
        # The first is a Sentinel that is not there.
        hosts = f"127.0.0.1:1,127.0.0.1:{ports[2]}"
        yield located(f"redis+sentinel://{hosts}/main/0", tls), primary, replica


def located(url: str, tls: Path | None) -> str:
    """Make a URL that asks for TLS, if all servers have it."""
    return url if tls is None else f"{url.replace('redis+', 'rediss+')}?ssl_ca_certs={tls}"


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110 -- a server sets no asyncio.Event
            await asyncio.sleep(0.02)


class TestSentinel:
    async def test_everything_goes_to_the_primary(
        self, tmp_path: Path, program: Path, tls: Path | None
    ) -> None:
        async with sentinels(program, tmp_path, tls) as (url, primary, _):
            await works(url)
            assert await primary.exists("gateway:tombstone:main:ann")
            locate = server_at(url, "gateway:").settings["locate"]
            assert await locate(1.0) == ("127.0.0.1", port_of(primary))
            # Who knew is asked first the next time.
            assert locate._seeds[1] == ("127.0.0.1", 1)

    async def test_a_sentinel_that_swallows_everything(self, tmp_path: Path, program: Path) -> None:
        async with sentinels(program, tmp_path) as (url, _, _):
            with socket.create_server(("127.0.0.1", 0)) as silent:
                url = url.replace("127.0.0.1:1,", f"127.0.0.1:{silent.getsockname()[1]},")
                redis, notes = RedisTier(url, timeout=0.2), Notes()
                stream = RedisStream(url, revoked("gateway:"), notes, redis.beat, connect_timeout=0.5)
                stream.start()
                # A request waits no longer than ever, and the next one is served.
                with pytest.raises(StoreUnavailable):
                    await redis.read(claims(), None)
                await redis.read(claims(), None)
                await notes.until(1)
                await stream.close()
                await redis.close()

    async def test_a_replica_is_not_taken_for_the_primary(self, tmp_path: Path, program: Path) -> None:
        """As Sentinels may say for a moment after a fail-over."""
        async with sentinels(program, tmp_path) as (url, _, replica):

            async def misled(_: float) -> tuple[str, int]:
                return "127.0.0.1", port_of(replica)

            connection = server_at(url, "gateway:").connection(locate=misled)
            with pytest.raises(RedisConnectionError, match="the primary is being replaced"):
                await connection.connect()  # type: ignore[no-untyped-call] # has no annotations

    async def test_a_fail_over(self, tmp_path: Path, program: Path, tls: Path | None) -> None:
        async with sentinels(program, tmp_path, tls) as (url, primary, replica):
            redis, writer, notes = RedisTier(url), RedisTier(url), Notes()
            stream = RedisStream(url, revoked("gateway:"), notes, writer.beat)
            stream.start()
            await notes.until(1)
            epoch = await redis.begin_epoch("h1")
            await redis.revoked.fill([], await redis.revoked.begin_filling())
            await primary.wait(1, 1000)
            await primary.shutdown(nosave=True)

            async def back() -> bool:
                try:
                    await redis.keep_epoch(epoch.name, "h2")
                except StoreUnavailable:
                    return False
                return True

            assert not await back()
            await until(back)
            assert (await replica.role())[0] == b"master"
            assert await redis.keep_epoch(epoch.name, "h3") is False
            await eventually(lambda: answers_reads(redis))
            assert not (await redis.read(claims(), None)).complete
            await notes.until(3)
            await replica.set("gateway:revoked:user:x", "1")
            await notes.until(4)
            assert notes.heard[2:] == ["tracking", "gateway:revoked:user:x"]
            await stream.close()
            await writer.close()
            await redis.close()

    async def test_an_unknown_service(self, tmp_path: Path, program: Path) -> None:
        async with sentinels(program, tmp_path) as (url, _, _):
            redis = RedisTier(url.replace("/main/", "/other/"))
            with pytest.raises(StoreUnavailable, match="no server knows where the primary is") as caught:
                await redis.ping()
            assert caught.value.detail.endswith(": was never told)")
            await redis.close()


@asynccontextmanager
async def cluster(program: Path, folder: Path, tls: Path | None = None) -> AsyncIterator[list[Client]]:
    """Run three nodes that share the slots; yields a client of each."""
    async with AsyncExitStack() as stack:
        nodes = []
        for number in range(3):
            home = folder / str(number)
            home.mkdir()
            options = ("--save", "", "--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
            start = running(program, home, unused_node_port(), *options, tls=tls)
            nodes.append(await stack.enter_async_context(start))
        for number, node in enumerate(nodes):
            slots = range(16384 * number // 3, 16384 * (number + 1) // 3)
            await say(node, "CLUSTER", "ADDSLOTS", *slots)
            await say(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in nodes[1:]:
            bus = bus_of((await node.info("server"))["tcp_port"])
            await say(nodes[0], "CLUSTER", "MEET", "127.0.0.1", port_of(node), bus)

        async def formed() -> bool:
            states = [await say(node, "CLUSTER", "INFO") for node in nodes]
            return all("cluster_state:ok" in str(state) for state in states)

        await until(formed)
        yield nodes


def port_of(node: Client) -> int:
    port = node.connection_pool.connection_kwargs["port"]
    assert isinstance(port, int)
    return port


class TestCluster:
    async def test_keys_move_to_another_node(self, tmp_path: Path, program: Path, tls: Path | None) -> None:
        async with cluster(program, tmp_path, tls) as nodes:
            slot = key_slot(TAGGED.encode())
            owner = 3 * slot // 16384
            source, target = nodes[owner], nodes[owner - 1]
            # The node that is asked first is not the one that has the keys.
            hosts = f"127.0.0.1:{port_of(target)},127.0.0.1:{port_of(source)}"
            url = located(f"redis+cluster://{hosts}", tls)
            await works(url, TAGGED)
            assert await source.exists(f"{TAGGED}tombstone:main:ann")

            redis, notes = RedisTier(url, prefix=TAGGED), Notes()
            # Of its own, for each connection learns of the move by itself.
            writer = RedisTier(url, prefix=TAGGED)
            stream = RedisStream(url, revoked(TAGGED), notes, writer.beat)
            stream.start()
            await notes.until(1)
            await redis.begin_epoch("h1")
            await redis.revoked.fill([], await redis.revoked.begin_filling())
            await move(slot, source, target)

            # Each connection learns of it once.
            await eventually(lambda: answers_reads(redis))
            with pytest.raises(StoreUnavailable, match="another server has taken over"):
                await redis.begin_epoch("h2")
            epoch = await redis.begin_epoch("h2")
            assert epoch.heartbeat == "h2"
            assert not (await redis.read(claims(), None)).complete
            await notes.until(3)
            # By its own connection, or by that of the heartbeat.
            assert str(notes.heard[1]).startswith("lost: ")
            await target.set(f"{TAGGED}revoked:user:x", "1")
            assert (await notes.until(4))[2:] == ["tracking", f"{TAGGED}revoked:user:x"]
            await stream.close()
            await writer.close()
            await redis.close()


async def answers_reads(redis: RedisTier) -> bool:
    try:
        await redis.read(claims(), None)
    except StoreUnavailable:
        return False
    return True


async def move(slot: int, source: Client, target: Client) -> None:
    """Move a slot with its keys, as `redis-cli --cluster reshard` does."""
    ids = [(await say(node, "CLUSTER", "MYID")).decode() for node in (source, target)]
    await say(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
    await say(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
    keys = await say(source, "CLUSTER", "GETKEYSINSLOT", slot, 1000)
    await say(source, "MIGRATE", "127.0.0.1", port_of(target), "", 0, 1000, "REPLACE", "KEYS", *keys)
    for node in (target, source):
        await say(node, "CLUSTER", "SETSLOT", slot, "NODE", ids[1])
