"""The world of a run: Postgres, Redis, the links to them, an upstream, and `gateway run` with two workers."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import asyncpg
from redis.asyncio import Redis

from gateway.backends.migrate import migrate
from gateway.core.model import JSON
from gateway.demo.embedded import EmbeddedPostgres, EmbeddedRedis, _free_port
from tests import tokens
from tests.backends.cable import Cable
from tests.consistency.history import History
from tests.sockets import Exchange, RawUpstream
from tests.workers.program import Program, running

ISSUER_NAME: Final = "main"
PREFIX: Final = "gateway:"
_ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Person:
    """A user with two tokens. What is about one of them leaves the other as it was."""

    subject: str
    id: uuid.UUID = field(default_factory=uuid.uuid4)

    @property
    def jtis(self) -> tuple[str, str]:
        return f"{self.subject}-1", f"{self.subject}-2"


def signed(person: Person, jti: str) -> bytes:
    """Return the token, issued a minute ago and good for a day."""
    claims = tokens.claims(person.subject, now=time.time() - 60, lifetime=86_400, jti=jti)
    return tokens.sign(claims, tokens.rsa_key("main"))


@dataclass(slots=True)
class World:
    """Everything that a run touches. Writers go to the stores by themselves, the gateway by the links."""

    postgres: EmbeddedPostgres
    redis: EmbeddedRedis
    postgres_link: Cable
    redis_link: Cable
    dsn: str
    program: Program
    people: Sequence[Person]
    history: History
    redis_turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while keys are written or lost, so that it is known which came first."""


@asynccontextmanager
async def open_world(
    folder: Path,
    postgres: EmbeddedPostgres,
    redis: EmbeddedRedis,
    people: Sequence[Person],
    *,
    seed: str,
    broken: str | None = None,
) -> AsyncIterator[World]:
    """Run a gateway on a new database and an empty Redis. `broken` names a rule that it shall break."""
    dsn = await _new_database(postgres.dsn)
    await migrate(dsn)
    await _settle(dsn, people)
    async with Redis.from_url(redis.url) as client:
        await client.flushall()
    history = History(seed, {jti: str(person.id) for person in people for jti in person.jtis})
    # The ports of the stores' kind, which nobody is given while nobody listens on them.
    links = Cable(dsn, _free_port()), Cable(redis.url, _free_port())
    async with RawUpstream() as upstream, links[0] as postgres_link, links[1] as redis_link:
        upstream.behave(_tell_who)
        routes: list[JSON] = [{"name": "all", "match": {"path": "/**"}, "upstream": "raw"}]
        async with running(
            folder,
            upstream,
            postgres_link.url,
            redis_link.url,
            module="gateway" if broken is None else "tests.consistency.broken",
            env={
                "PYTHONPATH": str(_ROOT),
                # The link is in this process, and busy; a Redis that is slow is taken for one that is away.
                "GATEWAY_REDIS__TIMEOUT": "1s",
                **({} if broken is None else {"BREAK_RULE": broken}),
            },
            errors={"detail": "full"},
            routes=routes,
        ) as program:
            upstream.requests.clear()
            yield World(postgres, redis, postgres_link, redis_link, dsn, program, people, history)


async def _tell_who(exchange: Exchange) -> None:
    """Answer with the user that the gateway told of."""
    (user,) = exchange.request.values(b"x-user-id")
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(user), user))


async def _new_database(maintenance: str) -> str:
    name = f"consistency_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(maintenance)
    try:
        await connection.execute(f'CREATE DATABASE "{name}"')
    finally:
        await connection.close()
    return urlsplit(maintenance)._replace(path=f"/{name}").geturl()


async def _settle(dsn: str, people: Sequence[Person]) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.executemany("INSERT INTO users (id) VALUES ($1)", [(each.id,) for each in people])
        await connection.executemany(
            "INSERT INTO identities (issuer, subject, user_id) VALUES ($1, $2, $3)",
            [(tokens.ISSUER, each.subject, each.id) for each in people],
        )
    finally:
        await connection.close()
