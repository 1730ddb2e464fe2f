"""The world of a run: Postgres, Redis, the links to them, an upstream, and `gateway run` with two workers."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import asyncpg
from redis.asyncio import Redis

from gateway.core.model import JSON
from gateway.demo.embedded import EmbeddedPostgres, EmbeddedRedis, _free_port
from gateway.stores.postgres.migrate import migrate
from gateway.stores.postgres.source.install import install
from tests import tokens
from tests.consistency.history import History
from tests.consistency.hosts import Host, Peer
from tests.consistency.tables import Tables, own_tables, source_tables
from tests.consistency.wires import PostgresTap, RedisTap, Wire
from tests.sockets import Exchange, RawUpstream
from tests.stores.cable import Cable
from tests.systems.sources import source_of
from tests.workers.program import Program, running

ISSUER_NAME: Final = "main"
PREFIX: Final = "gateway:"
STARTING: Final = 60.0
"""Seconds until a gateway must serve: the machine has more to do."""
ERRORS: Final[Mapping[str, JSON]] = {"detail": "full"}
OWN: Final = own_tables(tokens.ISSUER)
SOURCE: Final = source_tables(tokens.ISSUER)
ROUTES: Final[list[JSON]] = [{"name": "all", "match": {"path": "/**"}, "upstream": "raw"}]
ENVIRONMENT: Final = {
    "PYTHONPATH": str(Path(__file__).parents[2]),
    # The link is in this process, and busy; a Redis that is slow is taken for one that is away.
    "GATEWAY_REDIS__TIMEOUT": "1s",
}


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
    postgres_link: Wire
    redis_link: Wire
    upstream: RawUpstream
    folder: Path
    dsn: str
    program: Program
    people: Sequence[Person]
    history: History
    host: Host | None
    """Where the gateway runs; None: where the stores do."""
    module: str
    """What Python runs for the gateway."""
    env: Mapping[str, str]
    tables: Tables
    """Where the users are."""
    neighbours: list[History] = field(default_factory=list)
    """What befell other gateways on the same Redis."""
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
    host: Host | None = None,
    module: str = "gateway",
    env: Mapping[str, str] | None = None,
    patience: float = STARTING,
    script: Callable[[RawUpstream, Exchange], Awaitable[None]] | None = None,
    tables: Tables = OWN,
    **changes: Mapping[str, JSON] | list[JSON],
) -> AsyncIterator[World]:
    """Run a gateway on a new database and an empty Redis; `module` is what Python runs for it.

    `script` is what the upstream answers, by default the user that the gateway told of.
    """
    dsn = await new_database(postgres.dsn)
    await migrate(dsn)
    await settle(dsn, people, tables)
    if tables.source is not None:
        issuers: list[JSON] = [{"name": ISSUER_NAME, "issuer": tokens.ISSUER, "audiences": ["api"]}]
        await install(dsn, source_of(tables.source, issuers=issuers), {ISSUER_NAME: tokens.ISSUER})
        changes = {**changes, "users": {"source": dict(tables.source)}}
    async with Redis.from_url(redis.url) as client:
        await client.flushall()
    history = History(seed, {jti: str(person.id) for person in people for jti in person.jtis})
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(RawUpstream())
        upstream.behave(partial(script or _tell_who, upstream))
        # Ports like those of the stores, which the system assigns to no other program.
        postgres_link = Wire(dsn, _free_port(), PostgresTap, host=_address(host, "postgres"))
        redis_link = Wire(redis.url, _free_port(), RedisTap, host=_address(host, "redis"))
        for link in (postgres_link, redis_link):
            await stack.enter_async_context(link)
        environment = {**ENVIRONMENT, **(env or {})}
        upstream_url, listen = upstream.url, "127.0.0.1:0"
        if host is not None:
            relay = Cable(upstream.url, host=host.address_of("clients"))
            upstream_url, listen = (await stack.enter_async_context(relay)).url, f"{host.address}:0"
        program = await stack.enter_async_context(
            running(
                folder,
                upstream,
                postgres_link.url,
                redis_link.url,
                module=module,
                within=() if host is None else host.within,
                env=environment,
                patience=patience,
                server={"listen": listen},
                admin={"listen": listen},
                upstreams={"raw": {"urls": [upstream_url]}},
                errors=ERRORS,
                routes=ROUTES,
                **changes,
            )
        )
        yield World(
            postgres, redis, postgres_link, redis_link, upstream, folder, dsn, program, people, history,
            host, module, environment, tables,
        )  # fmt: skip


def _address(host: Host | None, peer: Peer) -> str:
    return "127.0.0.1" if host is None else host.address_of(peer)


async def _tell_who(upstream: RawUpstream, exchange: Exchange) -> None:
    """Answer with the user that the gateway told of."""
    # An hour of requests is more than is to be kept.
    upstream.requests.clear()
    (user,) = exchange.request.values(b"x-user-id")
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(user), user))


async def new_database(maintenance: str) -> str:
    """Make an empty database on a server; returns how to reach it."""
    name = f"consistency_{uuid.uuid4().hex}"
    await _execute(maintenance, f'CREATE DATABASE "{name}"')
    return urlsplit(maintenance)._replace(path=f"/{name}").geturl()


async def drop_database(maintenance: str, dsn: str) -> None:
    name = urlsplit(dsn).path.removeprefix("/")
    await _execute(maintenance, f'DROP DATABASE "{name}" WITH (FORCE)')


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def settle(dsn: str, people: Sequence[Person], tables: Tables = OWN) -> None:
    """Have all people be users, active and with nothing against them."""
    connection = await asyncpg.connect(dsn)
    try:
        if tables.create:
            await connection.execute(tables.create)
        await connection.executemany(tables.add, [(each.id,) for each in people])
        await connection.executemany(
            tables.link,
            [(tokens.ISSUER, each.subject, each.id) for each in people],
        )
    finally:
        await connection.close()
