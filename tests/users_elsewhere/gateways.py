"""Gateways whose users are in a source: with several workers, or in the test's own process."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg
import orjson

from gateway.core.model import JSON
from gateway.stores.postgres.source.install import install
from tests import tokens
from tests.harness import SECOND_ISSUER, House, open_house
from tests.sockets import RawUpstream, Response, request_bytes
from tests.systems.sources import source_of
from tests.workers.program import Client, Program, connect, eventually, running

OWN_SCHEMA: Final = "gateway_own"
"""Where the gateway's own tables are: a source may have a table `users` in `public`.

Not `gateway`: that is the role of the tests, and Postgres looks into a schema of a role's name first.
"""
ISSUERS: Final = {"main": tokens.ISSUER, "second": SECOND_ISSUER}
CLIENTS: Final = 12
"""Connections. That all of them lead to one of two workers happens once in 2,000 runs."""
SLOW: Final[Mapping[str, JSON]] = {"local_ttl": "10m", "user_ttl": "10m", "negative_ttl": "10m"}
"""A cache that forgets nothing in time: what is known of a change has been reported."""
IDENTITY: Final[Mapping[str, JSON]] = {
    "X-User-Id": "user.id",
    "X-User-Email": "user.email",
    "X-User-Roles": "user.roles",
}
ROUTES: Final[list[JSON]] = [
    {"name": "private", "match": {"path": "/private/**"}, "upstream": "raw"},
    {
        "name": "editors",
        "match": {"path": "/editors/**"},
        "upstream": "raw",
        "require": {"roles": ["editor"]},
    },
]


def token(subject: str, issuer: str = tokens.ISSUER, key: str = "main") -> bytes:
    """Return a token that was issued a minute ago, so that a miss is remembered as long as configured."""
    claims = tokens.claims(subject, now=time.time() - 60, lifetime=3600, iss=issuer, jti=uuid.uuid4().hex)
    return tokens.sign(claims, tokens.rsa_key(key))


@dataclass
class Crowd:
    """Connections to all workers of a gateway."""

    url: str
    clients: list[Client] = field(default_factory=list)

    async def ask(self, bearer: bytes, target: str = "/private/x") -> list[Response]:
        """Send a request on each connection."""
        request = request_bytes("GET", target, token=bearer)

        async def one(client: Client) -> Response:
            await client.send(request)
            return await client.answer()

        return await asyncio.gather(*map(one, self.clients))

    async def outcomes(self, bearer: bytes, target: str = "/private/x") -> set[object]:
        """Return the different outcomes: 200, or the code of a denial."""
        return {outcome(response) for response in await self.ask(bearer, target)}

    async def agree(self, expected: object, bearer: bytes, target: str = "/private/x") -> None:
        """Wait until every worker has this outcome, and make sure that it stays so."""

        async def agreed() -> bool:
            return await self.outcomes(bearer, target) == {expected}

        try:
            await eventually(agreed)
        except TimeoutError as error:
            found = await self.outcomes(bearer, target)
            raise AssertionError(f"expected {expected}, found {found}") from error
        for _ in range(3):
            assert await self.outcomes(bearer, target) == {expected}


def outcome(response: Response) -> object:
    return response.status if response.status < 400 else response.code


@asynccontextmanager
async def crowd(url: str, count: int = CLIENTS) -> AsyncIterator[Crowd]:
    async with AsyncExitStack() as stack:
        found = Crowd(url)
        for _ in range(count):
            client = await connect(url)
            stack.push_async_callback(client.close)
            found.clients.append(client)
        yield found


@asynccontextmanager
async def reports(dsn: str) -> AsyncIterator[list[dict[str, Any]]]:
    """Collect what the triggers report until the end."""
    found: list[dict[str, Any]] = []
    heard = asyncio.Event()

    def hear(_: object, __: int, ___: str, payload: object) -> None:
        if payload == "the end":
            heard.set()
        else:
            found.append(orjson.loads(str(payload)))

    connection = await asyncpg.connect(dsn)
    try:
        await connection.add_listener("gateway_changes", hear)
        yield found
        await connection.execute("NOTIFY gateway_changes, 'the end'")
        await asyncio.wait_for(heard.wait(), 10)
    finally:
        await connection.close()


async def install_triggers(dsn: str, block: Mapping[str, Any]) -> bool:
    """Install a source's triggers, as `gateway migrate` does; tell whether anything was changed."""
    issuers: list[JSON] = [
        {"name": name, "issuer": iss, "audiences": ["api"]} for name, iss in ISSUERS.items()
    ]
    return await install(dsn, source_of(block, issuers=issuers), ISSUERS)


@asynccontextmanager
async def two_workers(
    folder: Path,
    upstream: RawUpstream,
    dsn: str,
    redis_url: str,
    block: Mapping[str, Any],
    **changes: Mapping[str, JSON],
) -> AsyncIterator[tuple[Program, Crowd]]:
    """Run `gateway run`; enter the context once every worker trusts its memory."""
    sections: dict[str, Any] = {
        "postgres": {"schema": OWN_SCHEMA},
        "users": {"source": dict(block)},
        "cache": dict(SLOW),
        "errors": {"detail": "full"},
        "headers": {"identity": dict(IDENTITY)},
        "routes": ROUTES,
        **changes,
    }
    async with running(folder, upstream, dsn, redis_url, **sections) as program:

        async def ready() -> bool:
            status, _ = await program.readyz()
            return status == 200 and len(program.events("local_tier_trusted")) >= len(program.workers())

        await eventually(ready)
        async with crowd(program.url) as clients:
            yield program, clients


@asynccontextmanager
async def one_process(
    folder: Path, dsn: str, redis_url: str, block: Mapping[str, Any], **changes: Mapping[str, JSON]
) -> AsyncIterator[tuple[House, Crowd]]:
    """Run a gateway in this event loop, with the issuers of `tests.harness`, and hear of changes."""
    sections: dict[str, Any] = {
        "postgres": {"schema": OWN_SCHEMA},
        "users": {"source": dict(block)},
        "cache": dict(SLOW),
        "headers": {"identity": dict(IDENTITY)},
    }
    for name, change in changes.items():
        sections[name] = {**sections.get(name, {}), **change}
    async with open_house(folder, dsn, redis_url, seeded=False, routes=ROUTES, **sections) as house:
        await house.ready()
        async with crowd(house.url, 2) as clients:
            yield house, clients


async def in_memory(house: House, clients: Crowd, bearer: bytes) -> None:
    """Wait until a token is answered from memory."""

    async def answered() -> bool:
        before = await _from_memory(house)
        await clients.ask(bearer)
        return await _from_memory(house) > before

    await eventually(answered)


async def _from_memory(house: House) -> float:
    return sum(
        value
        for (name, labels), value in (await house.metrics()).items()
        if name == "gateway_user_lookups_total" and ("tier", "local") in labels
    )
