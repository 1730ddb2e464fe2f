"""Everything that clients and operators do, at a bounded rate and never twice the same, for a long time.

Memory would grow if the gateway remembered too much of these: unknown tokens of every kind, users that are
added and deleted, revocations that are lifted, connections that break, streams that clients leave.
"""

import asyncio
import json
import random
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests import tokens
from tests.consistency.world import ISSUER_NAME, PREFIX, Person, World
from tests.consistency.writers import ended
from tests.sockets import Exchange, RawUpstream, request_bytes
from tests.workers.program import Client, connected

_REQUESTS: Final = 50
"""Requests on one connection, until a client connects anew."""
_SENDERS: Final = 4
"""Clients with unknown tokens."""
_STREAM_PIECE: Final = b"5\r\nhello\r\n"
_HANDSHAKE: Final = (
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
_EXPECTED: Final = {
    "known": {200, 401},  # 401 while suspended or revoked
    "forged": {401},
    "unknown key": {401},
    "unknown user": {401},
}


@dataclass
class Load:
    """Clients and writers, and what they got. `unknown` distinct unknown tokens are spread over `seconds`."""

    world: World
    seconds: float
    unknown: int
    chance: random.Random
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Of what, with which status."""
    failures: Counter[str] = field(default_factory=Counter)
    """Connections that broke though nothing was done to them."""
    sent: int = 0
    """Unknown tokens so far, each another."""

    @property
    def unexpected(self) -> dict[tuple[str, int], int]:
        """What was answered otherwise than it must be, and how often."""
        return {
            (what, status): count
            for (what, status), count in self.answers.items()
            if status not in _EXPECTED.get(what, {200, 401})
        }

    async def run(self) -> None:
        """Go on until the time is over and every unknown token was sent, each at its time or later."""
        ends = time.monotonic() + self.seconds
        async with asyncio.TaskGroup() as group:
            unknown = [group.create_task(self._unknown(ends)) for _ in range(_SENDERS)]
            others = [
                group.create_task(self._again_and_again(act, pause))
                for act, pause, count in (
                    (self._known, 0.1, 4),
                    (self._comes_and_goes, 0.1, 2),
                    (self._leaves_a_stream, 0.5, 2),
                    (self._leaves_a_websocket, 0.5, 2),
                    (self._looks_at_metrics, 5.0, 1),
                )
                for _ in range(count)
            ]
            others += [group.create_task(self._again_and_again(act, 0.3)) for act in self._writers()]
            await asyncio.wait(unknown)
            await asyncio.sleep(max(0.0, ends - time.monotonic()))
            await ended(others)

    async def _again_and_again(self, act: Callable[[], Awaitable[None]], pause: float) -> None:
        while True:
            try:
                await act()
            except (
                OSError,
                TimeoutError,
                asyncpg.PostgresError,
                asyncpg.InterfaceError,
                RedisError,
            ) as error:
                self.failures[repr(error)] += 1
            await asyncio.sleep(self.chance.expovariate(1 / pause))

    # Clients ---------------------------------------------------------------------------------------------

    async def _unknown(self, ends: float) -> None:
        share = self.unknown // _SENDERS
        every = self.seconds / share
        began = ends - self.seconds
        done = 0
        while done < share:
            async with connected(self.world.program.url) as client:
                for _ in range(_REQUESTS):
                    await asyncio.sleep(max(0.0, began + done * every - time.monotonic()))
                    what, token = self._unknown_token()
                    await self._ask(client, what, request_bytes("GET", self._path(), token=token))
                    done += 1
                    if done == share:
                        return

    def _unknown_token(self) -> tuple[str, bytes]:
        """Make a token that no other is like, and say what is wrong with it."""
        self.sent += 1
        claims = tokens.claims(
            f"stranger-{self.sent}", lifetime=3600, jti=uuid.UUID(int=self.chance.getrandbits(128)).hex
        )
        match self.sent % 3:
            case 0:
                return "unknown user", tokens.sign(claims, tokens.ed25519_key("main-ed"))
            case 1:
                header = {"alg": "EdDSA", "typ": "JWT", "kid": "main-ed"}
                return "forged", tokens.unsigned(header, claims, self.chance.randbytes(64))
            case _:
                header = {"alg": "EdDSA", "typ": "JWT", "kid": f"kid-{self.sent}"}
                return "unknown key", tokens.unsigned(header, claims, self.chance.randbytes(64))

    async def _known(self) -> None:
        async with connected(self.world.program.url) as client:
            for _ in range(_REQUESTS):
                person = self.chance.choice(self.world.people)
                # Every fourth brings a token that is new.
                jti = uuid.uuid4().hex if self.chance.random() < 0.25 else person.jtis[0]
                await self._ask(
                    client, "known", request_bytes("GET", self._path(), token=_token(person, jti))
                )
                await asyncio.sleep(self.chance.expovariate(1 / 0.05))

    async def _ask(self, client: Client, what: str, request: bytes) -> None:
        await client.send(request)
        response = await client.answer()
        self.answers[what, response.status] += 1

    async def _comes_and_goes(self) -> None:
        """Connect, and leave in one of the ways in which clients do."""
        async with connected(self.world.program.url) as client:
            person = self.chance.choice(self.world.people)
            token = _token(person, person.jtis[1])
            match self.chance.randrange(5):
                case 0:
                    await self._ask(client, "known", request_bytes("GET", self._path(), token=token))
                case 1:  # in the middle of a head
                    await client.send(b"GET /" + self._path().encode() + b" HTTP/1.1\r\nHost: x\r\nX-")
                    _leave(client)
                case 2:  # in the middle of a body
                    request = request_bytes("POST", self._path(), b"Content-Length: 1000", token=token)
                    await client.send(request + b"x" * 100)
                    _leave(client)
                case 3:  # without waiting for the answer
                    await client.send(request_bytes("GET", self._path(), token=token))
                    _leave(client)
                case _:
                    await client.send(b"GET / HTTP/1.1\r\nno field\r\n\r\n")
                    await client.to_end()

    async def _leaves_a_stream(self) -> None:
        person = self.chance.choice(self.world.people)
        async with connected(self.world.program.url) as client:
            await client.send(request_bytes("GET", "/stream", token=_token(person, uuid.uuid4().hex)))
            with suppress(TimeoutError):
                async with asyncio.timeout(self.chance.uniform(0.2, 3)):
                    await client.to_end()
            _leave(client)

    async def _leaves_a_websocket(self) -> None:
        person = self.chance.choice(self.world.people)
        async with connected(self.world.program.url) as client:
            await client.send(
                request_bytes("GET", "/websocket", *_HANDSHAKE, token=_token(person, uuid.uuid4().hex))
            )
            await client.until(b"\r\n\r\n")
            for _ in range(self.chance.randrange(20)):
                # A masked text frame of five bytes.
                await client.send(b"\x81\x85\x00\x00\x00\x00hello")
                await asyncio.sleep(0.1)
            _leave(client)

    async def _looks_at_metrics(self) -> None:
        for path in ("/metrics", "/readyz"):
            async with connected(self.world.program.admin_url) as client:
                await client.get(path, b"Connection: close")

    def _path(self) -> str:
        return f"/{self.chance.getrandbits(64):x}"

    # Writers ---------------------------------------------------------------------------------------------

    def _writers(self) -> Iterator[Callable[[], Awaitable[None]]]:
        yield partial(self._in_postgres, self._changes_a_user)
        yield partial(self._in_postgres, self._has_a_user_come_and_go)
        yield partial(self._in_postgres, self._revokes_and_lifts)
        yield self._sets_and_deletes_a_key

    async def _in_postgres(
        self, act: Callable[["asyncpg.Connection[asyncpg.Record]"], Awaitable[None]]
    ) -> None:
        connection = await asyncpg.connect(self.world.dsn)
        try:
            for _ in range(_REQUESTS):
                await act(connection)
        finally:
            connection.terminate()

    async def _changes_a_user(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        person = self.chance.choice(self.world.people)
        for status in ("suspended", "active"):
            await connection.execute("UPDATE users SET status = $1 WHERE id = $2", status, person.id)
            await asyncio.sleep(0.1)

    async def _has_a_user_come_and_go(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        person = Person(f"guest-{uuid.uuid4()}")
        await connection.execute("INSERT INTO users (id, roles) VALUES ($1, '{guest}')", person.id)
        await connection.execute(
            "INSERT INTO identities VALUES ($1, $2, $3)", tokens.ISSUER, person.subject, person.id
        )
        async with connected(self.world.program.url) as client:
            for _ in range(2):
                await self._ask(
                    client, "guest", request_bytes("GET", self._path(), token=_token(person, person.jtis[0]))
                )
        await connection.execute("DELETE FROM users WHERE id = $1", person.id)
        await asyncio.sleep(0.1)

    async def _revokes_and_lifts(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        jti = uuid.uuid4().hex
        await connection.execute(
            "INSERT INTO revocations (kind, issuer, value, expires_at)"
            " VALUES ('jti', $1, $2, now() + '1 hour')",
            ISSUER_NAME, jti,
        )  # fmt: skip
        person = self.chance.choice(self.world.people)
        async with connected(self.world.program.url) as client:
            await self._ask(client, "revoked", request_bytes("GET", self._path(), token=_token(person, jti)))
        await connection.execute("DELETE FROM revocations WHERE value = $1", jti)
        await asyncio.sleep(0.1)

    async def _sets_and_deletes_a_key(self) -> None:
        async with Redis.from_url(self.world.redis.url) as client:
            for _ in range(_REQUESTS):
                jti = uuid.uuid4().hex
                key = f"{PREFIX}revoked:jti:{ISSUER_NAME}:{jti}"
                await client.set(key, "1", ex=3600)
                person = self.chance.choice(self.world.people)
                async with connected(self.world.program.url) as asking:
                    await self._ask(
                        asking, "revoked", request_bytes("GET", self._path(), token=_token(person, jti))
                    )
                await client.delete(key)
                await asyncio.sleep(0.1)


def _leave(client: Client) -> None:
    """Break the connection, unless the gateway was faster."""
    with suppress(OSError):
        client.reset()


def _token(person: Person, jti: str) -> bytes:
    """Sign a token that is good for an hour; the same one for the same `jti` within ten minutes."""
    issued = time.time() // 600 * 600
    claims = tokens.claims(person.subject, now=issued, lifetime=4200, jti=jti)
    return tokens.sign(claims, tokens.ed25519_key("main-ed"))


async def answer(upstream: RawUpstream, exchange: Exchange) -> None:
    """Answer as the path asks: at once, without an end, or as a WebSocket that echoes."""
    # Hours of them are more than is to be kept.
    upstream.requests.clear()
    upstream.wires.clear()
    for wire in [wire for wire, task in upstream._serving.items() if task.done()]:
        wire.writer.close()
        del upstream._serving[wire]
    match exchange.request.target:
        case b"/stream":
            await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                await exchange.send(_STREAM_PIECE)
                await asyncio.sleep(0.1)
        case b"/websocket":
            await exchange.send(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
            )
            while await exchange.wire.more():
                exchange.wire.raw.clear()
                await exchange.send(b"\x81\x05hello")
            await exchange.wire.close()
        case _:
            await exchange.read_body()
            exchange.wire.raw.clear()
            body = json.dumps({"target": exchange.request.target.decode()}).encode()
            await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


async def cached(world: World) -> str:
    """Return what the gateway counts of what it holds, of all workers together."""
    names = (
        "gateway_cache_entries",
        "gateway_client_connections",
        "gateway_tunnels",
        "gateway_in_flight_requests",
    )
    return ", ".join(
        [f"{name.removeprefix('gateway_')} {await world.program.metric(name):.0f}" for name in names]
    )


def summary(load: Load) -> Sequence[str]:
    lines = [f"{count:9} × {status} {what}" for (what, status), count in sorted(load.answers.items())]
    return [*lines, *(f"{count:9} × {error}" for error, count in load.failures.items())]
